/* What the inputs and outputs of the model are, in the order of its tensors. Plain C, and C++.
 *
 * An integer of a tensor with a scale stands for a number: number = (integer - zero_point) * scale.
 */
#ifndef MODEL_PORTS_H_
#define MODEL_PORTS_H_

#include <math.h>

typedef struct {
  const char *name;
  const char *type;   /* of the tensor's elements, as numpy names it */
  unsigned int count; /* elements of one call */
  float scale;        /* 0: the elements are the numbers themselves */
  int zero_point;
  int least;
  int most;
} model_port;

#define MODEL_INPUTS @{input_count}
#define MODEL_OUTPUTS @{output_count}

static const model_port model_inputs[MODEL_INPUTS] = {
    // @each inputs
    {"@{name}", "@{stored}", @{count}u, @{scale}f, @{zero_point}, @{least}, @{most}},
    // @end
};
static const model_port model_outputs[MODEL_OUTPUTS] = {
    // @each outputs
    {"@{name}", "@{stored}", @{count}u, @{scale}f, @{zero_point}, @{least}, @{most}},
    // @end
};

/* The integer of a tensor with a scale for a number: halves go away from zero, what does not fit becomes the end. */
static inline int model_quantize(float number, const model_port *port) {
  float steps = number / port->scale;
  if (!(steps > -1e6f)) return port->least;
  if (steps > 1e6f) return port->most;
  {
    long integer = lroundf(steps) + port->zero_point;
    return integer < port->least ? port->least : integer > port->most ? port->most : (int)integer;
  }
}

/* The number of an integer of a tensor with a scale. */
static inline float model_dequantize(int integer, const model_port *port) {
  return (float)(integer - port->zero_point) * port->scale;
}

#endif
