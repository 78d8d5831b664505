// Runs the samples of this package with @{runtime} and compares the outputs with those in samples/.
//
//   main PACKAGE        0 when they agree. See README.md for how to build it.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <limits>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include <NvInfer.h>
#include <cuda_runtime_api.h>

namespace {

struct Port {
  std::string name;
  std::string type;  // as numpy names it
  std::vector<int64_t> shape;

  size_t elements() const {
    size_t product = 1;
    for (const int64_t size : shape) product *= static_cast<size_t>(size);
    return product;
  }
  size_t width() const {
    if (type == "float32" || type == "int32") return 4;
    if (type == "float16" || type == "int16") return 2;
    if (type == "float64" || type == "int64") return 8;
    if (type == "int8" || type == "uint8" || type == "bool") return 1;
    throw std::runtime_error("arrays of " + type + " are not known here");
  }
  size_t bytes() const { return elements() * width(); }
};

const std::vector<Port> kInputs = {
    // @each inputs
    {"@{name}", "@{dtype}", {@{shape}}},
    // @end
};
const std::vector<Port> kOutputs = {
    // @each outputs
    {"@{name}", "@{dtype}", {@{shape}}},
    // @end
};
constexpr size_t kBatch = @{batch};
constexpr bool kRecorded = @{recorded};
constexpr double kAgreement = 30;  // decibel; GPUs round differently, not more than that

using Bytes = std::vector<char>;
using Arrays = std::map<std::string, Bytes>;

class Logger : public nvinfer1::ILogger {
  void log(Severity severity, const char* message) noexcept override {
    if (severity <= Severity::kWARNING) std::fprintf(stderr, "%s\n", message);
  }
};

void check(cudaError_t status) {
  if (status != cudaSuccess) throw std::runtime_error(cudaGetErrorString(status));
}

Bytes read(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  if (!stream) throw std::runtime_error(path + " cannot be read");
  return Bytes(std::istreambuf_iterator<char>(stream), {});
}

// The compiled model on the first GPU. One call takes and gives whole arrays of the batch, by name.
class Model {
 public:
  explicit Model(const Bytes& plan) : runtime_(nvinfer1::createInferRuntime(logger_)) {
    if (runtime_) engine_.reset(runtime_->deserializeCudaEngine(plan.data(), plan.size()));
    if (!engine_) throw std::runtime_error("the engine is of another GPU or version of TensorRT");
    context_.reset(engine_->createExecutionContext());
    if (!context_) throw std::runtime_error("no execution context; the GPU has too little memory");
    check(cudaStreamCreate(&stream_));
    for (const auto* ports : {&kInputs, &kOutputs}) {
      for (const Port& port : *ports) {
        void* memory = nullptr;
        check(cudaMalloc(&memory, port.bytes()));
        memory_[port.name] = memory;
        if (!context_->setTensorAddress(port.name.c_str(), memory)) {
          throw std::runtime_error("the engine has no " + port.name);
        }
      }
    }
    for (const Port& port : kInputs) {
      nvinfer1::Dims shape{};
      shape.nbDims = static_cast<int32_t>(port.shape.size());
      for (size_t i = 0; i < port.shape.size(); ++i) {
        shape.d[i] = static_cast<std::remove_reference_t<decltype(shape.d[0])>>(port.shape[i]);
      }
      if (!context_->setInputShape(port.name.c_str(), shape)) {
        throw std::runtime_error("the engine takes another shape for " + port.name);
      }
    }
  }

  Model(const Model&) = delete;
  Model& operator=(const Model&) = delete;

  ~Model() {
    for (const auto& [name, memory] : memory_) cudaFree(memory);
    if (stream_ != nullptr) cudaStreamDestroy(stream_);
  }

  Arrays run(const Arrays& inputs) {
    for (const Port& port : kInputs) {
      const auto found = inputs.find(port.name);
      if (found == inputs.end() || found->second.size() != port.bytes()) {
        throw std::runtime_error("input " + port.name + " must have " + std::to_string(port.bytes()) + " bytes");
      }
      check(cudaMemcpyAsync(memory_[port.name], found->second.data(), port.bytes(), cudaMemcpyHostToDevice, stream_));
    }
    if (!context_->enqueueV3(stream_)) throw std::runtime_error("the engine fails to run");
    Arrays outputs;
    for (const Port& port : kOutputs) {
      outputs[port.name].resize(port.bytes());
      check(cudaMemcpyAsync(outputs[port.name].data(), memory_[port.name], port.bytes(), cudaMemcpyDeviceToHost,
                            stream_));
    }
    check(cudaStreamSynchronize(stream_));
    return outputs;
  }

 private:
  // Destroyed from the last to the first: the context before its engine, that before the runtime.
  Logger logger_;
  std::unique_ptr<nvinfer1::IRuntime> runtime_;
  std::unique_ptr<nvinfer1::ICudaEngine> engine_;
  std::unique_ptr<nvinfer1::IExecutionContext> context_;
  cudaStream_t stream_ = nullptr;
  std::map<std::string, void*> memory_;
};

// The numbers of an array that numpy saved, as they lie in the file, and how many rows they are.
struct Samples {
  Bytes data;
  size_t rows = 0;

  Samples(const std::string& path, const Port& port) {
    const Bytes file = read(path);
    if (file.size() < 12 || std::memcmp(file.data(), "\x93NUMPY", 6) != 0) throw std::runtime_error(path + " is no .npy");
    const auto byte = [&](size_t at) { return static_cast<size_t>(static_cast<unsigned char>(file[at])); };
    size_t begin = 10 + byte(8) + (byte(9) << 8);
    if (file[6] > 1) begin = 12 + byte(8) + (byte(9) << 8) + (byte(10) << 16) + (byte(11) << 24);
    if (begin > file.size()) throw std::runtime_error(path + " is cut off");
    data.assign(file.begin() + static_cast<std::ptrdiff_t>(begin), file.end());
    const size_t row = port.bytes() / kBatch;
    if (row == 0 || data.size() % row != 0) throw std::runtime_error(path + " has other rows than the model takes");
    rows = data.size() / row;
  }

  // The batch that begins with a row; filled up with the last row.
  Bytes batch(size_t first) const {
    const size_t row = data.size() / rows;
    Bytes found;
    for (size_t i = 0; i < kBatch; ++i) {
      const auto from = data.begin() + static_cast<std::ptrdiff_t>(std::min(first + i, rows - 1) * row);
      found.insert(found.end(), from, from + static_cast<std::ptrdiff_t>(row));
    }
    return found;
  }
};

template <typename T>
double as(const char* at) {
  T value;
  std::memcpy(&value, at, sizeof value);
  return static_cast<double>(value);
}

double half(const char* at) {
  uint16_t bits;
  std::memcpy(&bits, at, sizeof bits);
  const int exponent = bits >> 10 & 31;
  const double fraction = (bits & 1023) / 1024.0;
  const double size = exponent == 31 ? (fraction > 0 ? std::numeric_limits<double>::quiet_NaN()
                                                     : std::numeric_limits<double>::infinity())
                      : exponent > 0 ? std::ldexp(1 + fraction, exponent - 15)
                                     : std::ldexp(fraction, -14);
  return bits >> 15 ? -size : size;
}

double number(const char* at, const std::string& type) {
  if (type == "float32") return as<float>(at);
  if (type == "float64") return as<double>(at);
  if (type == "float16") return half(at);
  if (type == "int64") return as<int64_t>(at);
  if (type == "int32") return as<int32_t>(at);
  if (type == "int16") return as<int16_t>(at);
  if (type == "int8") return as<int8_t>(at);
  return as<uint8_t>(at);
}

// Signal to noise, decibel; infinite when they are equal.
double agreement(const Bytes& expected, const Bytes& found, const Port& port) {
  double signal = 0, noise = 0;
  for (size_t at = 0; at < expected.size(); at += port.width()) {
    const double wanted = number(&expected[at], port.type);
    const double difference = wanted - number(&found[at], port.type);
    signal += wanted * wanted;
    noise += difference * difference;
  }
  return noise == 0 ? std::numeric_limits<double>::infinity() : 10 * std::log10(signal / noise);
}

int run(const std::string& package) {
  Model model(read(package + "/@{model}"));
  std::map<std::string, Samples> samples;
  for (const Port& port : kInputs) {
    samples.emplace(port.name, Samples(package + "/samples/inputs/" + port.name + ".npy", port));
  }
  const size_t rows = samples.begin()->second.rows;
  Arrays found;
  for (size_t first = 0; first < rows; first += kBatch) {
    Arrays inputs;
    for (const Port& port : kInputs) inputs[port.name] = samples.at(port.name).batch(first);
    const Arrays outputs = model.run(inputs);
    for (const Port& port : kOutputs) {
      const Bytes& output = outputs.at(port.name);
      const size_t kept = output.size() / kBatch * std::min(kBatch, rows - first);
      found[port.name].insert(found[port.name].end(), output.begin(), output.begin() + static_cast<std::ptrdiff_t>(kept));
    }
  }
  bool right = true;
  for (const Port& port : kOutputs) {
    const std::string folder = package + (kRecorded ? "/samples/outputs/" : "/samples/float/");
    const double decibel = agreement(Samples(folder + port.name + ".npy", port).data, found[port.name], port);
    std::printf("%s: within %.1f dB of %s\n", port.name.c_str(), decibel,
                kRecorded ? "the recorded outputs" : "the float model, before its compression");
    right = right && (kRecorded ? decibel >= kAgreement : decibel == decibel);
  }
  std::puts(right ? "The package runs here." : "The outputs are NOT those that were recorded.");
  return right ? 0 : 1;
}

}  // namespace

int main(int count, char** arguments) {
  try {
    return run(count > 1 ? arguments[1] : ".");
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 2;
  }
}
