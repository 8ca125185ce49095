#include "envelope.h"

#include <string.h>

#include "crypto.h"
#include "signature.h"

enum { SIGNATURES_MAX = 4, PREFIX_BYTES_MAX = 128 };

bool envelope_begin(const struct identity *identity)
{
    return device_key_read(identity->key.bytes, identity->key.length);
}

/* What is signed stands before the payload: DSSE's pre-authentication encoding. */
static struct text prefix_of(const char *kind, size_t length, char buffer[PREFIX_BYTES_MAX])
{
    struct text prefix = text_in(buffer, PREFIX_BYTES_MAX);
    text_add(&prefix, "DSSEv1 ");
    text_add_number(&prefix, strlen(kind));
    text_add(&prefix, " ");
    text_add(&prefix, kind);
    text_add(&prefix, " ");
    text_add_number(&prefix, length);
    text_add(&prefix, " ");
    return prefix;
}

void envelope_seal(const struct identity *identity, const char *kind, const struct text *payload,
                   struct text *text)
{
    char buffer[PREFIX_BYTES_MAX];
    struct text prefix = prefix_of(kind, payload->length, buffer);
    uint8_t digest[DIGEST_BYTES], signature[DEVICE_SIGNATURE_BYTES_MAX];
    size_t length = 0;
    struct sha256 hash;
    sha256_begin(&hash);
    sha256_add(&hash, prefix.bytes, prefix.length);
    sha256_add(&hash, payload->bytes, payload->length);
    sha256_end(&hash, digest);
    bool made = !payload->full && !prefix.full && device_key_sign(digest, signature, &length);
    text_add(text, "{\"payloadType\":\"");
    text_add(text, kind);
    text_add(text, "\",\"payload\":\"");
    text_add_base64(text, (const uint8_t *)payload->bytes, payload->length);
    text_add(text, "\",\"signatures\":[{\"keyid\":\"");
    text_add(text, identity->key_id);
    text_add(text, "\",\"sig\":\"");
    text_add_base64(text, signature, length);
    text_add(text, "\"}]}");
    text->full |= !made;
}

static bool is_signed(const struct identity *identity, struct json signatures,
                      const uint8_t *message, size_t length)
{
    for (uint32_t i = 0; i < SIGNATURES_MAX; i++) {
        struct json text = json_inside(json_member(json_item(signatures, i), "sig"));
        uint8_t signature[ED25519_SIGNATURE_BYTES];
        size_t decoded = 0;
        if (text.length == 0 ||
            !base64_decode(signature, sizeof signature, &decoded, text.at, text.length) ||
            decoded != sizeof signature)
            continue;
        for (size_t at = 0; at < identity->order_keys.length; at += ED25519_KEY_BYTES)
            if (edgectl_signed_by(signature, identity->order_keys.bytes + at, message, length))
                return true;
    }
    return false;
}

struct json envelope_open(const struct identity *identity, const char *kind, struct json envelope,
                          char *buffer)
{
    struct json coded = json_inside(json_member(envelope, "payload"));
    size_t length = 0;
    if (coded.length == 0 || !json_is(json_member(envelope, "payloadType"), kind))
        return JSON_NONE;
    /* Its length stands before it, so it is decoded to a safe place first. */
    uint8_t *payload = (uint8_t *)buffer + PREFIX_BYTES_MAX;
    if (!base64_decode(payload, OPENED_BYTES_MAX - PREFIX_BYTES_MAX, &length, coded.at,
                       coded.length))
        return JSON_NONE;
    char prefix_bytes[PREFIX_BYTES_MAX];
    struct text prefix = prefix_of(kind, length, prefix_bytes);
    uint8_t *message = payload - prefix.length;
    memcpy(message, prefix.bytes, prefix.length);
    if (prefix.full || !is_signed(identity, json_member(envelope, "signatures"), message,
                                  prefix.length + length))
        return JSON_NONE;
    return json_read((const char *)payload, length);
}
