/* Any bytes as golden.npz: refused, or every array that is found lies within them. */
#include <stdlib.h>
#include <string.h>

#include "golden.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length);

static const char CONTRACT[] =
    "{\"model\":\"m\",\"version\":\"1\",\"variant\":\"fp32\",\"runtime\":\"onnxruntime\","
    "\"format\":\"onnx\",\"inputs\":[{\"name\":\"x\",\"datatype\":\"FP32\",\"shape\":[-1,4]}],"
    "\"outputs\":[{\"name\":\"y\",\"datatype\":\"FP32\",\"shape\":[-1,3]}],"
    "\"golden\":{\"cases\":3,\"tolerances\":{\"y\":{\"atol\":0.1,\"rtol\":0}}}}";

/* Read all that an array is said to hold; the sanitizer says whether it is there. */
static void touch(const struct tensor *tensor, const uint8_t *array, uint32_t cases)
{
    double largest = 0;
    for (uint32_t i = 0; i < cases; i++)
        golden_agrees(tensor, array + i * tensor->bytes, array, &largest);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    static struct contract contract;
    static const struct release RELEASE = {.version = "1", .variant = "fp32"};
    struct golden golden;
    if (contract_read(&contract, json_read(CONTRACT, sizeof CONTRACT - 1), "m", &RELEASE) != NULL)
        abort();
    uint8_t *exact = malloc(length == 0 ? 1 : length);
    if (exact == NULL)
        abort();
    memcpy(exact, bytes, length);
    if (golden_read(&golden, &contract, exact, length)) {
        touch(&contract.inputs[0], golden.inputs[0], contract.cases);
        touch(&contract.outputs[0], golden.outputs[0], contract.cases);
    }
    free(exact);
    return 0;
}
