/* Any bytes as edgectl.json: refused, or all sizes of the contract fit together. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "contract.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length);

static size_t check(const struct tensor *tensors, size_t count)
{
    size_t bytes = 0;
    if (count == 0 || count > TENSORS_MAX)
        abort();
    for (size_t i = 0; i < count; i++) {
        size_t elements = 1;
        if (tensors[i].type == NULL || tensors[i].axes > AXES_MAX)
            abort();
        for (size_t axis = 0; axis < tensors[i].axes; axis++)
            elements *= (size_t)tensors[i].shape[axis];
        if (elements != tensors[i].elements || elements == 0 ||
            tensors[i].bytes != elements * tensors[i].type->bytes || !(tensors[i].absolute >= 0) ||
            !isfinite(tensors[i].relative))
            abort();
        bytes += tensors[i].bytes;
    }
    return bytes;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    static struct contract contract;
    static const struct release RELEASE = {.version = "1", .variant = "fp32"};
    char *exact = malloc(length == 0 ? 1 : length);
    if (exact == NULL)
        abort();
    memcpy(exact, bytes, length);
    if (contract_read(&contract, json_read(exact, length), "m", &RELEASE) == NULL &&
        (check(contract.inputs, contract.input_count) != contract.input_bytes ||
         check(contract.outputs, contract.output_count) != contract.output_bytes ||
         contract.output_bytes > TENSOR_BYTES_MAX || contract.cases == 0))
        abort();
    free(exact);
    return 0;
}
