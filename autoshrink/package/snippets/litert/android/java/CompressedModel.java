// Runs the compiled model of this package with LiteRT's Interpreter, on the processor. See README.md.

import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.tensorflow.lite.Interpreter;

public final class CompressedModel implements AutoCloseable {
  /** An input or output of one call, as the model takes or gives it: numbers of this type in this shape. */
  public static final class Port {
    public final String name;
    public final String type;
    public final int[] shape;
    final int[] sampleShape;

    Port(String name, String type, int[] shape, int[] sampleShape) {
      this.name = name;
      this.type = type;
      this.shape = shape;
      this.sampleShape = sampleShape;
    }

    public int elements() {
      int product = 1;
      for (int size : shape) product *= size;
      return product;
    }

    public int bytes() {
      return elements() * width(type);
    }
  }

  /** Files of this package: on Android `assets::open`, where the package's folders were copied to the assets. */
  public interface Files {
    InputStream open(String name) throws IOException;
  }

  public static final Port[] INPUTS = {
    // @each inputs
    new Port("@{name}", "@{dtype}", new int[] {@{file_shape}}, new int[] {@{shape}}),
    // @end
  };
  public static final Port[] OUTPUTS = {
    // @each outputs
    new Port("@{name}", "@{dtype}", new int[] {@{file_shape}}, new int[] {@{shape}}),
    // @end
  };
  public static final int BATCH = @{batch};
  private static final int THREADS = @{threads};
  private static final String MODEL = "@{model}";
  private static final boolean RECORDED = @{recorded};
  /** Decibel; processors round differently, not more than that. */
  private static final double AGREEMENT = 30;

  private final Interpreter interpreter;

  /** The model of the package. */
  public CompressedModel(Files files) throws IOException {
    this(direct(read(files, MODEL)));
  }

  /** A model whose bytes are in a direct or mapped buffer, which must not change while it is used. */
  public CompressedModel(ByteBuffer model) {
    Interpreter.Options options = new Interpreter.Options();
    options.setNumThreads(THREADS);
    interpreter = new Interpreter(model, options);
  }

  /** A buffer for a whole input: fill it with `asFloatBuffer()` and the like, in the order of `Port.shape`. */
  public static ByteBuffer buffer(Port port) {
    return ByteBuffer.allocateDirect(port.bytes()).order(ByteOrder.nativeOrder());
  }

  /** One call: the buffer of each input by name in, of each output by name out. */
  public Map<String, ByteBuffer> run(Map<String, ByteBuffer> inputs) {
    Map<String, Object> given = new LinkedHashMap<>();
    for (Port port : INPUTS) {
      ByteBuffer buffer = inputs.get(port.name);
      if (buffer == null || buffer.capacity() != port.bytes()) {
        throw new IllegalArgumentException("input " + port.name + " must be a buffer of " + port.bytes() + " bytes");
      }
      buffer.rewind();
      given.put(port.name, buffer);
    }
    Map<String, ByteBuffer> results = new LinkedHashMap<>();
    for (Port port : OUTPUTS) results.put(port.name, buffer(port));
    interpreter.runSignature(given, new LinkedHashMap<String, Object>(results));
    for (ByteBuffer result : results.values()) result.rewind();
    return results;
  }

  /** Runs the samples of the package; a line for each output, the first of them `true` when all agree. */
  public String check(Files files) throws IOException {
    Map<String, Npy> samples = new LinkedHashMap<>();
    for (Port port : INPUTS) samples.put(port.name, new Npy(read(files, "samples/inputs/" + port.name + ".npy")));
    int count = samples.get(INPUTS[0].name).rows;
    Map<String, double[]> found = new LinkedHashMap<>();
    for (Port port : OUTPUTS) found.put(port.name, new double[count * (port.elements() / BATCH)]);
    for (int first = 0; first < count; first += BATCH) {
      Map<String, ByteBuffer> inputs = new LinkedHashMap<>();
      for (Port port : INPUTS) inputs.put(port.name, samples.get(port.name).rowsFrom(first, port));
      Map<String, ByteBuffer> outputs = run(inputs);
      for (Port port : OUTPUTS) {
        int size = port.elements() / BATCH;
        int rows = Math.min(BATCH, count - first);
        for (int i = 0; i < rows * size; i++) {
          found.get(port.name)[first * size + i] = number(outputs.get(port.name), i, port.type);
        }
      }
    }
    StringBuilder said = new StringBuilder();
    boolean ok = true;
    for (Port port : OUTPUTS) {
      String folder = RECORDED ? "samples/outputs/" : "samples/float/";
      double decibel = new Npy(read(files, folder + port.name + ".npy")).agreement(found.get(port.name));
      ok = ok && (RECORDED ? decibel >= AGREEMENT : !Double.isNaN(decibel));
      String against = RECORDED ? "the recorded outputs" : "the float model, before its compression";
      said.append("\n").append(port.name).append(": within ").append(decibel).append(" dB of ").append(against);
    }
    return ok + said.toString();
  }

  @Override
  public void close() {
    interpreter.close();
  }

  private static byte[] read(Files files, String name) throws IOException {
    try (InputStream stream = files.open(name)) {
      ByteArrayOutputStream content = new ByteArrayOutputStream();
      byte[] block = new byte[65536];
      for (int length = stream.read(block); length >= 0; length = stream.read(block)) content.write(block, 0, length);
      return content.toByteArray();
    }
  }

  private static ByteBuffer direct(byte[] content) {
    ByteBuffer buffer = ByteBuffer.allocateDirect(content.length).order(ByteOrder.nativeOrder());
    buffer.put(content);
    buffer.rewind();
    return buffer;
  }

  private static int width(String type) {
    switch (type) {
      case "bool":
      case "int8":
      case "uint8":
        return 1;
      case "int16":
      case "float16":
        return 2;
      case "int32":
      case "float32":
        return 4;
      case "int64":
      case "float64":
        return 8;
      default:
        throw new IllegalArgumentException("arrays of " + type + " are not known here");
    }
  }

  private static double number(ByteBuffer buffer, int index, String type) {
    switch (type) {
      case "bool":
      case "uint8":
        return buffer.get(index) & 0xff;
      case "int8":
        return buffer.get(index);
      case "int16":
        return buffer.getShort(2 * index);
      case "int32":
        return buffer.getInt(4 * index);
      case "int64":
        return buffer.getLong(8 * index);
      case "float32":
        return buffer.getFloat(4 * index);
      case "float64":
        return buffer.getDouble(8 * index);
      default:
        throw new IllegalArgumentException("numbers of " + type + " are not known here");
    }
  }

  /** An array that numpy saved, with the samples in its first dimension. */
  private static final class Npy {
    private static final String[][] TYPES = {
      {"<f4", "float32"}, {"<f8", "float64"}, {"<f2", "float16"}, {"|i1", "int8"}, {"|u1", "uint8"}, {"<i2", "int16"},
      {"<i4", "int32"}, {"<i8", "int64"}, {"|b1", "bool"},
    };

    final int rows;
    private final ByteBuffer content;
    private final int begin;
    private final String type;

    Npy(byte[] file) {
      content = ByteBuffer.wrap(file).order(ByteOrder.LITTLE_ENDIAN);
      boolean isLong = file.length > 12 && file[6] > 1;
      int length = isLong ? content.getInt(8) : content.getShort(8) & 0xffff;
      int from = isLong ? 12 : 10;
      begin = from + length;
      String header = new String(file, from, length, StandardCharsets.ISO_8859_1);
      Matcher kind = Pattern.compile("'descr':\\s*'([^']+)'").matcher(header);
      Matcher sizes = Pattern.compile("'shape':\\s*\\((\\d+)").matcher(header);
      if (!kind.find() || !sizes.find() || header.contains("'fortran_order': True")) {
        throw new IllegalArgumentException("cannot read an array of " + header.trim());
      }
      String known = null;
      for (String[] pair : TYPES) if (pair[0].equals(kind.group(1))) known = pair[1];
      if (known == null) throw new IllegalArgumentException("cannot read an array of " + header.trim());
      type = known;
      rows = Integer.parseInt(sizes.group(1));
    }

    /** The batch that begins with a row, as the model takes it; filled up with the last row. */
    ByteBuffer rowsFrom(int first, Port port) {
      int width = width(type);
      int size = port.elements() / BATCH;
      int[] places = places(port);
      ByteBuffer batch = buffer(port);
      for (int row = 0; row < BATCH; row++) {
        int from = begin + Math.min(first + row, rows - 1) * size * width;
        for (int i = 0; i < size; i++) {
          for (int b = 0; b < width; b++) {
            batch.put((row * size + places[i]) * width + b, content.get(from + i * width + b));
          }
        }
      }
      return batch;
    }

    /** Where each element of a sample stands in the model's own order: the same, or with the channels last. */
    private static int[] places(Port port) {
      int size = port.elements() / BATCH;
      int[] places = new int[size];
      boolean same = java.util.Arrays.equals(port.shape, port.sampleShape);
      for (int i = 0; i < size; i++) {
        int area = same ? 1 : port.sampleShape[2] * port.sampleShape[3];
        places[i] = same ? i : i % area * port.sampleShape[1] + i / area;
      }
      return places;
    }

    /** Signal to noise against this, decibel; infinite when they are equal, NaN when they hold no numbers. */
    double agreement(double[] found) {
      double signal = 0;
      double noise = 0;
      ByteBuffer values = content.duplicate().order(ByteOrder.LITTLE_ENDIAN);
      values.position(begin);
      values = values.slice().order(ByteOrder.LITTLE_ENDIAN);
      for (int i = 0; i < found.length; i++) {
        double wanted = number(values, i, type);
        signal += wanted * wanted;
        noise += (wanted - found[i]) * (wanted - found[i]);
      }
      return noise == 0 ? Double.POSITIVE_INFINITY : 10 * Math.log10(signal / noise);
    }
  }
}
