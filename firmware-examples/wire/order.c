#include "order.h"

#include <string.h>

#include "dates.h"
#include "envelope.h"
#include "manifest.h"

#define ORDER_KIND "application/vnd.edgectl.order.v1+json"

static char opened[OPENED_BYTES_MAX];
static struct json content;

/* The server writes UTC, with a Z. Such texts are compared as far as the seconds. */
static bool is_past(struct json value, uint32_t now)
{
    char date[DATE_CHARACTERS + 1];
    struct json inside = json_inside(value);
    date_text(now, date);
    return inside.length < DATE_CHARACTERS || inside.at[inside.length - 1] != 'Z' ||
           memcmp(inside.at, date, DATE_CHARACTERS - 1) <= 0;
}

/* The first candidate is the server's choice for this device; the others are for when it is bad. */
static struct json choose(struct json candidates, order_bad *bad)
{
    struct json first = json_item(candidates, 0), one;
    uint8_t manifest[DIGEST_BYTES];
    for (uint32_t i = 0; bad != NULL && (one = json_item(candidates, i)).length != 0; i++)
        if (manifest_digest(json_member(one, "manifest"), manifest) && !bad(manifest))
            return one;
    return first;
}

static bool read_release(struct json slot, const char *model, order_bad *bad,
                         struct release *release)
{
    struct json candidate = choose(json_member(slot, "candidates"), bad);
    struct json rollout = json_member(slot, "rollout");
    release->rollout[0] = '\0';
    return json_is(json_member(slot, "model"), model) &&
           json_text(json_member(slot, "version"), release->version, sizeof release->version) &&
           json_text(json_member(candidate, "variant"), release->variant,
                     sizeof release->variant) &&
           (json_inside(rollout).at == NULL ||
            json_text(rollout, release->rollout, sizeof release->rollout)) &&
           manifest_digest(json_member(candidate, "manifest"), release->manifest);
}

enum order_verdict order_read(struct order *order, const struct identity *identity,
                              const char *slot, order_bad *bad, uint64_t floor, uint32_t now,
                              const char *message, size_t length, uint64_t *counter)
{
    struct json envelope = json_read(message, length);
    if (envelope.length == 0)
        return ORDER_MALFORMED;
    content = envelope_open(identity, ORDER_KIND, envelope, opened);
    if (content.length == 0)
        return ORDER_UNSIGNED;
    struct json wanted = json_member(json_member(content, "slots"), slot);
    struct order found = {.wanted = wanted.length != 0};
    if (!json_number(json_member(content, "counter"), &found.counter) || found.counter == 0 ||
        !json_text(json_member(content, "nonce"), found.nonce, sizeof found.nonce) ||
        (found.wanted && !read_release(wanted, slot, bad, &found.release)))
        return ORDER_MALFORMED;
    *counter = found.counter;
    if (!json_is(json_member(content, "device"), identity->device))
        return ORDER_OTHER_DEVICE;
    if (found.counter < floor)
        return ORDER_REPLAYED;
    if (is_past(json_member(content, "expires_at"), now))
        return ORDER_EXPIRED;
    *order = found;
    return ORDER_OBEYED;
}

struct json order_content(void)
{
    return content;
}
