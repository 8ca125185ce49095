#include "contract.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "bytes.h"

/* `onnx` as in onnxruntime_c_api.h, which has had these numbers since its first version. */
static const struct datatype TYPES[] = {
    {"FP32", "<f4", 1, 4},   {"UINT8", "|u1", 2, 1},   {"INT8", "|i1", 3, 1},
    {"UINT16", "<u2", 4, 2}, {"INT16", "<i2", 5, 2},   {"INT32", "<i4", 6, 4},
    {"INT64", "<i8", 7, 8},  {"BOOL", "|b1", 9, 1},    {"FP16", "<f2", 10, 2},
    {"FP64", "<f8", 11, 8},  {"UINT32", "<u4", 12, 4}, {"UINT64", "<u8", 13, 8},
};

static double half(uint16_t bits)
{
    int exponent = bits >> 10 & 31, fraction = bits & 1023;
    double value = exponent == 31  ? (fraction != 0 ? NAN : INFINITY)
                   : exponent == 0 ? ldexp(fraction, -24)
                                   : ldexp(fraction + 1024, exponent - 25);
    return (bits & 0x8000) != 0 ? -value : value;
}

double tensor_number(const struct datatype *type, const uint8_t *at)
{
    float single;
    double twice;
    uint32_t four;
    uint64_t eight;
    switch (type->onnx) {
    case 1:
        four = load_u32(at);
        memcpy(&single, &four, sizeof single);
        return (double)single;
    case 3: return load_i8(at);
    case 4: return load_u16(at);
    case 5: return load_i16(at);
    case 6: return load_i32(at);
    case 7: return (double)(int64_t)load_u64(at);
    case 10: return half(load_u16(at));
    case 11:
        eight = load_u64(at);
        memcpy(&twice, &eight, sizeof twice);
        return twice;
    case 12: return load_u32(at);
    case 13: return (double)load_u64(at);
    default: return *at;
    }
}

/* ---------------------------------------------------------------- reading */

/* Read a number that is finite and not negative; what is not there leaves what was. */
static bool read_real(struct json value, double *number)
{
    char text[64];
    char *end;
    if (value.length == 0 || (value.length == 4 && memcmp(value.at, "null", 4) == 0))
        return true;
    if (value.length >= sizeof text)
        return false;
    memcpy(text, value.at, value.length);
    text[value.length] = '\0';
    double found = strtod(text, &end);
    if (*end != '\0' || !isfinite(found) || found < 0)
        return false;
    *number = found;
    return true;
}

static const char *read_shape(struct tensor *tensor, struct json shape)
{
    struct json axis;
    tensor->elements = 1;
    for (uint32_t i = 0; (axis = json_item(shape, i)).length != 0; i++) {
        uint64_t size = 0;
        bool is_free = axis.length == 2 && memcmp(axis.at, "-1", 2) == 0;
        if (i == AXES_MAX || (is_free && i != 0) ||
            (!is_free && (!json_number(axis, &size) || size == 0)))
            return "a size that this agent does not fix: only the first may be free";
        tensor->shape[i] = is_free ? 1 : (int64_t)size;
        if (!is_free && size > TENSOR_BYTES_MAX / tensor->elements)
            return "a tensor that is too large";
        tensor->elements *= (size_t)tensor->shape[i];
        tensor->axes = i + 1;
    }
    tensor->bytes = tensor->elements * tensor->type->bytes;
    return tensor->bytes <= TENSOR_BYTES_MAX ? NULL : "a tensor that is too large";
}

static const char *read_tensor(struct tensor *tensor, struct json text)
{
    if (!json_text(json_member(text, "name"), tensor->name, sizeof tensor->name))
        return "a tensor without a name that can be read";
    for (size_t i = 0; i < sizeof TYPES / sizeof *TYPES; i++)
        if (json_is(json_member(text, "datatype"), TYPES[i].name))
            tensor->type = &TYPES[i];
    if (tensor->type == NULL)
        return "a datatype that this agent does not know";
    return read_shape(tensor, json_member(text, "shape"));
}

static const char *read_tensors(struct tensor tensors[TENSORS_MAX], struct json list,
                                size_t *count, size_t *bytes)
{
    struct json one;
    for (uint32_t i = 0; (one = json_item(list, i)).length != 0; i++) {
        if (i == TENSORS_MAX)
            return "too many tensors";
        const char *problem = read_tensor(&tensors[i], one);
        if (problem != NULL)
            return problem;
        *bytes += tensors[i].bytes;
        *count = i + 1;
    }
    return *count == 0 || *bytes > TENSOR_BYTES_MAX ? "no tensors, or too large ones" : NULL;
}

static const char *read_golden(struct contract *contract, struct json golden)
{
    uint64_t cases = 0;
    bool compares = false;
    struct json tolerances = json_member(golden, "tolerances");
    contract->agreement_min = 1.0;
    if (!json_number(json_member(golden, "cases"), &cases) || cases == 0 || cases > 1024 ||
        !read_real(json_member(golden, "agreement_min"), &contract->agreement_min))
        return "golden cases that cannot be read";
    contract->cases = (uint32_t)cases;
    for (size_t i = 0; i < contract->output_count; i++) {
        struct tensor *tensor = &contract->outputs[i];
        struct json tolerance = json_member(tolerances, tensor->name);
        if (tolerance.length == 0)
            continue;
        if (!read_real(json_member(tolerance, "atol"), &tensor->absolute) ||
            !read_real(json_member(tolerance, "rtol"), &tensor->relative))
            return "a tolerance that cannot be read";
        tensor->compared = compares = true;
    }
    return compares ? NULL : "no tolerance, so that nothing would be compared";
}

static const char *read_budget(struct contract *contract, struct json budget)
{
    return read_real(json_member(budget, "latency_p95_us"), &contract->latency_p95_us) &&
                   read_real(json_member(budget, "load_ms"), &contract->load_ms) &&
                   read_real(json_member(budget, "rss_bytes"), &contract->rss_bytes)
               ? NULL
               : "a budget that cannot be read";
}

const char *contract_read(struct contract *contract, struct json text, const char *slot,
                          const struct release *release)
{
    *contract = (struct contract){0};
    if (!json_is(json_member(text, "model"), slot) ||
        !json_is(json_member(text, "version"), release->version) ||
        !json_is(json_member(text, "variant"), release->variant))
        return "it describes itself as something else than was ordered";
    if (!json_is(json_member(text, "runtime"), "onnxruntime") ||
        !json_is(json_member(text, "format"), "onnx"))
        return "it is not for onnxruntime";
    const char *problem = read_tensors(contract->inputs, json_member(text, "inputs"),
                                       &contract->input_count, &contract->input_bytes);
    if (problem == NULL)
        problem = read_tensors(contract->outputs, json_member(text, "outputs"),
                               &contract->output_count, &contract->output_bytes);
    if (problem == NULL)
        problem = read_golden(contract, json_member(text, "golden"));
    return problem != NULL ? problem : read_budget(contract, json_member(text, "budget"));
}
