/* The note of a slot, in a sector of flash behind it. */
#ifndef SLOT_NOTE_H
#define SLOT_NOTE_H

#include "note.h"
#include "update.h"

enum { NOTE_SECTOR_BYTES = FLASH_SECTOR_BYTES };

/* Have the last sector of each slot for its note; to be called once. */
void note_make_room(struct edgectl_device *device);

/* Read the note of a slot. */
struct note note_read(const struct edgectl_device *device, uint8_t slot);

/* Write it. False: the flash does not hold it. */
bool note_write(const struct edgectl_device *device, uint8_t slot, const struct note *note);

#endif
