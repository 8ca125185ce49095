#include "json.h"

#include <string.h>

struct reader {
    const char *at, *end;
};

static bool is_space(char one)
{
    return one == ' ' || one == '\t' || one == '\n' || one == '\r';
}

static void skip_spaces(struct reader *reader)
{
    while (reader->at < reader->end && is_space(*reader->at))
        reader->at++;
}

static bool take(struct reader *reader, char one)
{
    skip_spaces(reader);
    if (reader->at == reader->end || *reader->at != one)
        return false;
    reader->at++;
    return true;
}

static bool skip_string(struct reader *reader)
{
    if (!take(reader, '"'))
        return false;
    for (; reader->at < reader->end; reader->at++) {
        if (*reader->at == '"') {
            reader->at++;
            return true;
        }
        if ((unsigned char)*reader->at < ' ')
            return false;
        if (*reader->at == '\\' && ++reader->at == reader->end)
            return false;
    }
    return false;
}

/* Numbers and the three words: the characters that they are made of. */
static bool skip_plain(struct reader *reader)
{
    const char *begun = reader->at;
    while (reader->at < reader->end && *reader->at != '\0' &&
           strchr("+-.0123456789Eaeflnrstu", *reader->at) != NULL)
        reader->at++;
    return reader->at > begun;
}

static bool skip_value(struct reader *reader, int depth);

static bool skip_members(struct reader *reader, int depth, bool named, char end)
{
    if (take(reader, end))
        return true;
    do {
        if (named && !(skip_string(reader) && take(reader, ':')))
            return false;
        if (!skip_value(reader, depth + 1))
            return false;
    } while (take(reader, ','));
    return take(reader, end);
}

static bool skip_value(struct reader *reader, int depth)
{
    skip_spaces(reader);
    if (depth > JSON_DEPTH_MAX || reader->at == reader->end)
        return false;
    if (*reader->at == '"')
        return skip_string(reader);
    if (take(reader, '{'))
        return skip_members(reader, depth, true, '}');
    if (take(reader, '['))
        return skip_members(reader, depth, false, ']');
    return skip_plain(reader);
}

/* Skip a value and return where it was. */
static struct json next_value(struct reader *reader)
{
    skip_spaces(reader);
    const char *begun = reader->at;
    if (!skip_value(reader, 0))
        return JSON_NONE;
    return (struct json){begun, (size_t)(reader->at - begun)};
}

struct json json_read(const char *text, size_t length)
{
    struct reader reader = {text, text + length};
    struct json value = next_value(&reader);
    skip_spaces(&reader);
    return reader.at == reader.end ? value : JSON_NONE;
}

struct json json_member(struct json object, const char *name)
{
    if (object.length == 0)
        return JSON_NONE;
    struct reader reader = {object.at, object.at + object.length};
    if (!take(&reader, '{'))
        return JSON_NONE;
    for (;;) {
        struct json key = next_value(&reader);
        if (key.length == 0 || !take(&reader, ':'))
            return JSON_NONE;
        struct json value = next_value(&reader);
        if (json_is(key, name))
            return value;
        if (!take(&reader, ','))
            return JSON_NONE;
    }
}

struct json json_item(struct json array, uint32_t number)
{
    if (array.length == 0)
        return JSON_NONE;
    struct reader reader = {array.at, array.at + array.length};
    if (!take(&reader, '['))
        return JSON_NONE;
    for (;; number--) {
        struct json value = next_value(&reader);
        if (number == 0 || value.length == 0)
            return value;
        if (!take(&reader, ','))
            return JSON_NONE;
    }
}

struct json json_inside(struct json value)
{
    if (value.length < 2 || value.at[0] != '"' || memchr(value.at, '\\', value.length) != NULL)
        return JSON_NONE;
    return (struct json){value.at + 1, value.length - 2};
}

bool json_text(struct json value, char *text, size_t size)
{
    struct json inside = json_inside(value);
    if (inside.at == NULL || inside.length >= size)
        return false;
    memcpy(text, inside.at, inside.length);
    text[inside.length] = '\0';
    return true;
}

bool json_is(struct json value, const char *text)
{
    struct json inside = json_inside(value);
    return inside.at != NULL && inside.length == strlen(text) &&
           memcmp(inside.at, text, inside.length) == 0;
}

bool json_number(struct json value, uint64_t *number)
{
    uint64_t found = 0;
    if (value.length == 0 || value.length > 19) /* as many nines fit */
        return false;
    for (size_t i = 0; i < value.length; i++) {
        if (value.at[i] < '0' || value.at[i] > '9')
            return false;
        found = 10 * found + (uint64_t)(value.at[i] - '0');
    }
    *number = found;
    return true;
}
