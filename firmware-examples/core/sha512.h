/* SHA-512, FIPS 180-4. */
#ifndef EDGECTL_SHA512_H
#define EDGECTL_SHA512_H

#include <stddef.h>
#include <stdint.h>

enum { SHA512_BYTES = 64, SHA512_BLOCK_BYTES = 128 };

struct sha512 {
    uint64_t state[8];
    uint64_t length;
    uint8_t block[SHA512_BLOCK_BYTES];
};

/* Begin a message. */
void sha512_begin(struct sha512 *hash);

/* Add bytes to it, as often as needed. */
void sha512_add(struct sha512 *hash, const uint8_t *bytes, size_t length);

/* End it and write its digest. */
void sha512_end(struct sha512 *hash, uint8_t digest[SHA512_BYTES]);

#endif
