/* What the wire needs of cryptography; each port has its own libraries for it.
 *
 * Ed25519 is not here: a port links the core's signature.c, or says edgectl_signed_by itself.
 */
#ifndef CRYPTO_H
#define CRYPTO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { DIGEST_BYTES = 32, DEVICE_SIGNATURE_BYTES_MAX = 72 };

/* A message that is being hashed; what is in it is the port's own business. */
struct sha256 {
    uint64_t room[16];
};

/* SHA-256: begin, add as often as needed, end. What cannot be computed ends in zeros. */
void sha256_begin(struct sha256 *hash);
void sha256_add(struct sha256 *hash, const void *bytes, size_t length);
void sha256_end(struct sha256 *hash, uint8_t digest[DIGEST_BYTES]);

/* Write base64 with padding, and a zero that does not count. False: it does not fit. */
bool base64_encode(char *text, size_t size, size_t *written, const uint8_t *bytes, size_t length);

/* Read it. False: it is none, or does not fit. */
bool base64_decode(uint8_t *bytes, size_t size, size_t *written, const char *text, size_t length);

/* Read the key that signs in the device's name (ECDSA, P-256), PKCS #8 in DER. False: it is none. */
bool device_key_read(const uint8_t *bytes, size_t length);

/* Sign the SHA-256 of a message, in DER. False: it cannot be done. */
bool device_key_sign(const uint8_t digest[DIGEST_BYTES],
                     uint8_t signature[DEVICE_SIGNATURE_BYTES_MAX], size_t *length);

#endif
