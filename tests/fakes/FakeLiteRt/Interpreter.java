// Stands for LiteRT's interpreter of Java, which there is on Android only: what the sources of a package use of it, over
// LiteRT for Python in a process of its own.

package org.tensorflow.lite;

import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;

public final class Interpreter implements AutoCloseable {
  public static final class Options {
    private int threads = -1;

    public Options setNumThreads(int threads) {
      this.threads = threads;
      return this;
    }
  }

  private final Path folder;
  private final int threads;

  public Interpreter(ByteBuffer model, Options options) {
    demand(model.isDirect(), "Model ByteBuffer should be either a MappedByteBuffer of the model file, or a direct ByteBuffer");
    demand(options.threads > 0, "setNumThreads was not called");
    threads = options.threads;
    try {
      folder = Files.createTempDirectory("fake-litert");
      write("model.tflite", model);
    } catch (IOException error) {
      throw new IllegalStateException(error);
    }
  }

  public void runSignature(Map<String, Object> inputs, Map<String, Object> outputs) {
    try {
      List<String> command = new ArrayList<>(List.of(System.getProperty("python"), System.getProperty("bridge")));
      command.addAll(List.of(folder.toString(), Integer.toString(threads)));
      for (Map.Entry<String, Object> input : inputs.entrySet()) {
        write("input-" + input.getKey(), checked(input.getValue()));
        command.add(input.getKey());
      }
      Process process = new ProcessBuilder(command).inheritIO().start();
      demand(process.waitFor() == 0, "LiteRT failed");
      for (Map.Entry<String, Object> output : outputs.entrySet()) {
        // As the real one: from where the buffer stands, and it stands behind what was written.
        checked(output.getValue()).put(Files.readAllBytes(folder.resolve("output-" + output.getKey())));
      }
    } catch (IOException | InterruptedException error) {
      throw new IllegalStateException(error);
    }
  }

  @Override
  public void close() {}

  private ByteBuffer checked(Object value) {
    ByteBuffer buffer = (ByteBuffer) value;
    demand(buffer.isDirect() && buffer.order() == ByteOrder.nativeOrder(), "a direct buffer of native order is needed");
    demand(buffer.position() == 0, "the buffer does not stand at its begin");
    return buffer;
  }

  private void write(String name, ByteBuffer buffer) throws IOException {
    byte[] content = new byte[buffer.remaining()];
    buffer.duplicate().get(content);
    Files.write(folder.resolve(name), content);
  }

  private static void demand(boolean holds, String message) {
    if (!holds) throw new IllegalArgumentException(message);
  }
}
