/* Little-endian numbers in a row of bytes, whatever the processor's own order and alignment are. */
#ifndef EDGECTL_BYTES_H
#define EDGECTL_BYTES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

static inline uint16_t load_u16(const uint8_t *bytes)
{
    return (uint16_t)(bytes[0] | bytes[1] << 8);
}

static inline uint32_t load_u32(const uint8_t *bytes)
{
    return (uint32_t)load_u16(bytes) | (uint32_t)load_u16(bytes + 2) << 16;
}

static inline uint64_t load_u64(const uint8_t *bytes)
{
    return (uint64_t)load_u32(bytes) | (uint64_t)load_u32(bytes + 4) << 32;
}

/* The bits of an unsigned number as two's complement; a cast alone would leave that to the compiler. */
static inline int32_t load_i32(const uint8_t *bytes)
{
    uint32_t bits = load_u32(bytes);
    return bits <= INT32_MAX ? (int32_t)bits : -(int32_t)(UINT32_MAX - bits) - 1;
}

static inline int16_t load_i16(const uint8_t *bytes)
{
    uint16_t bits = load_u16(bytes);
    return (int16_t)(bits <= INT16_MAX ? bits : (int)bits - 65536);
}

static inline int8_t load_i8(const uint8_t *bytes)
{
    return (int8_t)(bytes[0] <= INT8_MAX ? bytes[0] : (int)bytes[0] - 256);
}

static inline void store_u32(uint8_t *bytes, uint32_t number)
{
    for (int i = 0; i < 4; i++)
        bytes[i] = (uint8_t)(number >> 8 * i);
}

static inline void store_u64(uint8_t *bytes, uint64_t number)
{
    store_u32(bytes, (uint32_t)number);
    store_u32(bytes + 4, (uint32_t)(number >> 32));
}

/* Say whether two rows of bytes are the same. */
static inline bool same_bytes(const void *a, const void *b, size_t length)
{
    const uint8_t *one = a, *other = b;
    for (size_t i = 0; i < length; i++)
        if (one[i] != other[i])
            return false;
    return true;
}

#endif
