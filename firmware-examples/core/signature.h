/* Ed25519, RFC 8032; the arithmetic is monocypher's, the hash ours. */
#ifndef EDGECTL_SIGNATURE_H
#define EDGECTL_SIGNATURE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { ED25519_KEY_BYTES = 32, ED25519_SIGNATURE_BYTES = 64 };

/* Say whether a message was signed with a key.
 *
 * signature: as RFC 8032, 5.1.6 says.
 * key: the public one.
 */
bool edgectl_signed_by(const uint8_t signature[ED25519_SIGNATURE_BYTES],
                       const uint8_t key[ED25519_KEY_BYTES], const uint8_t *message,
                       size_t length);

#endif
