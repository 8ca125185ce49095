#include "journal.h"

#include <stdlib.h>
#include <string.h>

#include "bytes.h"
#include "crc32.h"
#include "files.h"

#define FILE_NAME "journal"

/* As it lies in memory: no other machine reads it. A build with another layout begins anew. */
struct saved {
    uint32_t magic, size, crc, reserved;
    struct journal journal;
};

enum { MAGIC = 0x314A4145 }; /* EAJ1 */

/* ---------------------------------------------------------------- the state machine */

typedef void action(struct journal *journal);

static void stage(struct journal *journal)
{
    journal->candidate = journal_spare(journal);
    journal->attempts = 0;
}

static void commit(struct journal *journal)
{
    journal->can_return = journal->active != NO_SLOT;
    journal->active = journal->candidate;
    journal->candidate = NO_SLOT;
}

static void put_off(struct journal *journal)
{
    journal->candidate = NO_SLOT;
}

static void reject(struct journal *journal)
{
    journal_reject(journal, journal->slots[journal->candidate].release.manifest);
    journal->candidate = NO_SLOT;
}

static void go_back(struct journal *journal)
{
    journal->active = journal->can_return ? journal_spare(journal) : NO_SLOT;
    journal->can_return = false;
}

static const struct {
    enum journal_state state;
    enum journal_event event;
    enum journal_state next;
    action *act;
} TRANSITIONS[] = {
    {STATE_STEADY, EVENT_STAGED,    STATE_TRIAL,  stage},
    {STATE_STEADY, EVENT_WITHDRAWN, STATE_STEADY, go_back},
    {STATE_TRIAL,  EVENT_PASSED,    STATE_STEADY, commit},
    {STATE_TRIAL,  EVENT_FAILED,    STATE_STEADY, reject},
    {STATE_TRIAL,  EVENT_SPENT,     STATE_STEADY, reject},
    {STATE_TRIAL,  EVENT_PUT_OFF,   STATE_STEADY, put_off},
};

void journal_go_on(struct journal *journal, enum journal_event event)
{
    for (size_t i = 0; i < sizeof TRANSITIONS / sizeof *TRANSITIONS; i++) {
        if (TRANSITIONS[i].state != (enum journal_state)journal->state ||
            TRANSITIONS[i].event != event)
            continue;
        TRANSITIONS[i].act(journal);
        journal->state = (uint8_t)TRANSITIONS[i].next;
        return;
    }
    abort();
}

/* ---------------------------------------------------------------- what was found bad */

bool journal_is_rejected(const struct journal *journal, const uint8_t manifest[DIGEST_BYTES])
{
    for (uint32_t i = 0; i < journal->rejected_count; i++)
        if (same_bytes(journal->rejected[i], manifest, DIGEST_BYTES))
            return true;
    return false;
}

void journal_forgive(struct journal *journal, const uint8_t manifest[DIGEST_BYTES])
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < journal->rejected_count; i++)
        if (!same_bytes(journal->rejected[i], manifest, DIGEST_BYTES))
            memmove(journal->rejected[kept++], journal->rejected[i], DIGEST_BYTES);
    journal->rejected_count = kept;
}

void journal_reject(struct journal *journal, const uint8_t manifest[DIGEST_BYTES])
{
    journal_forgive(journal, manifest);
    if (journal->rejected_count == REJECTED_MAX)
        memmove(journal->rejected[0], journal->rejected[1],
                (size_t)(--journal->rejected_count) * DIGEST_BYTES);
    memcpy(journal->rejected[journal->rejected_count++], manifest, DIGEST_BYTES);
}

/* ---------------------------------------------------------------- the slots */

uint8_t journal_spare(const struct journal *journal)
{
    return journal->active == 0;
}

const char *journal_slot_name(uint8_t slot)
{
    return slot == 0 ? "slot-a" : "slot-b";
}

/* ---------------------------------------------------------------- on the disk */

static bool is_sound(const struct journal *journal)
{
    bool trial = journal->state == STATE_TRIAL && journal->candidate < SLOTS &&
                 journal->candidate != journal->active;
    bool steady = journal->state == STATE_STEADY && journal->candidate == NO_SLOT;
    return (trial || steady) && (journal->active < SLOTS || journal->active == NO_SLOT) &&
           journal->rejected_count <= REJECTED_MAX && journal->update <= UPDATE_ROLLED_BACK;
}

bool journal_read(struct journal *journal, int folder)
{
    size_t length;
    struct saved *saved = (struct saved *)files_read(folder, FILE_NAME, sizeof *saved, &length);
    bool whole = saved != NULL && length == sizeof *saved && saved->magic == MAGIC &&
                 saved->size == sizeof *saved &&
                 saved->crc == edgectl_crc32((const uint8_t *)&saved->journal,
                                             sizeof saved->journal) &&
                 is_sound(&saved->journal);
    if (whole)
        *journal = saved->journal;
    else
        *journal = (struct journal){
            .state = STATE_STEADY, .active = NO_SLOT, .candidate = NO_SLOT};
    free(saved);
    return whole;
}

bool journal_save(const struct journal *journal, int folder)
{
    struct saved saved;
    memset(&saved, 0, sizeof saved); /* what lies between the fields too */
    saved.journal = *journal;
    saved.magic = MAGIC;
    saved.size = sizeof saved;
    saved.crc = edgectl_crc32((const uint8_t *)&saved.journal, sizeof saved.journal);
    return files_write(folder, FILE_NAME, &saved, sizeof saved);
}
