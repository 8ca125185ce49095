#include "signature.h"

#include "monocypher.h"
#include "sha512.h"

bool edgectl_signed_by(const uint8_t signature[ED25519_SIGNATURE_BYTES],
                       const uint8_t key[ED25519_KEY_BYTES], const uint8_t *message,
                       size_t length)
{
    struct sha512 hash;
    uint8_t digest[SHA512_BYTES], scalar[32];
    sha512_begin(&hash);
    sha512_add(&hash, signature, 32);
    sha512_add(&hash, key, ED25519_KEY_BYTES);
    sha512_add(&hash, message, length);
    sha512_end(&hash, digest);
    crypto_eddsa_reduce(scalar, digest);
    return crypto_eddsa_check_equation(signature, key, scalar) == 0;
}
