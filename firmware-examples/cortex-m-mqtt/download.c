#include "download.h"

#include <string.h>

#include "bytes.h"
#include "device.h"
#include "json.h"
#include "manifest.h"

enum {
    CHUNKS_MAX = SLOT_BYTES / CHUNK_BYTES,
    MANIFEST_BYTES_MAX = 8 * 1024,
    ALTERED_MAX = 4,
    INDEX = -1,
};

_Static_assert(CHUNK_BYTES % FLASH_SECTOR_BYTES == 0, "a chunk is written without its neighbours");

static struct {
    const struct edgectl_device *device;
    struct download_progress progress;
    uint8_t manifest[DIGEST_BYTES], bundle[DIGEST_BYTES], index_digest[DIGEST_BYTES];
    uint8_t index[CHUNKS_MAX * DIGEST_BYTES];
    uint32_t chunks;
    struct edgectl_install install;

    /* The message that comes. */
    char bytes[MANIFEST_BYTES_MAX]; /* a manifest, an index, the head of chunk 0 */
    uint32_t expected;              /* 0: it is not taken */
    uint32_t taken;
    enum edgectl_status header; /* of chunk 0, while its digest is not known */
    struct sha256 hash;
} download;

static void fail(enum download_state state, enum edgectl_status status)
{
    download.progress.state = state;
    download.progress.status = status;
}

/* The flash's fault, or that of what the bundle is. */
static void stop_for(enum edgectl_status status)
{
    bool again = status == EDGECTL_FLASH_FAILED || status == EDGECTL_BAD_PAYLOAD ||
                 status == EDGECTL_BUSY;
    fail(again ? DOWNLOAD_FAILED : DOWNLOAD_REFUSED, status);
}

static void note_altered(void)
{
    if (++download.progress.altered == ALTERED_MAX)
        fail(DOWNLOAD_FAILED, EDGECTL_BAD_PAYLOAD);
}

/* ---------------------------------------------------------------- which chunks are there */

static uint32_t length_of(uint32_t chunk)
{
    uint32_t left = download.progress.bytes_total - chunk * CHUNK_BYTES;
    return left < CHUNK_BYTES ? left : CHUNK_BYTES;
}

static const uint8_t *digest_of(uint32_t chunk)
{
    return download.index + chunk * DIGEST_BYTES;
}

static bool is_in_flash(uint32_t chunk)
{
    uint8_t digest[DIGEST_BYTES];
    struct sha256 hash;
    sha256_begin(&hash);
    sha256_add(&hash, edgectl_spare_slot(download.device) + chunk * CHUNK_BYTES,
               length_of(chunk));
    sha256_end(&hash, digest);
    return same_bytes(digest, digest_of(chunk), sizeof digest);
}

static enum edgectl_status check_header(const uint8_t *header)
{
    struct edgectl_install *install = &download.install;
    enum edgectl_status status = edgectl_check_install(download.device, install, header);
    if (status == EDGECTL_OK &&
        BUNDLE_HEADER_BYTES + install->bundle.payload_bytes != download.progress.bytes_total)
        status = EDGECTL_BAD_BUNDLE;
    return status;
}

/* Go on to the next chunk that is missing, from this one on. */
static void seek(uint32_t chunk)
{
    struct download_progress *progress = &download.progress;
    progress->state = DOWNLOAD_CHUNKS;
    for (; chunk < download.chunks && is_in_flash(chunk); chunk++) {
        enum edgectl_status status =
            chunk == 0 ? check_header(edgectl_spare_slot(download.device)) : EDGECTL_OK;
        if (status != EDGECTL_OK) {
            stop_for(status);
            return;
        }
        progress->bytes_done += length_of(chunk);
    }
    progress->piece = (int32_t)chunk;
    if (chunk == download.chunks)
        progress->state = DOWNLOAD_WHOLE;
}

/* ---------------------------------------------------------------- manifest and index */

static void take_manifest(void)
{
    struct download_progress *progress = &download.progress;
    struct layer layer;
    if (!manifest_layer(json_read(download.bytes, download.taken), "model.emb", &layer) ||
        layer.size < BUNDLE_HEADER_BYTES) {
        fail(DOWNLOAD_REFUSED, EDGECTL_BAD_BUNDLE);
        return;
    }
    if (layer.size > download.device->slot_bytes) {
        fail(DOWNLOAD_REFUSED, EDGECTL_TOO_LARGE);
        return;
    }
    progress->bytes_total = (uint32_t)layer.size;
    memcpy(download.bundle, layer.digest, DIGEST_BYTES);
    memcpy(download.index_digest, layer.index, DIGEST_BYTES);
    download.chunks = (progress->bytes_total + CHUNK_BYTES - 1) / CHUNK_BYTES;
    progress->blob = download.bundle;
    if (download.chunks == 1) {
        memcpy(download.index, download.bundle, DIGEST_BYTES);
        seek(0);
        return;
    }
    progress->state = DOWNLOAD_INDEX;
    progress->piece = INDEX;
}

/* ---------------------------------------------------------------- a chunk, into flash */

static bool open_chunk(void)
{
    uint32_t chunk = (uint32_t)download.progress.piece;
    enum edgectl_status status = edgectl_begin_part(download.device, &download.install,
                                                    chunk * CHUNK_BYTES, length_of(chunk));
    if (status != EDGECTL_OK)
        stop_for(status);
    return status == EDGECTL_OK;
}

/* Gather the header, which chunk 0 begins with; return how many of the bytes belong to it.
 *
 * Nothing is erased before it has been checked. What is wrong with it counts when all of the chunk is
 * there, with the right digest: before, it may be somebody in between who has altered it.
 */
static size_t take_header(const uint8_t *bytes, size_t length)
{
    if (download.progress.piece != 0 || download.taken >= BUNDLE_HEADER_BYTES)
        return 0;
    size_t missing = BUNDLE_HEADER_BYTES - download.taken;
    size_t used = length < missing ? length : missing;
    memcpy(download.bytes + download.taken, bytes, used);
    if (used == missing)
        download.header = check_header((const uint8_t *)download.bytes);
    return used;
}

static void take_chunk(const uint8_t *bytes, size_t length)
{
    uint32_t begins_at = download.progress.piece == 0 ? BUNDLE_HEADER_BYTES : 0;
    size_t used = take_header(bytes, length);
    uint32_t at = download.taken + (uint32_t)used;
    if (at < begins_at || download.header != EDGECTL_OK)
        return;
    if (download.taken <= begins_at && (used != 0 || download.taken == 0) && !open_chunk())
        return;
    enum edgectl_status status =
        edgectl_add_payload(download.device, &download.install, bytes + used, length - used);
    if (status != EDGECTL_OK)
        stop_for(status);
}

static void end_chunk(void)
{
    uint32_t chunk = (uint32_t)download.progress.piece;
    if (download.header != EDGECTL_OK) {
        stop_for(download.header);
        return;
    }
    enum edgectl_status status = edgectl_end_part(download.device, &download.install);
    if (status != EDGECTL_OK) {
        stop_for(status);
        return;
    }
    seek(chunk);
    if (download.progress.state == DOWNLOAD_CHUNKS && download.progress.piece == (int32_t)chunk)
        stop_for(EDGECTL_FLASH_FAILED); /* what came was right, what is there is not */
}

/* ---------------------------------------------------------------- for the program */

void download_begin(const struct edgectl_device *device, const uint8_t manifest[DIGEST_BYTES])
{
    memset(&download, 0, sizeof download);
    download.device = device;
    memcpy(download.manifest, manifest, DIGEST_BYTES);
    download.progress.state = DOWNLOAD_MANIFEST;
    download.progress.blob = download.manifest;
}

void download_stop(void)
{
    memset(&download.progress, 0, sizeof download.progress);
}

const struct download_progress *download_progress(void)
{
    return &download.progress;
}

const struct edgectl_install *download_bundle(void)
{
    return &download.install;
}

void download_topic(struct text *topic)
{
    text_add(topic, "edgectl/v1/blob/");
    text_add_hex(topic, download.progress.blob, DIGEST_BYTES);
    text_add(topic, "/");
    if (download.progress.piece == INDEX)
        text_add(topic, "index");
    else
        text_add_number(topic, (uint32_t)download.progress.piece);
}

void download_message_begins(uint32_t length)
{
    const struct download_progress *progress = &download.progress;
    bool fits = progress->state != DOWNLOAD_MANIFEST || length <= MANIFEST_BYTES_MAX;
    uint32_t exactly = progress->state == DOWNLOAD_INDEX    ? download.chunks * DIGEST_BYTES
                       : progress->state == DOWNLOAD_CHUNKS ? length_of((uint32_t)progress->piece)
                                                            : length;
    download.taken = 0;
    download.header = EDGECTL_OK;
    download.expected = fits && length == exactly ? length : 0;
    if (length != 0 && download.expected == 0)
        note_altered();
    sha256_begin(&download.hash);
}

void download_message_goes_on(const uint8_t *bytes, size_t length)
{
    enum download_state state = download.progress.state;
    if (length > download.expected - download.taken)
        return;
    sha256_add(&download.hash, bytes, length);
    if (state == DOWNLOAD_CHUNKS)
        take_chunk(bytes, length);
    else if (state == DOWNLOAD_MANIFEST || state == DOWNLOAD_INDEX)
        memcpy(download.bytes + download.taken, bytes, length);
    download.taken += (uint32_t)length;
}

void download_message_ends(void)
{
    struct download_progress *progress = &download.progress;
    uint8_t digest[DIGEST_BYTES];
    if (download.expected == 0 || download.taken != download.expected)
        return;
    sha256_end(&download.hash, digest);
    const uint8_t *right = progress->state == DOWNLOAD_MANIFEST ? download.manifest
                           : progress->state == DOWNLOAD_INDEX  ? download.index_digest
                           : progress->state == DOWNLOAD_CHUNKS
                               ? digest_of((uint32_t)progress->piece)
                               : NULL;
    if (right == NULL)
        return; /* it has been given up meanwhile */
    if (!same_bytes(digest, right, sizeof digest)) {
        note_altered();
        return;
    }
    if (progress->state == DOWNLOAD_MANIFEST) {
        take_manifest();
    } else if (progress->state == DOWNLOAD_INDEX) {
        memcpy(download.index, download.bytes, download.expected);
        seek(0);
    } else {
        end_chunk();
    }
}

enum edgectl_status download_install(void)
{
    enum edgectl_status status = edgectl_end_install(download.device, &download.install);
    if (status != EDGECTL_OK)
        stop_for(status);
    return status;
}
