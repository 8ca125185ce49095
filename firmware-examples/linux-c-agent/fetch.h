/* A bundle on its way: its manifest, then of each file the chunk index and the chunks.
 *
 * Rules: every byte is checked against a digest: the manifest's from the signed order, those of files and
 * indexes from the manifest, each chunk's from its index. The part that is on the disk says itself what
 * is missing: after a power cut each chunk of it is hashed. A file that the running bundle has too is not
 * fetched. What is not in the manifest is removed.
 */
#ifndef FETCH_H
#define FETCH_H

#include "manifest.h"
#include "text.h"

enum { WINDOW = 8, TOPIC_BYTES = 128 };

enum fetch_state {
    FETCH_NONE,
    FETCH_RUNS,
    FETCH_WHOLE,   /* all is on the disk */
    FETCH_REFUSED, /* for what it is */
    FETCH_FAILED,  /* may be tried again */
};

struct fetch_progress {
    enum fetch_state state;
    const char *code, *detail; /* why it was refused, or has failed */
    uint64_t bytes_done, bytes_total;
    const uint8_t *blob; /* digest of what is waited for */
};

/* Begin.
 *
 * incoming: folder for what is not whole.
 * running: folder of the bundle that runs, or -1.
 */
void fetch_begin(int incoming, int running, const uint8_t manifest[DIGEST_BYTES]);

/* Give it up; what is on the disk stays. */
void fetch_stop(void);

const struct fetch_progress *fetch_progress(void);

/* List what is waited for now, -1 is an index; returns how many. */
uint32_t fetch_wanted(int32_t pieces[WINDOW]);

/* Add the topic of a piece. */
void fetch_topic(int32_t piece, struct text *topic);

/* Take a piece that has come. */
void fetch_take(int32_t piece, const uint8_t *bytes, size_t length);

/* Lay a whole one out as a folder within `incoming`, on the disk when this returns; its name, or NULL. */
const char *fetch_lay_out(void);

#endif
