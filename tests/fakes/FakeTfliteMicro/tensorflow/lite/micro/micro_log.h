// Stands for TFLM's.
#ifndef FAKE_MICRO_LOG_H_
#define FAKE_MICRO_LOG_H_

#include <cstdarg>
#include <cstdio>

inline void MicroPrintf(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  std::vprintf(format, arguments);
  va_end(arguments);
  std::puts("");
}

#endif
