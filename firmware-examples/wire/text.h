/* Text that is put together in a buffer, and never beyond its end. */
#ifndef TEXT_H
#define TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct text {
    char *bytes;
    size_t size; /* of the buffer; the last byte is for the zero at the end */
    size_t length;
    bool full; /* something did not fit: what is there is worth nothing */
};

/* Begin an empty text. */
struct text text_in(char *bytes, size_t size);

/* Add to it. */
void text_add(struct text *text, const char *what);
void text_add_bytes(struct text *text, const char *bytes, size_t length);
void text_add_number(struct text *text, uint64_t number);

/* Add bytes as lower-case hexadecimal digits, or as base64. */
void text_add_hex(struct text *text, const uint8_t *bytes, size_t length);
void text_add_base64(struct text *text, const uint8_t *bytes, size_t length);

/* Read hexadecimal digits, exactly as many as the bytes need. False: there are others. */
bool text_read_hex(const char *digits, size_t count, uint8_t *bytes, size_t length);

#endif
