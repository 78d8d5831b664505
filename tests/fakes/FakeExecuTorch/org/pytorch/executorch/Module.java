// Stands for ExecuTorch's module of Android: what the source of a package uses of it, over ExecuTorch for Python in a
// process of its own.

package org.pytorch.executorch;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;

public class Module {
  public static final int LOAD_MODE_MMAP = 1;

  private final String path;
  private final int threads;

  private Module(String path, int threads) {
    this.path = path;
    this.threads = threads;
  }

  public static Module load(String modelPath, int loadMode, int numThreads) {
    if (!new java.io.File(modelPath).isFile() || loadMode != LOAD_MODE_MMAP) throw new IllegalArgumentException(modelPath);
    return new Module(modelPath, numThreads);
  }

  public EValue[] forward(EValue... inputs) {
    try {
      Path folder = Files.createTempDirectory("fake-executorch");
      List<String> command = new ArrayList<>(List.of(System.getProperty("python"), System.getProperty("bridge")));
      command.addAll(List.of(path, folder.toString(), Integer.toString(threads)));
      for (int i = 0; i < inputs.length; i++) {
        Files.write(folder.resolve("input-" + i), inputs[i].toTensor().bytes());
        command.add(inputs[i].toTensor().describe());
      }
      Process process = new ProcessBuilder(command).inheritIO().start();
      if (process.waitFor() != 0) throw new IllegalStateException("ExecuTorch failed");
      List<EValue> found = new ArrayList<>();
      for (int i = 0; Files.exists(folder.resolve("output-" + i)); i++) {
        found.add(EValue.from(Tensor.of(Files.readAllBytes(folder.resolve("output-" + i)))));
      }
      return found.toArray(new EValue[0]);
    } catch (IOException | InterruptedException error) {
      throw new IllegalStateException(error);
    }
  }

  public void destroy() {}
}
