/* Any bytes as a model: refused, or computed without a look outside of the file or the arena. */
#include <stdlib.h>
#include <string.h>

#include "model.h"

enum { PRODUCTS_MAX = 4000000 }; /* more would only be slow */

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length);

static double products(const struct edgectl_model *model)
{
    double sum = 0;
    for (uint16_t i = 0; i < model->steps; i++) {
        struct edgectl_step step = edgectl_step_of(model, i);
        sum += (double)edgectl_tensor_of(model, step.output).elements * step.kernel[0] *
               step.kernel[1] * edgectl_tensor_of(model, step.first).channels;
    }
    return sum;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    struct edgectl_model model;
    uint8_t *file = malloc(length + 1); /* a block of its own: one byte too far is seen */
    memcpy(file, bytes, length);
    if (edgectl_load_model(&model, file, length) == EDGECTL_OK &&
        products(&model) < PRODUCTS_MAX) {
        int8_t *arena = calloc(model.arena_bytes + 1u, 1);
        edgectl_run(&model, arena);
        free(arena);
    }
    free(file);
    return 0;
}
