/* The wire's cryptography: libsodium, and OpenSSL for ECDSA, which libsodium does not have. */
#include "crypto.h"

#include <openssl/evp.h>
#include <openssl/x509.h>
#include <sodium.h>
#include <string.h>

#include "signature.h"

_Static_assert(sizeof(crypto_hash_sha256_state) <= sizeof(struct sha256), "no room");

static EVP_PKEY *key;

void sha256_begin(struct sha256 *hash)
{
    crypto_hash_sha256_init((crypto_hash_sha256_state *)hash->room);
}

void sha256_add(struct sha256 *hash, const void *bytes, size_t length)
{
    crypto_hash_sha256_update((crypto_hash_sha256_state *)hash->room, bytes, length);
}

void sha256_end(struct sha256 *hash, uint8_t digest[DIGEST_BYTES])
{
    crypto_hash_sha256_final((crypto_hash_sha256_state *)hash->room, digest);
}

bool base64_encode(char *text, size_t size, size_t *written, const uint8_t *bytes, size_t length)
{
    size_t needed = sodium_base64_ENCODED_LEN(length, sodium_base64_VARIANT_ORIGINAL);
    if (size < needed)
        return false;
    sodium_bin2base64(text, size, bytes, length, sodium_base64_VARIANT_ORIGINAL);
    *written = needed - 1;
    return true;
}

bool base64_decode(uint8_t *bytes, size_t size, size_t *written, const char *text, size_t length)
{
    return sodium_base642bin(bytes, size, text, length, NULL, written, NULL,
                             sodium_base64_VARIANT_ORIGINAL) == 0;
}

bool edgectl_signed_by(const uint8_t signature[ED25519_SIGNATURE_BYTES],
                       const uint8_t public_key[ED25519_KEY_BYTES], const uint8_t *message,
                       size_t length)
{
    return crypto_sign_verify_detached(signature, message, length, public_key) == 0;
}

bool device_key_read(const uint8_t *bytes, size_t length)
{
    const unsigned char *at = bytes;
    key = d2i_AutoPrivateKey(NULL, &at, (long)length);
    return key != NULL && EVP_PKEY_base_id(key) == EVP_PKEY_EC;
}

bool device_key_sign(const uint8_t digest[DIGEST_BYTES],
                     uint8_t signature[DEVICE_SIGNATURE_BYTES_MAX], size_t *length)
{
    EVP_PKEY_CTX *context = EVP_PKEY_CTX_new(key, NULL);
    *length = DEVICE_SIGNATURE_BYTES_MAX;
    bool done = context != NULL && EVP_PKEY_sign_init(context) == 1 &&
                EVP_PKEY_CTX_set_signature_md(context, EVP_sha256()) == 1 &&
                EVP_PKEY_sign(context, signature, length, digest, DIGEST_BYTES) == 1;
    EVP_PKEY_CTX_free(context);
    return done;
}
