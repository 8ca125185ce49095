/* The note of a slot: which release of the server the bundle in it is.
 *
 * A bundle may not name itself as the server does; what its order said is kept with it, so that a
 * device knows after any reset what it runs.
 */
#ifndef NOTE_H
#define NOTE_H

#include "order.h"

struct note {
    uint64_t counter; /* of the order; 0: there is no note */
    uint32_t since;   /* when the bundle was whole, seconds since 1970 */
    uint32_t bytes;   /* of the bundle */
    uint8_t digest[8]; /* first bytes of the payload's digest: the note is of this bundle */
    char nonce[NONCE_CHARACTERS + 1];
    struct release release;
};

#endif
