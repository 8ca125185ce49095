/* What each kind of step computes. Their steps have passed edgectl_load_model. */
#ifndef EDGECTL_KERNELS_H
#define EDGECTL_KERNELS_H

#include "model.h"

void edgectl_convolution(const struct edgectl_step *step, const struct edgectl_tensor *first,
                         const struct edgectl_tensor *output, int8_t *arena);
void edgectl_pool(const struct edgectl_step *step, const struct edgectl_tensor *first,
                  const struct edgectl_tensor *output, int8_t *arena);
void edgectl_add(const struct edgectl_step *step, const struct edgectl_tensor *first,
                 const struct edgectl_tensor *second, const struct edgectl_tensor *output,
                 int8_t *arena);
void edgectl_table(const struct edgectl_step *step, const struct edgectl_tensor *first,
                   const struct edgectl_tensor *output, int8_t *arena);
void edgectl_softmax(const struct edgectl_step *step, const struct edgectl_tensor *first,
                     const struct edgectl_tensor *output, int8_t *arena);

#endif
