/* A bundle as it lies in a slot: the manifest, and the files that it names.
 *
 * Rule: a file counts only as the bytes that were hashed. They are read into memory once, compared with
 * the manifest, and never read again.
 */
#ifndef BUNDLE_FILES_H
#define BUNDLE_FILES_H

#include "manifest.h"

enum { BUNDLE_FILES = 3, FILE_BYTES_MAX = 256 * 1024 * 1024, MANIFEST_BYTES_MAX = 64 * 1024 };

#define MODEL_FILE "model.onnx"
#define CONTRACT_FILE "edgectl.json"
#define GOLDEN_FILE "golden.npz"
#define MANIFEST_FILE "manifest.json"

extern const char *const BUNDLE_FILE_NAMES[BUNDLE_FILES];

struct bundle {
    int folder;
    char *text;
    struct json manifest;
};

/* Open the bundle of a folder. False: its manifest is not the one with this digest. */
bool bundle_open(struct bundle *bundle, int folder, const uint8_t manifest[DIGEST_BYTES]);

/* Read a file that is what the manifest says; NULL: it is not. To be freed. */
uint8_t *bundle_read(const struct bundle *bundle, const char *file, size_t *length);

/* Compute the SHA-256 of bytes. */
void digest_of(const void *bytes, size_t length, uint8_t digest[DIGEST_BYTES]);

#endif
