#include "text.h"

#include <string.h>

#include "crypto.h"

struct text text_in(char *bytes, size_t size)
{
    bytes[0] = '\0';
    return (struct text){.bytes = bytes, .size = size};
}

void text_add_bytes(struct text *text, const char *bytes, size_t length)
{
    if (text->full || length >= text->size - text->length) {
        text->full = true;
        return;
    }
    memcpy(text->bytes + text->length, bytes, length);
    text->length += length;
    text->bytes[text->length] = '\0';
}

void text_add(struct text *text, const char *what)
{
    text_add_bytes(text, what, strlen(what));
}

void text_add_number(struct text *text, uint64_t number)
{
    char digits[20];
    size_t at = sizeof digits;
    do
        digits[--at] = (char)('0' + number % 10);
    while ((number /= 10) != 0);
    text_add_bytes(text, digits + at, sizeof digits - at);
}

void text_add_hex(struct text *text, const uint8_t *bytes, size_t length)
{
    static const char DIGITS[] = "0123456789abcdef";
    for (size_t i = 0; i < length; i++)
        text_add_bytes(text, (char[]){DIGITS[bytes[i] >> 4], DIGITS[bytes[i] & 15]}, 2);
}

void text_add_base64(struct text *text, const uint8_t *bytes, size_t length)
{
    size_t written = 0;
    if (text->full ||
        !base64_encode(text->bytes + text->length, text->size - text->length, &written, bytes,
                       length)) {
        text->full = true;
        return;
    }
    text->length += written;
}

static int digit_of(char one)
{
    if (one >= '0' && one <= '9')
        return one - '0';
    return one >= 'a' && one <= 'f' ? one - 'a' + 10 : -1;
}

bool text_read_hex(const char *digits, size_t count, uint8_t *bytes, size_t length)
{
    if (count != 2 * length)
        return false;
    for (size_t i = 0; i < length; i++) {
        int high = digit_of(digits[2 * i]), low = digit_of(digits[2 * i + 1]);
        if (high < 0 || low < 0)
            return false;
        bytes[i] = (uint8_t)(high << 4 | low);
    }
    return true;
}
