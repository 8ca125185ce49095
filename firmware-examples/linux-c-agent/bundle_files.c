#include "bundle_files.h"

#include <stdlib.h>

#include "bytes.h"
#include "files.h"

const char *const BUNDLE_FILE_NAMES[BUNDLE_FILES] = {CONTRACT_FILE, GOLDEN_FILE, MODEL_FILE};

void digest_of(const void *bytes, size_t length, uint8_t digest[DIGEST_BYTES])
{
    struct sha256 hash;
    sha256_begin(&hash);
    sha256_add(&hash, bytes, length);
    sha256_end(&hash, digest);
}

static bool has_digest(const uint8_t *bytes, size_t length, const uint8_t wanted[DIGEST_BYTES])
{
    uint8_t digest[DIGEST_BYTES];
    digest_of(bytes, length, digest);
    return same_bytes(digest, wanted, sizeof digest);
}

bool bundle_open(struct bundle *bundle, int folder, const uint8_t manifest[DIGEST_BYTES])
{
    size_t length;
    uint8_t *text = files_read(folder, MANIFEST_FILE, MANIFEST_BYTES_MAX, &length);
    *bundle = (struct bundle){.folder = folder, .text = (char *)text};
    if (text != NULL && has_digest(text, length, manifest))
        bundle->manifest = json_read(bundle->text, length);
    return bundle->manifest.length != 0;
}

uint8_t *bundle_read(const struct bundle *bundle, const char *file, size_t *length)
{
    struct layer layer;
    if (!manifest_layer(bundle->manifest, file, &layer))
        return NULL;
    uint8_t *bytes = files_read(bundle->folder, file, FILE_BYTES_MAX, length);
    if (bytes != NULL && has_digest(bytes, *length, layer.digest))
        return bytes;
    free(bytes);
    return NULL;
}
