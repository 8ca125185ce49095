/* The flat int8 model: checked once, then computed step by step in an arena.
 *
 * `edgectl_server/pipeline/flat_format.py` refuses the same files, `flat_reference.py` says what is
 * computed, bit for bit. The model stays where it is, in flash; only the arena is written.
 */
#ifndef EDGECTL_MODEL_H
#define EDGECTL_MODEL_H

#include <stddef.h>
#include <stdint.h>

#include "status.h"

enum step_kind {
    STEP_CONVOLUTION = 1, /* also depthwise (groups) and dense (a window as large as its input) */
    STEP_MAXIMUM_POOL,
    STEP_AVERAGE_POOL,
    STEP_ADD,
    STEP_TABLE,
    STEP_SOFTMAX
};

/* A checked model; made by edgectl_load_model alone. */
struct edgectl_model {
    const uint8_t *file;
    size_t size;
    uint32_t arena_bytes;
    uint16_t tensors, steps, input, output;
};

/* Values of one sample: channels, rows, columns, the last one innermost. */
struct edgectl_tensor {
    int32_t channels, height, width;
    int32_t elements;
    int32_t zero; /* what stands for 0.0 */
    float scale;  /* the number is (value - zero) * scale */
    uint32_t offset; /* in the arena */
};

/* One thing that is computed; weights, biases and factors are offsets in the file. */
struct edgectl_step {
    int32_t kind, lowest, highest, groups;
    uint16_t first, second, output;
    int32_t kernel[2], stride[2], dilation[2], padding[2]; /* along rows, columns */
    uint32_t weights, biases, factors;
    const uint8_t *file;
};

/* Check a file and describe it.
 *
 * Whatever passes is computed without a look outside of the file or the arena, and without an
 * overflow: EDGECTL_OK, else EDGECTL_BAD_MODEL.
 */
enum edgectl_status edgectl_load_model(struct edgectl_model *model, const uint8_t *file,
                                       size_t size);

/* Describe a tensor; number < model->tensors. */
struct edgectl_tensor edgectl_tensor_of(const struct edgectl_model *model, uint16_t number);

/* Describe a step; number < model->steps. */
struct edgectl_step edgectl_step_of(const struct edgectl_model *model, uint16_t number);

/* Where to write the input and read the output of a run. */
int8_t *edgectl_values_of(const struct edgectl_model *model, int8_t *arena, uint16_t number);

/* Compute the output from the input; arena: model->arena_bytes bytes, the input in its place. */
void edgectl_run(const struct edgectl_model *model, int8_t *arena);

/* The value that stands for a number, or comes nearest; ties to even. */
int8_t edgectl_quantize(const struct edgectl_tensor *tensor, float number);

/* The number that a value stands for. */
float edgectl_dequantize(const struct edgectl_tensor *tensor, int8_t value);

#endif
