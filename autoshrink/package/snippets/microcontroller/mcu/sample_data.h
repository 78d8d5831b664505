/* The first sample of the package as the model's tensors hold it, and what the model gave for it. */
#ifndef SAMPLE_DATA_H_
#define SAMPLE_DATA_H_

#include <stdint.h>

// @each inputs
static const @{c_type} sample_input_@{index}[] = {@{sample}};
// @end
// @each outputs
static const @{c_type} sample_output_@{index}[] = {@{sample}};
// @end

#endif
