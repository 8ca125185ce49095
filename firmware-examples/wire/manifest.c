#include "manifest.h"

#include <string.h>

#include "text.h"

bool manifest_digest(struct json value, uint8_t digest[DIGEST_BYTES])
{
    static const char KIND[] = "sha256:";
    struct json inside = json_inside(value);
    size_t kind = sizeof KIND - 1;
    return inside.length > kind && memcmp(inside.at, KIND, kind) == 0 &&
           text_read_hex(inside.at + kind, inside.length - kind, digest, DIGEST_BYTES);
}

bool manifest_layer(struct json manifest, const char *file, struct layer *layer)
{
    struct json layers = json_member(manifest, "layers"), one;
    for (uint32_t i = 0; (one = json_item(layers, i)).length != 0; i++) {
        struct json annotations = json_member(one, "annotations");
        if (!json_is(json_member(annotations, "org.opencontainers.image.title"), file))
            continue;
        if (json_member(annotations, "io.edgectl.encryption").length != 0 ||
            !json_number(json_member(one, "size"), &layer->size) ||
            !manifest_digest(json_member(one, "digest"), layer->digest))
            return false;
        return layer->size <= CHUNK_BYTES ||
               manifest_digest(json_member(annotations, "io.edgectl.chunks"), layer->index);
    }
    return false;
}
