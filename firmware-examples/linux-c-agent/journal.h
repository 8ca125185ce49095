/* The journal: all that the device has decided, in one file that is replaced by a rename.
 *
 * Rules: what is decided is saved before it is acted on. A slot is written only while it is neither
 * active nor on trial. What runs has proved itself, or it is on trial and counted.
 */
#ifndef JOURNAL_H
#define JOURNAL_H

#include "note.h"
#include "report.h"

enum {
    SLOTS = 2,
    NO_SLOT = 0xFF,
    REJECTED_MAX = 32,
    CODE_MAX = 63,
    DETAIL_MAX = 255,
    ATTEMPTS_MAX = 5, /* of one trial: more mean that it takes the machine down with it */
};

enum journal_state {
    STATE_STEADY = 1, /* what is active runs */
    STATE_TRIAL,      /* what is in the other slot has to prove itself */
};

struct journal {
    uint32_t boot; /* starts of the agent */
    uint8_t state, active, candidate, attempts;
    uint64_t floor; /* counter of the newest order that was accepted, and its nonce */
    char nonce[NONCE_CHARACTERS + 1];
    struct note slots[SLOTS]; /* what lies in them; counter 0: nothing, or nobody knows */
    uint8_t can_return;       /* the other slot holds what ran before the active one */

    /* The newest update. */
    uint8_t update; /* enum report_update */
    uint32_t attempt;
    uint64_t update_counter;
    uint32_t bytes;
    struct release release;
    char code[CODE_MAX + 1], detail[DETAIL_MAX + 1];

    uint32_t rejected_count;
    uint8_t rejected[REJECTED_MAX][DIGEST_BYTES]; /* manifests, the newest last */
};

enum journal_event {
    EVENT_STAGED,    /* a bundle is whole in the other slot */
    EVENT_PASSED,    /* it gives the signed answers, and serves */
    EVENT_FAILED,    /* it does not: never again */
    EVENT_SPENT,     /* it has had its attempts */
    EVENT_PUT_OFF,   /* it could not be tried now: the world's fault */
    EVENT_WITHDRAWN, /* the server takes back what runs */
};

/* Read it; false: there is none that is whole, and it is empty then. */
bool journal_read(struct journal *journal, int folder);

/* Save it. */
bool journal_save(const struct journal *journal, int folder);

/* Go on as the table says, without saving. An event that has no row is our own mistake. */
void journal_go_on(struct journal *journal, enum journal_event event);

/* Remember a bundle as bad, forget it, ask for it. */
void journal_reject(struct journal *journal, const uint8_t manifest[DIGEST_BYTES]);
void journal_forgive(struct journal *journal, const uint8_t manifest[DIGEST_BYTES]);
bool journal_is_rejected(const struct journal *journal, const uint8_t manifest[DIGEST_BYTES]);

/* Return the slot that does not run; where nothing does, the first. */
uint8_t journal_spare(const struct journal *journal);

/* Return the name of a slot's folder. */
const char *journal_slot_name(uint8_t slot);

#endif
