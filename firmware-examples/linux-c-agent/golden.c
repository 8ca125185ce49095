#include "golden.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "bytes.h"

enum {
    LOCAL_BYTES = 30,
    CENTRAL_BYTES = 46,
    END_BYTES = 22,
    COMMENT_MAX = 65535,
    ENTRIES_MAX = 128,
    STORED = 0,
};

#define LOCAL_MAGIC 0x04034B50u
#define CENTRAL_MAGIC 0x02014B50u
#define END_MAGIC 0x06054B50u

struct bytes {
    const uint8_t *at;
    size_t length; /* 0: there is nothing */
};

/* ---------------------------------------------------------------- ZIP */

/* Find the end of the directory: the last 22 bytes, or before a comment. */
static const uint8_t *find_end(struct bytes zip)
{
    for (size_t back = END_BYTES; back <= zip.length && back <= END_BYTES + COMMENT_MAX; back++)
        if (load_u32(zip.at + zip.length - back) == END_MAGIC)
            return zip.at + zip.length - back;
    return NULL;
}

/* What an entry of the directory holds; the sizes before the data are not believed. */
static struct bytes content_of(struct bytes zip, const uint8_t *entry)
{
    size_t size = load_u32(entry + 24), at = load_u32(entry + 42);
    if (load_u16(entry + 10) != STORED || load_u32(entry + 20) != size || size == 0 ||
        at > zip.length || zip.length - at < LOCAL_BYTES || load_u32(zip.at + at) != LOCAL_MAGIC)
        return (struct bytes){NULL, 0};
    size_t begin = at + LOCAL_BYTES + load_u16(zip.at + at + 26) + load_u16(zip.at + at + 28);
    if (begin > zip.length || size > zip.length - begin)
        return (struct bytes){NULL, 0};
    return (struct bytes){zip.at + begin, size};
}

static struct bytes find(struct bytes zip, const char *name)
{
    const uint8_t *end = zip.length < END_BYTES ? NULL : find_end(zip);
    if (end == NULL || load_u16(end + 10) > ENTRIES_MAX)
        return (struct bytes){NULL, 0};
    size_t at = load_u32(end + 16), length = strlen(name);
    for (int left = load_u16(end + 10); left > 0; left--) {
        if (at > zip.length || zip.length - at < CENTRAL_BYTES ||
            load_u32(zip.at + at) != CENTRAL_MAGIC)
            break;
        const uint8_t *entry = zip.at + at;
        size_t named = load_u16(entry + 28);
        size_t next = at + CENTRAL_BYTES + named + load_u16(entry + 30) + load_u16(entry + 32);
        if (next > zip.length)
            break;
        if (named == length && memcmp(entry + CENTRAL_BYTES, name, length) == 0)
            return content_of(zip, entry);
        at = next;
    }
    return (struct bytes){NULL, 0};
}

/* ---------------------------------------------------------------- .npy */

/* Read the shape's first number and the product of all. False: it is no shape. */
static bool read_shape(const char *at, uint64_t *first, uint64_t *product)
{
    *product = 1;
    for (int axis = 0; *at != ')'; axis++) {
        uint64_t size = 0;
        int digits = 0;
        for (; *at >= '0' && *at <= '9' && digits < 10; at++, digits++)
            size = 10 * size + (uint64_t)(*at - '0');
        if (digits == 0 || axis > AXES_MAX || (size != 0 && *product > UINT32_MAX / size))
            return false;
        if (axis == 0)
            *first = size;
        *product *= size;
        while (*at == ',' || *at == ' ')
            at++;
    }
    return true;
}

/* Say whether the header describes so many cases of a tensor. */
static bool describes(const char *header, const struct tensor *tensor, uint32_t cases)
{
    char type[32];
    uint64_t first = 0, product = 0;
    snprintf(type, sizeof type, "'descr': '%s'", tensor->type->numpy);
    const char *shape = strstr(header, "'shape': (");
    return strstr(header, type) != NULL && strstr(header, "'fortran_order': False") != NULL &&
           shape != NULL && read_shape(shape + strlen("'shape': ("), &first, &product) &&
           first == cases && product == (uint64_t)cases * tensor->elements;
}

/* Return where the elements of an array begin, which has to hold so many cases of a tensor. */
static const uint8_t *elements_of(struct bytes npy, const struct tensor *tensor, uint32_t cases)
{
    char header[1024];
    if (npy.length < 12 || memcmp(npy.at, "\x93NUMPY", 6) != 0 || npy.at[6] < 1 || npy.at[6] > 3)
        return NULL;
    size_t begin = npy.at[6] == 1 ? 10 : 12;
    size_t length = npy.at[6] == 1 ? load_u16(npy.at + 8) : load_u32(npy.at + 8);
    if (length >= sizeof header || length > npy.length - begin)
        return NULL;
    memcpy(header, npy.at + begin, length);
    header[length] = '\0';
    size_t there = npy.length - begin - length;
    if (!describes(header, tensor, cases) || there / tensor->bytes != cases ||
        there % tensor->bytes != 0)
        return NULL;
    return npy.at + begin + length;
}

static const uint8_t *find_array(struct bytes zip, const char *kind, const struct tensor *tensor,
                                 uint32_t cases)
{
    char name[TENSOR_NAME_MAX + 16];
    snprintf(name, sizeof name, "%s.%s.npy", kind, tensor->name);
    struct bytes npy = find(zip, name);
    return npy.length == 0 ? NULL : elements_of(npy, tensor, cases);
}

bool golden_read(struct golden *golden, const struct contract *contract, const uint8_t *file,
                 size_t length)
{
    struct bytes zip = {file, length};
    *golden = (struct golden){0};
    for (size_t i = 0; i < contract->input_count; i++) {
        golden->inputs[i] = find_array(zip, "input", &contract->inputs[i], contract->cases);
        if (golden->inputs[i] == NULL)
            return false;
    }
    for (size_t i = 0; i < contract->output_count; i++) {
        if (!contract->outputs[i].compared)
            continue;
        golden->outputs[i] = find_array(zip, "output", &contract->outputs[i], contract->cases);
        if (golden->outputs[i] == NULL)
            return false;
    }
    return true;
}

bool golden_agrees(const struct tensor *tensor, const uint8_t *got, const uint8_t *golden,
                   double *largest)
{
    bool agrees = true;
    for (size_t i = 0; i < tensor->elements; i++) {
        double one = tensor_number(tensor->type, got + i * tensor->type->bytes);
        double other = tensor_number(tensor->type, golden + i * tensor->type->bytes);
        if (one == other || (isnan(one) && isnan(other)))
            continue;
        if (!isfinite(one) || !isfinite(other)) {
            *largest = DBL_MAX;
            agrees = false;
            continue;
        }
        double difference = fabs(one - other);
        if (difference > *largest)
            *largest = difference;
        if (difference > tensor->absolute + tensor->relative * fabs(other))
            agrees = false;
    }
    return agrees;
}
