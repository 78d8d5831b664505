// Stands for CUDA's runtime: memory of the machine, and a stream that does its work when somebody waits for it.
#ifndef FAKE_CUDA_RUNTIME_API_H_
#define FAKE_CUDA_RUNTIME_API_H_

#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <vector>

enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1 };
enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost = 2 };

struct FakeStream {
  std::vector<std::function<void()>> work;
};
typedef FakeStream* cudaStream_t;

inline const char* cudaGetErrorString(cudaError_t) { return "invalid argument"; }

inline cudaError_t cudaStreamCreate(cudaStream_t* stream) {
  *stream = new FakeStream;
  return cudaSuccess;
}

inline cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  delete stream;
  return cudaSuccess;
}

inline cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  for (auto& task : stream->work) task();
  stream->work.clear();
  return cudaSuccess;
}

inline cudaError_t cudaMalloc(void** memory, size_t bytes) {
  *memory = std::malloc(bytes);
  return cudaSuccess;
}

inline cudaError_t cudaFree(void* memory) {
  std::free(memory);
  return cudaSuccess;
}

inline cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t stream) {
  if (to == nullptr || from == nullptr || stream == nullptr) return cudaErrorInvalidValue;
  stream->work.push_back([=] { std::memcpy(to, from, bytes); });
  return cudaSuccess;
}

#endif
