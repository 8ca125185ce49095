/* The contract of a bundle, `edgectl.json`: what goes in and out, and what it has to prove.
 *
 * Only what this agent can hold is taken: tensors of fixed sizes, but for a batch, which is of one.
 */
#ifndef CONTRACT_H
#define CONTRACT_H

#include "json.h"
#include "order.h"

enum { TENSORS_MAX = 16, AXES_MAX = 8, TENSOR_NAME_MAX = 256, TENSOR_BYTES_MAX = 256 * 1024 * 1024 };

/* One kind of element. */
struct datatype {
    const char *name;  /* Open Inference Protocol v2 */
    const char *numpy; /* as the header of a .npy file has it */
    int onnx;          /* ONNXTensorElementDataType */
    size_t bytes;
};

struct tensor {
    char name[TENSOR_NAME_MAX + 1];
    const struct datatype *type;
    int64_t shape[AXES_MAX];
    size_t axes, elements, bytes;
    bool compared; /* of an output: it has a tolerance */
    double absolute, relative;
};

struct contract {
    struct tensor inputs[TENSORS_MAX], outputs[TENSORS_MAX];
    size_t input_count, output_count;
    size_t input_bytes, output_bytes; /* of all, one behind the other */
    uint32_t cases;
    double agreement_min;                     /* share of the cases */
    double latency_p95_us, load_ms, rss_bytes; /* what it may cost; 0: no limit */
};

/* Read it. Returns NULL, or what is wrong with it.
 *
 * slot: the model that it has to be of; release: the version and the variant.
 */
const char *contract_read(struct contract *contract, struct json text, const char *slot,
                          const struct release *release);

/* Return an element as a number. */
double tensor_number(const struct datatype *type, const uint8_t *at);

#endif
