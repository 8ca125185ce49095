/* What the device says of itself: docs/protocol.md, `ReportedState` and `SeedRequest`. */
#ifndef REPORT_H
#define REPORT_H

#include "identity.h"
#include "note.h"
#include "order.h"
#include "text.h"

#ifndef EDGECTL_STATE_BYTES
#define EDGECTL_STATE_BYTES 2048 /* a port that tells more says so */
#endif

enum { STATE_BYTES_MAX = EDGECTL_STATE_BYTES, REPORT_BYTES_MAX = STATE_BYTES_MAX * 7 / 4 };

enum { REPORT_PIECES_MAX = 16 };

/* How the newest update stands, by the names of docs/protocol.md. */
enum report_update {
    UPDATE_NONE,
    UPDATE_DOWNLOADING,
    UPDATE_TRIAL,
    UPDATE_COMMITTED,
    UPDATE_FAILED,
    UPDATE_REJECTED,
    UPDATE_ROLLED_BACK,
};

/* All that is told. */
struct report {
    const struct identity *identity;
    const char *slot;
    const char *capabilities; /* what the device is, JSON */
    uint32_t boot, sequence, connection;
    uint32_t now; /* seconds since 1970 */
    struct order order; /* the newest that was accepted */
    enum order_verdict refusal;
    uint64_t refused; /* counter of the refused order; 0: not known */
    struct note running; /* counter 0: nothing that the server knows runs */
    const struct note *previous; /* what could run again; or NULL */
    const uint8_t (*rejected)[DIGEST_BYTES]; /* manifests that are known to be bad */
    uint32_t rejected_count;
    enum report_update update;
    uint64_t update_counter;       /* of its order */
    struct release release;        /* that is meant */
    const char *reason;            /* code of why it has failed, or was rejected; or NULL */
    const char *detail;            /* the same for people, without quotes; or NULL */
    const char *trial;             /* what a trial has measured, JSON; or NULL */
    uint32_t attempt;
    uint32_t bytes_done, bytes_total;
};

/* Write the state, signed. */
void report_state(const struct report *report, struct text *text);

/* Write the last will of a connection, signed: the device is offline then. */
void report_will(const struct report *report, uint32_t connection, struct text *text);

/* Write that pieces do not come, signed; at most REPORT_PIECES_MAX. */
void report_missing(const struct report *report, const uint8_t blob[DIGEST_BYTES],
                    const int32_t *pieces, uint32_t count, struct text *text);

#endif
