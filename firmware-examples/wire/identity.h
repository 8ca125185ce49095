/* Who the device is and whom it believes: written into its flash once, by provision.py.
 *
 * `EMI1`, the length of the rest, its CRC-32 (both 4 bytes, little-endian), then fields: a length of
 * two bytes and so many bytes each, in the order of `enum field`.
 */
#ifndef IDENTITY_H
#define IDENTITY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "signature.h"

#ifndef EDGECTL_HOST_CHARACTERS
#define EDGECTL_HOST_CHARACTERS 15 /* an address of IPv4; a port that looks names up says so */
#endif

enum {
    IDENTITY_NAME_MAX = 64,
    IDENTITY_HOST_MAX = EDGECTL_HOST_CHARACTERS,
    IDENTITY_SERVER_MAX = 255,
    IDENTITY_BYTES_MAX = 4096,
};

/* Bytes that lie in flash. */
struct piece {
    const uint8_t *bytes;
    size_t length;
};

struct identity {
    char device[IDENTITY_NAME_MAX + 1];
    char host[IDENTITY_HOST_MAX + 1];
    uint16_t port;
    char server[IDENTITY_SERVER_MAX + 1]; /* that the broker's certificate has to name */
    char key_id[65];
    struct piece authority, certificate, key; /* DER: X.509, X.509, PKCS #8 */
    struct piece order_keys;                  /* public ones, Ed25519, one behind the other */
};

/* Read it; false: there is none, or it is damaged. */
bool identity_read(struct identity *identity, const uint8_t *memory);

#endif
