// Stands for TensorFlow Lite Micro in C++: what the program of a package uses of it, over TFLM for Python in a process
// of its own, with the arena that the program asks for.
#ifndef FAKE_MICRO_INTERPRETER_H_
#define FAKE_MICRO_INTERPRETER_H_

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"
#include "tensorflow/lite/schema/schema_generated.h"

extern "C" const unsigned int model_data_length;

struct TfLiteTensor {
  union {
    char* raw;
  } data;
  size_t bytes;
};

namespace tflite {

class MicroInterpreter {
 public:
  MicroInterpreter(const Model* model, const MicroOpResolver& resolver, uint8_t* arena, size_t bytes)
      : resolver_(resolver), arena_bytes_(bytes) {
    if (reinterpret_cast<uintptr_t>(arena) % 16 != 0) std::abort();
    std::ofstream("model.tflite", std::ios::binary).write(reinterpret_cast<const char*>(model), model_data_length);
  }

  // Only now may inputs and outputs be asked for.
  TfLiteStatus AllocateTensors() {
    if (Bridge("describe") != 0) return kTfLiteError;
    std::ifstream tensors("tensors.txt");
    std::string kind;
    size_t bytes;
    while (tensors >> kind >> bytes) (kind == "input" ? inputs_ : outputs_).emplace_back(bytes);
    for (auto* ends : {&inputs_, &outputs_}) {
      for (auto& end : *ends) end.tensor = {{end.memory.data()}, end.memory.size()};
    }
    return kTfLiteOk;
  }

  TfLiteTensor* input(size_t index) { return index < inputs_.size() ? &inputs_[index].tensor : nullptr; }
  TfLiteTensor* output(size_t index) { return index < outputs_.size() ? &outputs_[index].tensor : nullptr; }

  TfLiteStatus Invoke() {
    for (size_t i = 0; i < inputs_.size(); ++i) {
      std::ofstream("input-" + std::to_string(i), std::ios::binary).write(inputs_[i].memory.data(), static_cast<std::streamsize>(inputs_[i].memory.size()));
    }
    if (Bridge("invoke") != 0) return kTfLiteError;
    for (size_t i = 0; i < outputs_.size(); ++i) {
      std::ifstream("output-" + std::to_string(i), std::ios::binary).read(outputs_[i].memory.data(), static_cast<std::streamsize>(outputs_[i].memory.size()));
    }
    return kTfLiteOk;
  }

  size_t arena_used_bytes() const { return arena_bytes_; }

 private:
  struct End {
    explicit End(size_t bytes) : memory(bytes) {}
    std::vector<char> memory;
    TfLiteTensor tensor;
  };

  int Bridge(const char* what) const {
    std::ostringstream command;
    command << std::getenv("FAKE_BRIDGE") << ' ' << what << ' ' << arena_bytes_;
    for (const auto& name : resolver_.names) command << ' ' << name;
    return std::system(command.str().c_str());
  }

  const MicroOpResolver& resolver_;
  size_t arena_bytes_;
  std::vector<End> inputs_, outputs_;
};

}  // namespace tflite

#endif
