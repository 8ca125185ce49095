/* The journal: what the device has decided, in records that are only ever appended.
 *
 * Two sectors of flash take turns, of each the first JOURNAL_BYTES. A record counts when its CRC is right; the one with the highest
 * sequence is the truth. The older sector is erased only when the newer one holds a record, so that
 * there is a whole record at any moment.
 */
#ifndef EDGECTL_JOURNAL_H
#define EDGECTL_JOURNAL_H

#include "flash.h"
#include "status.h"

enum { JOURNAL_SECTORS = 2, JOURNAL_BYTES = 4096, RECORD_BYTES = 32, NO_SLOT = 0xFF };

enum update_state {
    STATE_STEADY = 1, /* what is active runs */
    STATE_TRIAL = 2,  /* what is in the other slot has to prove itself at the next boot */
};

/* One record. */
struct edgectl_record {
    uint32_t sequence; /* 0: there is none yet */
    uint8_t state;
    uint8_t active;    /* slot, or NO_SLOT */
    uint8_t candidate; /* slot on trial, or NO_SLOT */
    uint8_t attempts;  /* boots of the trial that have begun */
    uint64_t floor;    /* counter of what was committed last; nothing below it is installed, and at it
                          only where what is active cannot be run any more */
    uint64_t rejected; /* first bytes of the digest of what failed last; 0: nothing */
};

/* Read the latest record; of an empty journal a steady state with nothing active. */
struct edgectl_record edgectl_read_journal(const struct edgectl_flash *flash, uint32_t offset);

/* Append a record, with the next sequence.
 *
 * offset: of the journal's two sectors.
 *
 * Returns EDGECTL_FLASH_FAILED when the flash does not hold it afterwards.
 */
enum edgectl_status edgectl_append_record(const struct edgectl_flash *flash, uint32_t offset,
                                          struct edgectl_record *record);

#endif
