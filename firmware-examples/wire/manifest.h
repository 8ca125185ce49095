/* What a bundle's manifest says of its files. docs/protocol.md, "Bundles". */
#ifndef MANIFEST_H
#define MANIFEST_H

#include "crypto.h"
#include "json.h"

enum { CHUNK_BYTES = 64 * 1024 };

/* One file of a bundle. */
struct layer {
    uint64_t size;
    uint8_t digest[DIGEST_BYTES];
    uint8_t index[DIGEST_BYTES]; /* digest of its chunk index, where it has more than one chunk */
};

/* Find a file by its name. False: there is none, or it cannot be fetched, or it is encrypted. */
bool manifest_layer(struct json manifest, const char *file, struct layer *layer);

/* Read a digest, "sha256:" and 64 digits. False: it is none. */
bool manifest_digest(struct json value, uint8_t digest[DIGEST_BYTES]);

#endif
