#include "model.h"

#include <string.h>

#include "bytes.h"
#include "kernels.h"

enum {
    HEADER_BYTES = 32,
    TENSOR_BYTES = 16,
    STEP_BYTES = 36,
    FACTOR_BYTES = 8,
    TENSORS_MAX = 1024,
    STEPS_MAX = 1024,
    ELEMENTS_MAX = 1 << 20,
    ARENA_BYTES_MAX = 1 << 24,
    FILE_BYTES_MAX = 1 << 24,
    ACCUMULATED_MAX = 1 << 15, /* products below 2^15 each: with a bias their sum has 32 bits */
    BIAS_MAX = 1 << 30,
    SHIFT_MAX = 62,
    SOFTMAX_ONE = 1 << 16,
    TABLE_ENTRIES = 256,
};

static float load_float(const uint8_t *bytes)
{
    uint32_t bits = load_u32(bytes);
    float number;
    memcpy(&number, &bits, sizeof number);
    return number;
}

struct edgectl_tensor edgectl_tensor_of(const struct edgectl_model *model, uint16_t number)
{
    const uint8_t *at = model->file + HEADER_BYTES + (size_t)number * TENSOR_BYTES;
    struct edgectl_tensor tensor = {
        .channels = load_u16(at),
        .height = load_u16(at + 2),
        .width = load_u16(at + 4),
        .zero = load_i16(at + 6),
        .offset = load_u32(at + 8),
        .scale = load_float(at + 12),
    };
    uint64_t elements = (uint64_t)load_u16(at) * load_u16(at + 2) * load_u16(at + 4);
    tensor.elements = elements <= ELEMENTS_MAX ? (int32_t)elements : 0; /* 0: no tensor at all */
    return tensor;
}

struct edgectl_step edgectl_step_of(const struct edgectl_model *model, uint16_t number)
{
    const uint8_t *at = model->file + HEADER_BYTES + (size_t)model->tensors * TENSOR_BYTES +
                        (size_t)number * STEP_BYTES;
    return (struct edgectl_step){
        .kind = at[0],
        .lowest = load_i8(at + 1),
        .highest = load_i8(at + 2),
        .first = load_u16(at + 4),
        .second = load_u16(at + 6),
        .output = load_u16(at + 8),
        .groups = load_u16(at + 10),
        .kernel = {load_u16(at + 12), load_u16(at + 14)},
        .stride = {at[16], at[17]},
        .dilation = {at[18], at[19]},
        .padding = {load_u16(at + 20), load_u16(at + 22)},
        .weights = load_u32(at + 24),
        .biases = load_u32(at + 28),
        .factors = load_u32(at + 32),
        .file = model->file,
    };
}

int8_t *edgectl_values_of(const struct edgectl_model *model, int8_t *arena, uint16_t number)
{
    return arena + edgectl_tensor_of(model, number).offset;
}

/* ---------------------------------------------------------------- checking */

/* Say whether a tensor has values that lie in the arena. */
static bool is_tensor(const struct edgectl_model *model, uint16_t number)
{
    struct edgectl_tensor tensor = edgectl_tensor_of(model, number);
    uint32_t bits;
    memcpy(&bits, &tensor.scale, sizeof bits);
    bool positive = bits != 0 && bits < 0x7F800000u; /* no sign, no infinity, no NaN */
    return tensor.elements > 0 && tensor.offset <= model->arena_bytes &&
           (uint32_t)tensor.elements <= model->arena_bytes - tensor.offset &&
           tensor.zero >= INT8_MIN && tensor.zero <= INT8_MAX && positive;
}

/* Say whether constants lie behind the tables and within the file. */
static bool has_constants(const struct edgectl_model *model, uint32_t offset, uint64_t length)
{
    size_t begin = HEADER_BYTES + (size_t)model->tensors * TENSOR_BYTES +
                   (size_t)model->steps * STEP_BYTES;
    return offset >= begin && offset % 4 == 0 && offset <= model->size &&
           length <= model->size - offset;
}

static bool has_factors(const struct edgectl_model *model, uint32_t offset, int32_t count)
{
    if (!has_constants(model, offset, (uint64_t)count * FACTOR_BYTES))
        return false;
    for (int32_t i = 0; i < count; i++) {
        const uint8_t *factor = model->file + offset + FACTOR_BYTES * i;
        int32_t shift = load_i32(factor + 4);
        if (load_i32(factor) < 0 || shift < 1 || shift > SHIFT_MAX)
            return false;
    }
    return true;
}

static bool is_convolution(const struct edgectl_model *model, const struct edgectl_step *step)
{
    struct edgectl_tensor first = edgectl_tensor_of(model, step->first);
    struct edgectl_tensor output = edgectl_tensor_of(model, step->output);
    if (step->groups == 0 || first.channels % step->groups || output.channels % step->groups)
        return false;
    uint64_t taps = (uint64_t)(first.channels / step->groups) * (uint64_t)step->kernel[0] *
                    (uint64_t)step->kernel[1];
    if (taps > ACCUMULATED_MAX ||
        !has_constants(model, step->weights, taps * (uint64_t)output.channels) ||
        !has_constants(model, step->biases, 4 * (uint64_t)output.channels))
        return false;
    for (int32_t i = 0; i < output.channels; i++) {
        int32_t bias = load_i32(model->file + step->biases + 4 * i);
        if (bias > BIAS_MAX || bias < -BIAS_MAX)
            return false;
    }
    return has_factors(model, step->factors, output.channels);
}

static bool is_pool(const struct edgectl_model *model, const struct edgectl_step *step)
{
    int32_t channels = edgectl_tensor_of(model, step->first).channels;
    if (channels != edgectl_tensor_of(model, step->output).channels ||
        (uint64_t)step->kernel[0] * (uint64_t)step->kernel[1] > ACCUMULATED_MAX)
        return false;
    return step->kind == STEP_MAXIMUM_POOL || has_factors(model, step->factors, 1);
}

static bool is_table(const struct edgectl_model *model, const struct edgectl_step *step)
{
    bool softmax = step->kind == STEP_SOFTMAX;
    if (edgectl_tensor_of(model, step->first).elements !=
            edgectl_tensor_of(model, step->output).elements ||
        !has_constants(model, step->weights, softmax ? 4 * TABLE_ENTRIES : TABLE_ENTRIES))
        return false;
    const uint8_t *table = model->file + step->weights;
    for (int i = 0; softmax && i < TABLE_ENTRIES; i++)
        if (load_u32(table + 4 * i) > SOFTMAX_ONE)
            return false;
    return !softmax || load_u32(table) == SOFTMAX_ONE;
}

static bool is_addition(const struct edgectl_model *model, const struct edgectl_step *step)
{
    int32_t elements = edgectl_tensor_of(model, step->output).elements;
    return edgectl_tensor_of(model, step->first).elements == elements &&
           edgectl_tensor_of(model, step->second).elements == elements &&
           has_factors(model, step->factors, 2) &&
           same_bytes(model->file + step->factors + 4,
                      model->file + step->factors + FACTOR_BYTES + 4, 4);
}

/* Say whether a step would write to where it reads. */
static bool overlaps(const struct edgectl_model *model, uint16_t read, uint16_t written)
{
    struct edgectl_tensor one = edgectl_tensor_of(model, read);
    struct edgectl_tensor other = edgectl_tensor_of(model, written);
    return one.offset < other.offset + (uint32_t)other.elements &&
           other.offset < one.offset + (uint32_t)one.elements;
}

static bool is_step(const struct edgectl_model *model, uint16_t number)
{
    struct edgectl_step step = edgectl_step_of(model, number);
    bool adds = step.kind == STEP_ADD;
    if (step.first >= model->tensors || step.output >= model->tensors ||
        (adds && step.second >= model->tensors) || step.lowest > step.highest)
        return false;
    for (int axis = 0; axis < 2; axis++)
        if (step.kernel[axis] == 0 || step.stride[axis] == 0 || step.dilation[axis] == 0)
            return false;
    if (overlaps(model, step.first, step.output) ||
        (adds && overlaps(model, step.second, step.output)))
        return false;
    switch (step.kind) {
    case STEP_CONVOLUTION:
        return is_convolution(model, &step);
    case STEP_MAXIMUM_POOL:
    case STEP_AVERAGE_POOL:
        return is_pool(model, &step);
    case STEP_ADD:
        return is_addition(model, &step);
    case STEP_TABLE:
    case STEP_SOFTMAX:
        return is_table(model, &step);
    default:
        return false;
    }
}

enum edgectl_status edgectl_load_model(struct edgectl_model *model, const uint8_t *file,
                                       size_t size)
{
    if (size < HEADER_BYTES || size > FILE_BYTES_MAX || !same_bytes(file, "EFM1", 4) ||
        load_u32(file + 4) != size)
        return EDGECTL_BAD_MODEL;
    *model = (struct edgectl_model){
        .file = file,
        .size = size,
        .tensors = load_u16(file + 8),
        .steps = load_u16(file + 10),
        .input = load_u16(file + 12),
        .output = load_u16(file + 14),
        .arena_bytes = load_u32(file + 16),
    };
    if (model->tensors == 0 || model->tensors > TENSORS_MAX || model->steps == 0 ||
        model->steps > STEPS_MAX || model->input >= model->tensors ||
        model->output >= model->tensors || model->arena_bytes > ARENA_BYTES_MAX ||
        HEADER_BYTES + (size_t)model->tensors * TENSOR_BYTES + (size_t)model->steps * STEP_BYTES >
            size)
        return EDGECTL_BAD_MODEL;
    for (uint16_t i = 0; i < model->tensors; i++)
        if (!is_tensor(model, i))
            return EDGECTL_BAD_MODEL;
    for (uint16_t i = 0; i < model->steps; i++)
        if (!is_step(model, i))
            return EDGECTL_BAD_MODEL;
    return EDGECTL_OK;
}

/* ---------------------------------------------------------------- running */

void edgectl_run(const struct edgectl_model *model, int8_t *arena)
{
    for (uint16_t number = 0; number < model->steps; number++) {
        struct edgectl_step step = edgectl_step_of(model, number);
        struct edgectl_tensor first = edgectl_tensor_of(model, step.first);
        struct edgectl_tensor output = edgectl_tensor_of(model, step.output);
        switch (step.kind) {
        case STEP_CONVOLUTION:
            edgectl_convolution(&step, &first, &output, arena);
            break;
        case STEP_MAXIMUM_POOL:
        case STEP_AVERAGE_POOL:
            edgectl_pool(&step, &first, &output, arena);
            break;
        case STEP_ADD: {
            struct edgectl_tensor second = edgectl_tensor_of(model, step.second);
            edgectl_add(&step, &first, &second, &output, arena);
            break;
        }
        case STEP_TABLE:
            edgectl_table(&step, &first, &output, arena);
            break;
        case STEP_SOFTMAX:
            edgectl_softmax(&step, &first, &output, arena);
            break;
        }
    }
}

int8_t edgectl_quantize(const struct edgectl_tensor *tensor, float number)
{
    /* Adding and taking away 1.5 * 2^23 leaves an integer, rounded as the processor rounds. */
    const float rounder = 12582912.0f;
    float scaled = number / tensor->scale;
    scaled = scaled < 1024.0f ? scaled : 1024.0f;
    scaled = scaled > -1024.0f ? scaled : -1024.0f;
    volatile float shifted = scaled + rounder; /* volatile: not to be optimized away */
    int32_t value = (int32_t)(shifted - rounder) + tensor->zero;
    return (int8_t)(value < INT8_MIN ? INT8_MIN : value > INT8_MAX ? INT8_MAX : value);
}

float edgectl_dequantize(const struct edgectl_tensor *tensor, int8_t value)
{
    return (float)(value - tensor->zero) * tensor->scale;
}
