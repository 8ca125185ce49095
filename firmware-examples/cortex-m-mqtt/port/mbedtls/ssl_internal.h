/* What lwIP 2.2.1 knows of mbedTLS 2, by what mbedTLS 3 has in its place. */
#include "mbedtls/ctr_drbg.h"
#include "mbedtls/pk.h"
#include "ssl_misc.h"

#define MBEDTLS_SSL_MAX_CONTENT_LEN MBEDTLS_SSL_IN_CONTENT_LEN
#define mbedtls_ssl_get_max_frag_len mbedtls_ssl_get_output_max_frag_len
#define mbedtls_pk_parse_key(key, bytes, length, word, word_length)                                \
    (mbedtls_pk_parse_key)(key, bytes, length, word, word_length, mbedtls_ctr_drbg_random,         \
                           &altcp_tls_entropy_rng->ctr_drbg)
