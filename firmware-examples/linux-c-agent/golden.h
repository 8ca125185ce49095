/* Golden inputs and outputs: `golden.npz`, a ZIP of .npy files, as NumPy's savez writes it.
 *
 * Rule: nothing is unpacked. The arrays are found where they lie in the file, which has been hashed;
 * all that could point outside of it is compared with its length.
 * Formats: PKWARE APPNOTE 6.3 (4.3.7, 4.3.12, 4.3.16), NumPy's NEP 1.
 */
#ifndef GOLDEN_H
#define GOLDEN_H

#include "contract.h"

/* The arrays, case by case, each where its first case begins. */
struct golden {
    const uint8_t *inputs[TENSORS_MAX];
    const uint8_t *outputs[TENSORS_MAX]; /* NULL: it is not compared */
};

/* Find all that the contract names. False: something is missing, compressed, or of another kind. */
bool golden_read(struct golden *golden, const struct contract *contract, const uint8_t *file,
                 size_t length);

/* Compare an output of one case: |got - golden| <= absolute + relative * |golden|; NaN equals NaN.
 *
 * largest: raised to the largest difference.
 */
bool golden_agrees(const struct tensor *tensor, const uint8_t *got, const uint8_t *golden,
                   double *largest);

#endif
