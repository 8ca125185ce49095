#include "identity.h"

#include <string.h>

#include "bytes.h"
#include "crc32.h"

enum { HEAD_BYTES = 12 };

enum field {
    FIELD_DEVICE,
    FIELD_HOST,
    FIELD_PORT, /* two bytes */
    FIELD_SERVER,
    FIELD_KEY_ID,
    FIELD_AUTHORITY,
    FIELD_CERTIFICATE,
    FIELD_KEY,
    FIELD_ORDER_KEYS,
    FIELDS,
};

static bool split(const uint8_t *at, const uint8_t *end, struct piece fields[FIELDS])
{
    for (int i = 0; i < FIELDS; i++) {
        if (end - at < 2 || end - at - 2 < load_u16(at))
            return false;
        fields[i] = (struct piece){at + 2, load_u16(at)};
        at += 2 + fields[i].length;
    }
    return at == end;
}

static bool copy(struct piece field, char *text, size_t size)
{
    if (field.length == 0 || field.length >= size)
        return false;
    memcpy(text, field.bytes, field.length);
    text[field.length] = '\0';
    return true;
}

bool identity_read(struct identity *identity, const uint8_t *memory)
{
    uint32_t length = load_u32(memory + 4);
    struct piece fields[FIELDS];
    if (!same_bytes(memory, "EMI1", 4) || length > IDENTITY_BYTES_MAX - HEAD_BYTES ||
        load_u32(memory + 8) != edgectl_crc32(memory + HEAD_BYTES, length) ||
        !split(memory + HEAD_BYTES, memory + HEAD_BYTES + length, fields))
        return false;
    if (fields[FIELD_PORT].length != 2 || fields[FIELD_ORDER_KEYS].length == 0 ||
        fields[FIELD_ORDER_KEYS].length % ED25519_KEY_BYTES != 0)
        return false;
    identity->port = load_u16(fields[FIELD_PORT].bytes);
    identity->authority = fields[FIELD_AUTHORITY];
    identity->certificate = fields[FIELD_CERTIFICATE];
    identity->key = fields[FIELD_KEY];
    identity->order_keys = fields[FIELD_ORDER_KEYS];
    return copy(fields[FIELD_DEVICE], identity->device, sizeof identity->device) &&
           copy(fields[FIELD_HOST], identity->host, sizeof identity->host) &&
           copy(fields[FIELD_SERVER], identity->server, sizeof identity->server) &&
           copy(fields[FIELD_KEY_ID], identity->key_id, sizeof identity->key_id);
}
