/* The wire's cryptography, by mbedTLS. */
#include "crypto.h"

#include <string.h>

#include "host.h"
#include "mbedtls/base64.h"
#include "mbedtls/pk.h"
#include "mbedtls/sha256.h"

_Static_assert(sizeof(mbedtls_sha256_context) <= sizeof(struct sha256), "no room");
_Static_assert(MBEDTLS_ECDSA_MAX_LEN <= DEVICE_SIGNATURE_BYTES_MAX, "no room");

static mbedtls_pk_context key;

static int random_bytes(void *context, unsigned char *bytes, size_t length)
{
    (void)context;
    return host_random(bytes, length) ? 0 : -1;
}

void sha256_begin(struct sha256 *hash)
{
    mbedtls_sha256_context *context = (mbedtls_sha256_context *)hash->room;
    mbedtls_sha256_init(context);
    mbedtls_sha256_starts(context, 0);
}

void sha256_add(struct sha256 *hash, const void *bytes, size_t length)
{
    mbedtls_sha256_update((mbedtls_sha256_context *)hash->room, bytes, length);
}

void sha256_end(struct sha256 *hash, uint8_t digest[DIGEST_BYTES])
{
    if (mbedtls_sha256_finish((mbedtls_sha256_context *)hash->room, digest) != 0)
        memset(digest, 0, DIGEST_BYTES);
}

bool base64_encode(char *text, size_t size, size_t *written, const uint8_t *bytes, size_t length)
{
    return mbedtls_base64_encode((unsigned char *)text, size, written, bytes, length) == 0;
}

bool base64_decode(uint8_t *bytes, size_t size, size_t *written, const char *text, size_t length)
{
    return mbedtls_base64_decode(bytes, size, written, (const unsigned char *)text, length) == 0;
}

bool device_key_read(const uint8_t *bytes, size_t length)
{
    mbedtls_pk_init(&key);
    return mbedtls_pk_parse_key(&key, bytes, length, NULL, 0, random_bytes, NULL) == 0;
}

bool device_key_sign(const uint8_t digest[DIGEST_BYTES],
                     uint8_t signature[DEVICE_SIGNATURE_BYTES_MAX], size_t *length)
{
    return mbedtls_pk_sign(&key, MBEDTLS_MD_SHA256, digest, DIGEST_BYTES, signature,
                           DEVICE_SIGNATURE_BYTES_MAX, length, random_bytes, NULL) == 0;
}
