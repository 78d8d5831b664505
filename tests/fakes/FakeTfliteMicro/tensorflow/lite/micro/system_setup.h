// Stands for TFLM's.
#ifndef FAKE_SYSTEM_SETUP_H_
#define FAKE_SYSTEM_SETUP_H_

namespace tflite {
inline void InitializeTarget() {}
}  // namespace tflite

#endif
