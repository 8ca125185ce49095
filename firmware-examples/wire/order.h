/* The order: which release the server wants the device to run. docs/protocol.md, "Order". */
#ifndef ORDER_H
#define ORDER_H

#include "crypto.h"
#include "identity.h"
#include "json.h"
#include "text.h"

enum { RELEASE_NAME_MAX = 64, NONCE_CHARACTERS = 32 };

/* A release as the server names it. */
struct release {
    char version[RELEASE_NAME_MAX + 1], variant[RELEASE_NAME_MAX + 1], rollout[RELEASE_NAME_MAX + 1]; /* or "" */
    uint8_t manifest[DIGEST_BYTES];
};

struct order {
    uint64_t counter; /* 0: there is none yet */
    char nonce[NONCE_CHARACTERS + 1];
    bool wanted; /* it names a release for our slot */
    struct release release;
};

enum order_verdict {
    ORDER_OBEYED,
    ORDER_MALFORMED,
    ORDER_UNSIGNED, /* or not by a key that we know */
    ORDER_OTHER_DEVICE,
    ORDER_REPLAYED, /* older than what was accepted */
    ORDER_EXPIRED,
};

/* Say whether a bundle is known to be bad, by its manifest. */
typedef bool order_bad(const uint8_t manifest[DIGEST_BYTES]);

/* Read an order.
 *
 * slot: name of the device's one slot, which is that of its model.
 * bad: of the candidates the first is taken that is not bad, or the first of all; NULL: none is bad.
 * floor: counter of the newest order that was accepted; it is taken again.
 * now: seconds since 1970.
 * counter: is set as soon as the signature is good.
 */
enum order_verdict order_read(struct order *order, const struct identity *identity,
                              const char *slot, order_bad *bad, uint64_t floor, uint32_t now,
                              const char *message, size_t length, uint64_t *counter);

/* Return what the order that was read last says, as long as no other is read. */
struct json order_content(void);

#endif
