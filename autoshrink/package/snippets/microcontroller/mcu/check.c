/* Checks on any computer what goes into the firmware: cc -std=c11 check.c model_data.c -lm && ./a.out MODEL.tflite */

#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "model_data.h"
#include "model_ports.h"
#include "sample_data.h"

static int check_array(const char *path) {
  FILE *file = fopen(path, "rb");
  unsigned int at = 0;
  int byte;
  if (file == NULL) {
    perror(path);
    return 1;
  }
  for (byte = fgetc(file); byte != EOF && at < model_data_length && byte == model_data[at]; byte = fgetc(file)) ++at;
  fclose(file);
  if (byte != EOF || at != model_data_length) {
    printf("model_data is not %s: they differ at byte %u\n", path, at);
    return 1;
  }
  if ((uintptr_t)model_data % 16 != 0 || memcmp(model_data + 4, "TFL3", 4) != 0) {
    printf("model_data is not aligned to 16 bytes, or no model\n");
    return 1;
  }
  printf("model_data: %u bytes, equal to %s\n", model_data_length, path);
  return 0;
}

static int check_port(const model_port *port) {
  int integer;
  if (port->scale == 0.0f) return 0;
  for (integer = port->least; integer <= port->most; ++integer) {
    if (model_quantize(model_dequantize(integer, port), port) != integer) {
      printf("%s: %d does not come back\n", port->name, integer);
      return 1;
    }
  }
  printf("%s: %d to %d stand for %g to %g\n", port->name, port->least, port->most,
         (double)model_dequantize(port->least, port), (double)model_dequantize(port->most, port));
  return 0;
}

int main(int count, char **arguments) {
  int i, wrong = 0;
  if (count != 2) {
    printf("name the model: @{model}\n");
    return 2;
  }
  wrong += check_array(arguments[1]);
  for (i = 0; i < MODEL_INPUTS; ++i) wrong += check_port(&model_inputs[i]);
  for (i = 0; i < MODEL_OUTPUTS; ++i) wrong += check_port(&model_outputs[i]);
  // @each inputs
  wrong += sizeof sample_input_@{index} / sizeof sample_input_@{index}[0] != model_inputs[@{index}].count;
  // @end
  // @each outputs
  wrong += sizeof sample_output_@{index} / sizeof sample_output_@{index}[0] != model_outputs[@{index}].count;
  // @end
  return wrong == 0 ? 0 : 1;
}
