// Stands for ExecuTorch's, and demands of buffers what that one does.

package org.pytorch.executorch;

import java.nio.Buffer;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.DoubleBuffer;
import java.nio.FloatBuffer;
import java.nio.IntBuffer;
import java.nio.LongBuffer;
import java.util.Arrays;

public final class Tensor {
  private final byte[] bytes;
  private final String description;

  private Tensor(byte[] bytes, String description) {
    this.bytes = bytes;
    this.description = description;
  }

  static Tensor of(byte[] bytes) {
    return new Tensor(bytes, "");
  }

  public static Tensor fromBlob(FloatBuffer data, long[] shape) {
    ByteBuffer copy = checked(data, data.isDirect(), data.order(), shape, 4);
    copy.asFloatBuffer().put(data);
    return new Tensor(copy.array(), "float32:" + Arrays.toString(shape));
  }

  public static Tensor fromBlob(DoubleBuffer data, long[] shape) {
    ByteBuffer copy = checked(data, data.isDirect(), data.order(), shape, 8);
    copy.asDoubleBuffer().put(data);
    return new Tensor(copy.array(), "float64:" + Arrays.toString(shape));
  }

  public static Tensor fromBlob(IntBuffer data, long[] shape) {
    ByteBuffer copy = checked(data, data.isDirect(), data.order(), shape, 4);
    copy.asIntBuffer().put(data);
    return new Tensor(copy.array(), "int32:" + Arrays.toString(shape));
  }

  public static Tensor fromBlob(LongBuffer data, long[] shape) {
    ByteBuffer copy = checked(data, data.isDirect(), data.order(), shape, 8);
    copy.asLongBuffer().put(data);
    return new Tensor(copy.array(), "int64:" + Arrays.toString(shape));
  }

  public static Tensor fromBlob(ByteBuffer data, long[] shape) {
    return new Tensor(checked(data, data.isDirect(), data.order(), shape, 1).put(data).array(), "int8:" + Arrays.toString(shape));
  }

  public static Tensor fromBlobUnsigned(ByteBuffer data, long[] shape) {
    return new Tensor(checked(data, data.isDirect(), data.order(), shape, 1).put(data).array(), "uint8:" + Arrays.toString(shape));
  }

  public float[] getDataAsFloatArray() {
    float[] found = new float[bytes.length / 4];
    ByteBuffer.wrap(bytes).order(ByteOrder.nativeOrder()).asFloatBuffer().get(found);
    return found;
  }

  public long[] getDataAsLongArray() {
    long[] found = new long[bytes.length / 8];
    ByteBuffer.wrap(bytes).order(ByteOrder.nativeOrder()).asLongBuffer().get(found);
    return found;
  }

  byte[] bytes() {
    return bytes;
  }

  String describe() {
    return description;
  }

  private static ByteBuffer checked(Buffer data, boolean direct, ByteOrder order, long[] shape, int width) {
    long count = Arrays.stream(shape).reduce(1, (product, size) -> product * size);
    if (!direct || order != ByteOrder.nativeOrder()) throw new IllegalArgumentException("a direct buffer of native order");
    if (data.remaining() != count) throw new IllegalArgumentException("inconsistent capacity and shape");
    return ByteBuffer.allocate((int) count * width).order(ByteOrder.nativeOrder());
  }
}
