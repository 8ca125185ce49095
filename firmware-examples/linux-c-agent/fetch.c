#include "fetch.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "bundle_files.h"
#include "bytes.h"
#include "files.h"

enum {
    CHUNKS_MAX = FILE_BYTES_MAX / CHUNK_BYTES,
    ALTERED_MAX = 4,
    INDEX = -1,
    NOT_HERE = -1,
    NAME_BYTES = 2 * DIGEST_BYTES + sizeof ".part",
};

#define RESERVE_BYTES (16u * 1024 * 1024)
#define LAID_OUT "next"

static struct {
    int incoming, running;
    struct fetch_progress progress;
    uint8_t manifest[DIGEST_BYTES];
    char *text; /* of the manifest, once it is here */
    size_t text_bytes;
    struct layer files[BUNDLE_FILES];
    char names[BUNDLE_FILES][NAME_BYTES]; /* in `incoming`, once they are whole */
    int file;                             /* that is being fetched; NOT_HERE: the manifest is */
    bool is_open;
    int part; /* its descriptor, while it is open */
    bool has_index;
    uint8_t index[CHUNKS_MAX][DIGEST_BYTES];
    bool there[CHUNKS_MAX];
    uint32_t chunks, altered;
} fetch;

static void end(enum fetch_state state, const char *code, const char *detail)
{
    fetch.progress.state = state;
    fetch.progress.code = code;
    fetch.progress.detail = detail;
}

static void disk_failed(void)
{
    end(FETCH_FAILED, errno == ENOSPC ? "disk.full" : "disk.error", "a file cannot be written");
}

static void close_part(void)
{
    if (fetch.is_open)
        close(fetch.part);
    fetch.is_open = false;
}

/* ---------------------------------------------------------------- chunks on the disk */

static size_t length_of(uint32_t chunk)
{
    uint64_t left = fetch.files[fetch.file].size - (uint64_t)chunk * CHUNK_BYTES;
    return left < CHUNK_BYTES ? (size_t)left : CHUNK_BYTES;
}

static bool is_on_disk(uint32_t chunk)
{
    static uint8_t bytes[CHUNK_BYTES];
    uint8_t digest[DIGEST_BYTES];
    size_t length = length_of(chunk);
    if (pread(fetch.part, bytes, length, (off_t)chunk * CHUNK_BYTES) != (ssize_t)length)
        return false;
    digest_of(bytes, length, digest);
    return same_bytes(digest, fetch.index[chunk], DIGEST_BYTES);
}

static void look_what_is_there(void)
{
    for (uint32_t i = 0; i < fetch.chunks; i++) {
        fetch.there[i] = is_on_disk(i);
        fetch.progress.bytes_done += fetch.there[i] ? length_of(i) : 0;
    }
}

static bool is_whole(void)
{
    for (uint32_t i = 0; i < fetch.chunks; i++)
        if (!fetch.there[i])
            return false;
    return true;
}

/* ---------------------------------------------------------------- file after file */

static bool is_right(int folder, const char *name, const struct layer *layer)
{
    size_t length;
    uint8_t digest[DIGEST_BYTES];
    uint8_t *bytes = files_read(folder, name, FILE_BYTES_MAX, &length);
    if (bytes == NULL || length != layer->size) {
        free(bytes);
        return false;
    }
    digest_of(bytes, length, digest);
    free(bytes);
    return same_bytes(digest, layer->digest, DIGEST_BYTES);
}

/* Say whether a file is here already: from an earlier try, or in the bundle that runs. */
static bool is_here(int number)
{
    const char *name = fetch.names[number];
    if (is_right(fetch.incoming, name, &fetch.files[number]))
        return true;
    files_remove(fetch.incoming, name);
    if (fetch.running < 0 ||
        linkat(fetch.running, BUNDLE_FILE_NAMES[number], fetch.incoming, name, 0) != 0)
        return false;
    if (is_right(fetch.incoming, name, &fetch.files[number]))
        return true;
    files_remove(fetch.incoming, name);
    return false;
}

static void part_name(int number, char name[NAME_BYTES])
{
    snprintf(name, NAME_BYTES, "%.64s.part", fetch.names[number]);
}

static void next_file(void);

/* All chunks are here: the file gets its name, when it is on the disk. */
static void end_file(void)
{
    char name[NAME_BYTES];
    part_name(fetch.file, name);
    bool done = ftruncate(fetch.part, (off_t)fetch.files[fetch.file].size) == 0 &&
                fsync(fetch.part) == 0;
    close_part();
    if (!done || renameat(fetch.incoming, name, fetch.incoming, fetch.names[fetch.file]) != 0 ||
        !files_sync(fetch.incoming)) {
        disk_failed();
        return;
    }
    if (!is_right(fetch.incoming, fetch.names[fetch.file], &fetch.files[fetch.file])) {
        files_remove(fetch.incoming, fetch.names[fetch.file]);
        end(FETCH_REFUSED, "bundle.mismatch", "all chunks are right, and the whole is not");
        return;
    }
    next_file();
}

static void begin_chunks(void)
{
    look_what_is_there();
    if (is_whole())
        end_file();
}

static void begin_file(void)
{
    char name[NAME_BYTES];
    const struct layer *layer = &fetch.files[fetch.file];
    part_name(fetch.file, name);
    fetch.part = openat(fetch.incoming, name, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fetch.part < 0) {
        disk_failed();
        return;
    }
    fetch.is_open = true;
    fetch.chunks = (uint32_t)((layer->size + CHUNK_BYTES - 1) / CHUNK_BYTES);
    fetch.progress.blob = layer->digest;
    fetch.has_index = fetch.chunks == 1;
    memset(fetch.there, 0, sizeof fetch.there);
    if (!fetch.has_index)
        return;
    memcpy(fetch.index[0], layer->digest, DIGEST_BYTES);
    begin_chunks();
}

static void next_file(void)
{
    while (++fetch.file < BUNDLE_FILES) {
        if (!is_here(fetch.file)) {
            begin_file();
            return;
        }
        fetch.progress.bytes_done += fetch.files[fetch.file].size;
    }
    fetch.progress.state = FETCH_WHOLE;
}

/* ---------------------------------------------------------------- the manifest */

static void remove_stranger(int folder, const char *name)
{
    for (int i = 0; i < BUNDLE_FILES; i++)
        if (strncmp(name, fetch.names[i], 2 * DIGEST_BYTES) == 0)
            return;
    files_remove(folder, name);
}

static bool read_files(void)
{
    struct json manifest = json_read(fetch.text, fetch.text_bytes);
    for (int i = 0; i < BUNDLE_FILES; i++) {
        struct layer *layer = &fetch.files[i];
        if (!manifest_layer(manifest, BUNDLE_FILE_NAMES[i], layer) || layer->size == 0 ||
            layer->size > FILE_BYTES_MAX)
            return false;
        struct text name = text_in(fetch.names[i], NAME_BYTES);
        text_add_hex(&name, layer->digest, DIGEST_BYTES);
        fetch.progress.bytes_total += layer->size;
    }
    return true;
}

static void take_manifest(const uint8_t *bytes, size_t length)
{
    struct statvfs disk;
    fetch.text = malloc(length);
    if (fetch.text == NULL) {
        end(FETCH_FAILED, "disk.error", "not enough memory");
        return;
    }
    memcpy(fetch.text, bytes, length);
    fetch.text_bytes = length;
    if (!read_files()) {
        end(FETCH_REFUSED, "bundle.malformed",
            "the manifest lacks a file that this agent needs, or it is encrypted");
        return;
    }
    files_each(fetch.incoming, remove_stranger);
    if (fstatvfs(fetch.incoming, &disk) == 0 &&
        (uint64_t)disk.f_bavail * disk.f_frsize < fetch.progress.bytes_total + RESERVE_BYTES) {
        end(FETCH_FAILED, "disk.full", "there is no room for the bundle");
        return;
    }
    next_file();
}

/* ---------------------------------------------------------------- for the agent */

void fetch_stop(void)
{
    close_part();
    free(fetch.text);
    if (fetch.running >= 0 && fetch.progress.state != FETCH_NONE)
        close(fetch.running);
    fetch.running = -1;
    fetch.text = NULL;
    fetch.progress = (struct fetch_progress){.state = FETCH_NONE};
}

void fetch_begin(int incoming, int running, const uint8_t manifest[DIGEST_BYTES])
{
    fetch_stop();
    fetch.incoming = incoming;
    fetch.running = running;
    fetch.file = NOT_HERE;
    fetch.altered = 0;
    memcpy(fetch.manifest, manifest, DIGEST_BYTES);
    fetch.progress = (struct fetch_progress){.state = FETCH_RUNS, .blob = fetch.manifest};
}

const struct fetch_progress *fetch_progress(void)
{
    return &fetch.progress;
}

uint32_t fetch_wanted(int32_t pieces[WINDOW])
{
    uint32_t count = 0;
    if (fetch.progress.state != FETCH_RUNS)
        return 0;
    if (fetch.file == NOT_HERE || !fetch.has_index) {
        pieces[0] = fetch.file == NOT_HERE ? 0 : INDEX;
        return 1;
    }
    for (uint32_t i = 0; i < fetch.chunks && count < WINDOW; i++)
        if (!fetch.there[i])
            pieces[count++] = (int32_t)i;
    return count;
}

void fetch_topic(int32_t piece, struct text *topic)
{
    text_add(topic, "edgectl/v1/blob/");
    text_add_hex(topic, fetch.progress.blob, DIGEST_BYTES);
    text_add(topic, "/");
    if (piece == INDEX)
        text_add(topic, "index");
    else
        text_add_number(topic, (uint32_t)piece);
}

static bool is_signed(const uint8_t *bytes, size_t length, const uint8_t digest[DIGEST_BYTES])
{
    uint8_t found[DIGEST_BYTES];
    digest_of(bytes, length, found);
    if (same_bytes(found, digest, DIGEST_BYTES))
        return true;
    if (++fetch.altered == ALTERED_MAX)
        end(FETCH_FAILED, "transfer.chunk_altered",
            "a chunk came several times with another content than the signed one");
    return false;
}

static void take_chunk(uint32_t chunk, const uint8_t *bytes, size_t length)
{
    if (chunk >= fetch.chunks || fetch.there[chunk])
        return;
    if (length != length_of(chunk)) {
        is_signed(bytes, 0, fetch.index[chunk]); /* it is not */
        return;
    }
    if (!is_signed(bytes, length, fetch.index[chunk]))
        return;
    if (pwrite(fetch.part, bytes, length, (off_t)chunk * CHUNK_BYTES) != (ssize_t)length) {
        disk_failed();
        return;
    }
    fetch.there[chunk] = true;
    fetch.progress.bytes_done += length;
    if (is_whole())
        end_file();
}

void fetch_take(int32_t piece, const uint8_t *bytes, size_t length)
{
    if (fetch.progress.state != FETCH_RUNS || length == 0)
        return;
    if (fetch.file == NOT_HERE) {
        if (length <= MANIFEST_BYTES_MAX && is_signed(bytes, length, fetch.manifest))
            take_manifest(bytes, length);
    } else if (!fetch.has_index) {
        if (piece != INDEX || length != (size_t)fetch.chunks * DIGEST_BYTES ||
            !is_signed(bytes, length, fetch.files[fetch.file].index))
            return;
        memcpy(fetch.index, bytes, length);
        fetch.has_index = true;
        begin_chunks();
    } else if (piece >= 0) {
        take_chunk((uint32_t)piece, bytes, length);
    }
}

const char *fetch_lay_out(void)
{
    files_remove(fetch.incoming, LAID_OUT);
    int folder = files_folder(fetch.incoming, LAID_OUT);
    bool done = folder >= 0 && files_write(folder, MANIFEST_FILE, fetch.text, fetch.text_bytes);
    for (int i = 0; done && i < BUNDLE_FILES; i++)
        done = linkat(fetch.incoming, fetch.names[i], folder, BUNDLE_FILE_NAMES[i], 0) == 0;
    done = done && files_sync(folder) && files_sync(fetch.incoming);
    if (folder >= 0)
        close(folder);
    return done ? LAID_OUT : NULL;
}
