/* JSON as it lies in a buffer: values are found, nothing is copied or allocated.
 *
 * Rule: a value is a piece of the text with a beginning and an end; whatever is asked of something
 * that is none, or of another kind, has the value JSON_NONE or false for an answer. So a path can be
 * walked without a look at each step. Texts with escapes are no answer either: nothing that a device
 * has to know contains one.
 */
#ifndef JSON_H
#define JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { JSON_DEPTH_MAX = 16 };

struct json {
    const char *at;
    size_t length; /* 0: there is no such value */
};

#define JSON_NONE ((struct json){NULL, 0})

/* Check a whole text, RFC 8259 but for the insides of numbers and escapes; JSON_NONE: it is none. */
struct json json_read(const char *text, size_t length);

/* Return a member of an object by its name. */
struct json json_member(struct json object, const char *name);

/* Return an item of an array; number 0 is the first. */
struct json json_item(struct json array, uint32_t number);

/* Copy a string, with a zero at its end. False: it is none, or does not fit. */
bool json_text(struct json value, char *text, size_t size);

/* Return what is between the quotes of a string, or JSON_NONE. */
struct json json_inside(struct json value);

/* Read a whole number that is not negative. */
bool json_number(struct json value, uint64_t *number);

/* Say whether a value is a string of these characters. */
bool json_is(struct json value, const char *text);

#endif
