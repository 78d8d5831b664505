// Runs the model once, on the first sample of the package, with TensorFlow Lite Micro. Ends with 0 when the outputs are
// those that were recorded. See README.md.

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "model_data.h"
#include "model_ports.h"
#include "sample_data.h"
#include "tensorflow/lite/micro/micro_interpreter.h"
#include "tensorflow/lite/micro/micro_log.h"
#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"
#include "tensorflow/lite/micro/system_setup.h"
#include "tensorflow/lite/schema/schema_generated.h"

namespace {

// Found by running the model on a machine with 64-bit pointers. One with 32 bits needs less: take what
// arena_used_bytes() says there.
constexpr size_t kArenaBytes = @{arena};
alignas(16) uint8_t arena[kArenaBytes];

using Resolver = tflite::MicroMutableOpResolver<@{operator_count}>;

// The operators of the model; no other kernel is linked.
TfLiteStatus AddOperators(Resolver& resolver) {
  // @each operators
  TF_LITE_ENSURE_STATUS(resolver.@{call}());
  // @end
  return kTfLiteOk;
}

bool Fill(TfLiteTensor* tensor, const void* data, size_t bytes) {
  if (tensor == nullptr || tensor->bytes != bytes) return false;
  std::memcpy(tensor->data.raw, data, bytes);
  return true;
}

// How far an output is from the recorded one: in steps for integers, in numbers else; negative when its size differs.
template <typename T>
double LargestDifference(const TfLiteTensor* tensor, const T* expected, size_t count) {
  if (tensor == nullptr || tensor->bytes != count * sizeof(T)) return -1.0;
  const T* found = reinterpret_cast<const T*>(tensor->data.raw);
  double largest = 0.0;
  for (size_t i = 0; i < count; ++i) {
    const double difference = static_cast<double>(found[i]) - static_cast<double>(expected[i]);
    if (!(difference == difference)) return -1.0;
    if (difference > largest) largest = difference;
    if (-difference > largest) largest = -difference;
  }
  return largest;
}

int Run() {
  const tflite::Model* model = tflite::GetModel(model_data);
  if (model->version() != TFLITE_SCHEMA_VERSION) {
    MicroPrintf("the model has schema version %d, this runtime %d", static_cast<int>(model->version()),
                TFLITE_SCHEMA_VERSION);
    return 1;
  }
  static Resolver resolver;
  if (AddOperators(resolver) != kTfLiteOk) return 1;
  static tflite::MicroInterpreter interpreter(model, resolver, arena, kArenaBytes);
  if (interpreter.AllocateTensors() != kTfLiteOk) {
    MicroPrintf("the arena of %u bytes is too small", static_cast<unsigned>(kArenaBytes));
    return 1;
  }
  // @each inputs
  if (!Fill(interpreter.input(@{index}), sample_input_@{index}, sizeof sample_input_@{index})) {
    MicroPrintf("input %s does not take %u bytes", model_inputs[@{index}].name, static_cast<unsigned>(sizeof sample_input_@{index}));
    return 1;
  }
  // @end
  if (interpreter.Invoke() != kTfLiteOk) return 1;
  bool right = true;
  // @each outputs
  {
    const double difference = LargestDifference(interpreter.output(@{index}), sample_output_@{index}, @{count}u);
    MicroPrintf("%s: at most %d thousandths from the recorded output", model_outputs[@{index}].name,
                static_cast<int>(difference * 1000));
    right = right && difference >= 0.0 && (!@{recorded} || difference <= @{tolerance});
  }
  // @end
  MicroPrintf("%u of %u bytes of the arena are used", static_cast<unsigned>(interpreter.arena_used_bytes()),
              static_cast<unsigned>(kArenaBytes));
  MicroPrintf(right ? "The model runs here." : "The outputs are NOT those that were recorded.");
  return right ? 0 : 1;
}

}  // namespace

int main() {
  tflite::InitializeTarget();
  return Run();
}
