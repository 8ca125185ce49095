#include <stdint.h>

#include "string.h"

void *memcpy(void *to, const void *from, size_t length)
{
    uint8_t *target = to;
    const uint8_t *source = from;
    while (length-- > 0)
        *target++ = *source++;
    return to;
}

void *memset(void *to, int value, size_t length)
{
    uint8_t *target = to;
    while (length-- > 0)
        *target++ = (uint8_t)value;
    return to;
}

int memcmp(const void *one, const void *other, size_t length)
{
    const uint8_t *left = one, *right = other;
    for (; length > 0; length--, left++, right++)
        if (*left != *right)
            return *left - *right;
    return 0;
}

int strcmp(const char *one, const char *other)
{
    while (*one != '\0' && *one == *other)
        one++, other++;
    return (unsigned char)*one - (unsigned char)*other;
}
