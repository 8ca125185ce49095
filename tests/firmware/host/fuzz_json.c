/* Any bytes as JSON: refused, or every value that is found lies within them. */
#include <stdlib.h>
#include <string.h>

#include "json.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length);

static void check(struct json value, const char *text, size_t length)
{
    if (value.length != 0 && (value.at < text || value.length > length ||
                              (size_t)(value.at - text) > length - value.length))
        abort();
}

/* Ask everything of a value, and the same of what it holds. */
static void walk(struct json value, const char *text, size_t length, int depth)
{
    static const char *const NAMES[] = {"a", "payload", ""};
    char copy[8];
    uint64_t number = 0;
    check(value, text, length);
    if (json_text(value, copy, sizeof copy) && strlen(copy) >= sizeof copy)
        abort();
    if (json_number(value, &number) && number > 9999999999999999999u)
        abort();
    for (size_t i = 0; depth > 0 && i < sizeof NAMES / sizeof *NAMES; i++) {
        walk(json_member(value, NAMES[i]), text, length, depth - 1);
        walk(json_item(value, (uint32_t)i), text, length, depth - 1);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    char *exact = malloc(length == 0 ? 1 : length); /* for the sanitizer */
    if (exact == NULL)
        abort();
    memcpy(exact, bytes, length);
    walk(json_read(exact, length), exact, length, 3);
    free(exact);
    return 0;
}
