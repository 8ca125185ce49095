/* A bundle on its way: its manifest, its chunk index, then the chunks that the slot lacks.
 *
 * Rules: every byte is checked against a digest: the manifest's from the signed order, those of the
 * bundle and of its index from the manifest, each chunk's from the index. Chunks go straight into the
 * flash of the spare slot. What lies there already with the right digest is not fetched again: the
 * flash itself says what is missing, also after a power cut. Nothing is erased before the bundle's
 * own header is known to be signed.
 */
#ifndef DOWNLOAD_H
#define DOWNLOAD_H

#include "crypto.h"
#include "text.h"
#include "update.h"

enum download_state {
    DOWNLOAD_NONE,
    DOWNLOAD_MANIFEST,
    DOWNLOAD_INDEX,
    DOWNLOAD_CHUNKS,
    DOWNLOAD_WHOLE,   /* all is in flash */
    DOWNLOAD_REFUSED, /* for what it is: `status` */
    DOWNLOAD_FAILED,  /* may be tried again: `status` */
};

/* Where the download stands. */
struct download_progress {
    enum download_state state;
    enum edgectl_status status;
    uint32_t bytes_done, bytes_total;
    const uint8_t *blob; /* digest of what is waited for: a manifest or a bundle */
    int32_t piece;       /* and its chunk; -1 is the index */
    uint32_t altered;    /* pieces that came with other content */
};

/* Begin; `manifest` is its digest. */
void download_begin(const struct edgectl_device *device, const uint8_t manifest[DIGEST_BYTES]);

/* Give it up; what is in flash stays. */
void download_stop(void);

/* Say where it stands. */
const struct download_progress *download_progress(void);

/* Add the topic that is waited for. */
void download_topic(struct text *topic);

/* Take what comes on that topic. */
void download_message_begins(uint32_t length);
void download_message_goes_on(const uint8_t *bytes, size_t length);
void download_message_ends(void);

/* End a whole one: the bundle goes on trial at the next boot. */
enum edgectl_status download_install(void);

/* The slot that it is written to, and the signed header that it has. */
const struct edgectl_install *download_bundle(void);

#endif
