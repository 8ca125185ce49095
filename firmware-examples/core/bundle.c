#include "bundle.h"

#include "bytes.h"

/* Offsets in the header. */
enum {
    MAGIC_AT = 0,
    PAYLOAD_BYTES_AT = 4,
    COUNTER_AT = 8,
    ARENA_BYTES_AT = 16,
    CASES_AT = 20,
    MODEL_OFFSET_AT = 24,
    RESERVED_AT = 28,
    NAME_AT = 32,
    DIGEST_AT = NAME_AT + BUNDLE_NAME_BYTES,
    SIGNATURE_AT = DIGEST_AT + SHA512_BYTES,
};

/* Say whether the name in the header is this one, with nothing but zeros behind it. */
static bool is_named(const uint8_t *field, const char *name)
{
    bool ended = false;
    for (int i = 0; i < BUNDLE_NAME_BYTES; i++) {
        ended = ended || name[i] == '\0';
        if (field[i] != (ended ? 0 : (uint8_t)name[i]))
            return false;
    }
    return ended || name[BUNDLE_NAME_BYTES] == '\0';
}

enum edgectl_status edgectl_read_header(struct edgectl_bundle *bundle, const uint8_t *header,
                                        const uint8_t key[ED25519_KEY_BYTES], const char *name)
{
    if (!same_bytes(header + MAGIC_AT, "EMB1", 4))
        return EDGECTL_BAD_BUNDLE;
    if (!edgectl_signed_by(header + SIGNATURE_AT, key, header, SIGNATURE_AT))
        return EDGECTL_BAD_SIGNATURE;
    bundle->payload_bytes = load_u32(header + PAYLOAD_BYTES_AT);
    bundle->counter = load_u64(header + COUNTER_AT);
    bundle->arena_bytes = load_u32(header + ARENA_BYTES_AT);
    bundle->cases = load_u32(header + CASES_AT);
    bundle->model_offset = load_u32(header + MODEL_OFFSET_AT);
    for (int i = 0; i < SHA512_BYTES; i++)
        bundle->digest[i] = header[DIGEST_AT + i];
    if (load_u32(header + RESERVED_AT) != 0 || bundle->cases == 0 ||
        bundle->model_offset % BUNDLE_ALIGNMENT != 0 ||
        bundle->model_offset >= bundle->payload_bytes)
        return EDGECTL_BAD_BUNDLE;
    return is_named(header + NAME_AT, name) ? EDGECTL_OK : EDGECTL_OTHER_MODEL;
}

enum edgectl_status edgectl_check_payload(const struct edgectl_bundle *bundle,
                                          const uint8_t *payload)
{
    struct sha512 hash;
    uint8_t digest[SHA512_BYTES];
    sha512_begin(&hash);
    sha512_add(&hash, payload, bundle->payload_bytes);
    sha512_end(&hash, digest);
    return same_bytes(digest, bundle->digest, sizeof digest) ? EDGECTL_OK : EDGECTL_BAD_PAYLOAD;
}
