#include "kernels.h"

#include "bytes.h"

_Static_assert(-1 >> 1 == -1, "this compiler has to shift negative numbers as two's complement");

/* A number below 2^30, to multiply integers by. */
struct factor {
    int32_t multiplier, shift;
};

static struct factor factor_of(const struct edgectl_step *step, int32_t number)
{
    const uint8_t *at = step->file + step->factors + 8 * number;
    return (struct factor){load_i32(at), load_i32(at + 4)};
}

/* product / 2^shift, to the nearest integer, halves upwards. */
static int64_t rounded(int64_t product, int32_t shift)
{
    return (product + ((int64_t)1 << (shift - 1))) >> shift;
}

static int8_t limited(const struct edgectl_step *step, int64_t value)
{
    return (int8_t)(value < step->lowest    ? step->lowest
                    : value > step->highest ? step->highest
                                            : value);
}

static int8_t scaled(const struct edgectl_step *step, int32_t sum, struct factor factor,
                     int32_t zero)
{
    return limited(step, rounded((int64_t)sum * factor.multiplier, factor.shift) + zero);
}

/* ---------------------------------------------------------------- windows */

/* The taps of a window along one axis that lie inside of the input: first <= tap < end. */
struct span {
    int32_t origin; /* where tap 0 would lie */
    int32_t first, end;
};

static struct span span_of(const struct edgectl_step *step, int axis, int32_t place, int32_t size)
{
    int32_t dilation = step->dilation[axis];
    struct span span = {.origin = place * step->stride[axis] - step->padding[axis]};
    span.first = span.origin < 0 ? (-span.origin + dilation - 1) / dilation : 0;
    int32_t inside = size - span.origin; /* taps at less than that many places from tap 0 */
    span.end = inside > 0 ? (inside + dilation - 1) / dilation : 0;
    if (span.end > step->kernel[axis])
        span.end = step->kernel[axis];
    return span;
}

/* Sum of (value - zero) * weight over the part of a window that lies in one channel. */
static int32_t window_sum(const struct edgectl_step *step, const struct edgectl_tensor *first,
                          const int8_t *channel, const uint8_t *weights, struct span rows,
                          struct span columns)
{
    int32_t sum = 0;
    for (int32_t i = rows.first; i < rows.end; i++) {
        const int8_t *row = channel + (rows.origin + i * step->dilation[0]) * first->width;
        const uint8_t *weight = weights + i * step->kernel[1];
        for (int32_t j = columns.first; j < columns.end; j++)
            sum += (row[columns.origin + j * step->dilation[1]] - first->zero) *
                   load_i8(weight + j);
    }
    return sum;
}

/* The same for a window of one place, over all channels: most products of most models. */
static int32_t point_sum(const struct edgectl_tensor *first, const int8_t *source,
                         const uint8_t *weights, int32_t inside)
{
    int32_t sum = 0, size = first->height * first->width;
    for (int32_t i = 0; i < inside; i++)
        sum += (source[i * size] - first->zero) * load_i8(weights + i);
    return sum;
}

/* Sum over all channels that an output channel sees. */
static int32_t product_sum(const struct edgectl_step *step, const struct edgectl_tensor *first,
                           const int8_t *source, const uint8_t *weights, struct span rows,
                           struct span columns)
{
    int32_t inside = first->channels / step->groups;
    int32_t area = step->kernel[0] * step->kernel[1], size = first->height * first->width;
    if (area == 1 && rows.first < rows.end && columns.first < columns.end)
        return point_sum(first, source + rows.origin * first->width + columns.origin, weights,
                         inside);
    int32_t sum = 0;
    for (int32_t i = 0; i < inside; i++)
        sum += window_sum(step, first, source + i * size, weights + i * area, rows, columns);
    return sum;
}

void edgectl_convolution(const struct edgectl_step *step, const struct edgectl_tensor *first,
                         const struct edgectl_tensor *output, int8_t *arena)
{
    int32_t inside = first->channels / step->groups;
    int32_t outside = output->channels / step->groups;
    int32_t taps = inside * step->kernel[0] * step->kernel[1];
    int32_t size = first->height * first->width;
    int8_t *target = arena + output->offset;
    for (int32_t channel = 0; channel < output->channels; channel++) {
        const int8_t *source = arena + first->offset + channel / outside * inside * size;
        const uint8_t *weights = step->file + step->weights + channel * taps;
        int32_t bias = load_i32(step->file + step->biases + 4 * channel);
        struct factor factor = factor_of(step, channel);
        for (int32_t row = 0; row < output->height; row++) {
            struct span rows = span_of(step, 0, row, first->height);
            for (int32_t column = 0; column < output->width; column++) {
                struct span columns = span_of(step, 1, column, first->width);
                int32_t sum = bias + product_sum(step, first, source, weights, rows, columns);
                *target++ = scaled(step, sum, factor, output->zero);
            }
        }
    }
}

/* The maximum, or the sum of (value - zero), of the part of a window that lies in one channel. */
static int32_t pooled(const struct edgectl_step *step, const struct edgectl_tensor *first,
                      const int8_t *channel, struct span rows, struct span columns)
{
    bool maximum = step->kind == STEP_MAXIMUM_POOL;
    int32_t found = maximum ? INT8_MIN : 0;
    for (int32_t i = rows.first; i < rows.end; i++) {
        const int8_t *row = channel + (rows.origin + i * step->dilation[0]) * first->width;
        for (int32_t j = columns.first; j < columns.end; j++) {
            int32_t value = row[columns.origin + j * step->dilation[1]];
            if (!maximum)
                found += value - first->zero;
            else if (value > found)
                found = value;
        }
    }
    return found;
}

void edgectl_pool(const struct edgectl_step *step, const struct edgectl_tensor *first,
                  const struct edgectl_tensor *output, int8_t *arena)
{
    int8_t *target = arena + output->offset;
    for (int32_t channel = 0; channel < output->channels; channel++) {
        const int8_t *source = arena + first->offset + channel * first->height * first->width;
        for (int32_t row = 0; row < output->height; row++) {
            struct span rows = span_of(step, 0, row, first->height);
            for (int32_t column = 0; column < output->width; column++) {
                struct span columns = span_of(step, 1, column, first->width);
                int32_t found = pooled(step, first, source, rows, columns);
                *target++ = step->kind == STEP_MAXIMUM_POOL
                                ? limited(step, found)
                                : scaled(step, found, factor_of(step, 0), output->zero);
            }
        }
    }
}

void edgectl_add(const struct edgectl_step *step, const struct edgectl_tensor *first,
                 const struct edgectl_tensor *second, const struct edgectl_tensor *output,
                 int8_t *arena)
{
    struct factor one = factor_of(step, 0), other = factor_of(step, 1);
    const int8_t *a = arena + first->offset, *b = arena + second->offset;
    int8_t *target = arena + output->offset;
    for (int32_t i = 0; i < output->elements; i++) {
        int64_t sum = (int64_t)(a[i] - first->zero) * one.multiplier +
                      (int64_t)(b[i] - second->zero) * other.multiplier;
        target[i] = limited(step, rounded(sum, one.shift) + output->zero);
    }
}

void edgectl_table(const struct edgectl_step *step, const struct edgectl_tensor *first,
                   const struct edgectl_tensor *output, int8_t *arena)
{
    const int8_t *source = arena + first->offset;
    int8_t *target = arena + output->offset;
    for (int32_t i = 0; i < output->elements; i++)
        target[i] = load_i8(step->file + step->weights + (source[i] - INT8_MIN));
}

/* e^(value - largest), in units of 2^-16, from the table of the step. */
static uint32_t power_of(const struct edgectl_step *step, int32_t below)
{
    return load_u32(step->file + step->weights + 4 * below);
}

void edgectl_softmax(const struct edgectl_step *step, const struct edgectl_tensor *first,
                     const struct edgectl_tensor *output, int8_t *arena)
{
    const int8_t *source = arena + first->offset;
    int8_t *target = arena + output->offset;
    int32_t largest = INT8_MIN;
    for (int32_t i = 0; i < first->elements; i++)
        largest = source[i] > largest ? source[i] : largest;
    uint64_t sum = 0; /* at least 2^16, at most 2^36 */
    for (int32_t i = 0; i < first->elements; i++)
        sum += power_of(step, largest - source[i]);
    for (int32_t i = 0; i < first->elements; i++) {
        uint64_t power = power_of(step, largest - source[i]);
        target[i] = limited(step, (int64_t)((512 * power + sum) / (2 * sum)) + INT8_MIN);
    }
}
