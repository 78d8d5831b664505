// Stands for TensorRT: what the program of a package uses of it, version 10 on. Its engine is a matrix [8, 4] of
// float32, and a call multiplies the rows of `x` by it.
#ifndef FAKE_NV_INFER_H_
#define FAKE_NV_INFER_H_

#include <cstdint>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "cuda_runtime_api.h"

namespace nvinfer1 {

class ILogger {
 public:
  enum class Severity : int32_t { kINTERNAL_ERROR = 0, kERROR = 1, kWARNING = 2, kINFO = 3, kVERBOSE = 4 };
  virtual void log(Severity severity, const char* message) noexcept = 0;
  virtual ~ILogger() = default;
};

struct Dims {
  static constexpr int32_t MAX_DIMS{8};
  int32_t nbDims;
  int64_t d[MAX_DIMS];
};

class IExecutionContext {
 public:
  explicit IExecutionContext(const std::vector<float>& matrix) : matrix_(matrix) {}
  virtual ~IExecutionContext() noexcept = default;

  bool setTensorAddress(const char* name, void* memory) noexcept {
    if (name != std::string("x") && name != std::string("logits")) return false;
    memory_[name] = static_cast<float*>(memory);
    return true;
  }

  bool setInputShape(const char* name, const Dims& shape) noexcept {
    rows_ = shape.d[0];
    return name == std::string("x") && shape.nbDims == 2 && shape.d[1] == 8;
  }

  bool enqueueV3(cudaStream_t stream) noexcept {
    if (stream == nullptr || memory_.size() != 2 || rows_ == 0) return false;
    const float *matrix = matrix_.data(), *x = memory_["x"];
    float* logits = memory_["logits"];
    const int64_t rows = rows_;
    // Late, as on a GPU: only who waits for the stream finds the result.
    stream->work.push_back([=] {
      for (int64_t row = 0; row < rows; ++row) {
        for (int column = 0; column < 4; ++column) {
          double sum = 0;
          for (int i = 0; i < 8; ++i) sum += static_cast<double>(x[row * 8 + i]) * static_cast<double>(matrix[i * 4 + column]);
          logits[row * 4 + column] = static_cast<float>(sum);
        }
      }
    });
    return true;
  }

 private:
  const std::vector<float>& matrix_;
  std::map<std::string, float*> memory_;
  int64_t rows_ = 0;
};

class ICudaEngine {
 public:
  explicit ICudaEngine(std::vector<float> matrix) : matrix_(std::move(matrix)) {}
  virtual ~ICudaEngine() noexcept = default;
  IExecutionContext* createExecutionContext() noexcept { return new IExecutionContext(matrix_); }

 private:
  std::vector<float> matrix_;
};

class IRuntime {
 public:
  explicit IRuntime(ILogger& logger) : logger_(logger) {}
  virtual ~IRuntime() noexcept = default;

  ICudaEngine* deserializeCudaEngine(const void* plan, std::size_t size) noexcept {
    if (size != 8 * 4 * sizeof(float)) {
      logger_.log(ILogger::Severity::kERROR, "the plan is damaged");
      return nullptr;
    }
    std::vector<float> matrix(8 * 4);
    std::memcpy(matrix.data(), plan, size);
    return new ICudaEngine(std::move(matrix));
  }

 private:
  ILogger& logger_;
};

inline IRuntime* createInferRuntime(ILogger& logger) noexcept { return new IRuntime(logger); }

}  // namespace nvinfer1

#endif
