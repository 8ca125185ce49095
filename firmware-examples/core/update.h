/* Two slots, a journal, a trial: how a device comes from one model to the next, or stays.
 *
 * Rules: a slot is written only while it is neither active nor on trial. What is decided is saved
 * before it is acted on. Every boot checks the signature of what it will run. A power cut at any
 * point leaves a device that boots what it ran before, or what has proved itself.
 */
#ifndef EDGECTL_UPDATE_H
#define EDGECTL_UPDATE_H

#include <stddef.h>
#include <stdint.h>

#include "bundle.h"
#include "flash.h"
#include "journal.h"
#include "model.h"
#include "status.h"

enum { SLOTS = 2 };

/* What a device is; filled by a port, never changed. */
struct edgectl_device {
    struct edgectl_flash flash;
    uint32_t journal;      /* offset of its two sectors */
    uint32_t slots[SLOTS]; /* offsets, at sectors */
    uint32_t slot_bytes;   /* of each, whole sectors */
    uint8_t key[ED25519_KEY_BYTES]; /* that signs bundles */
    const char *name;      /* of the model that it runs */
    uint8_t attempts_max;  /* boots that a trial may take: more mean that it hangs or resets */
    int8_t *arena;
    uint32_t arena_bytes;
    void (*alive)(void); /* called before each golden case, for the watchdog; NULL: nobody is told */
};

/* What runs. */
struct edgectl_running {
    struct edgectl_bundle bundle;
    struct edgectl_model model;
    uint8_t slot;
};

/* A bundle on its way into a slot. */
struct edgectl_install {
    struct edgectl_bundle bundle;
    uint8_t header[BUNDLE_HEADER_BYTES];
    uint8_t page[FLASH_PAGE_BYTES];
    uint32_t at;   /* where the next byte goes, in the bundle */
    uint32_t end;  /* of the part that is written */
    uint32_t held; /* bytes in the page, which flash does not have yet */
    uint8_t slot;
};

/* Decide what runs: finish a trial, or begin one, and check what is active.
 *
 * To be called once after each reset, with a watchdog running: a trial that hangs or resets counts
 * as an attempt.
 *
 * Returns EDGECTL_OK with `running` filled, EDGECTL_NO_MODEL, or EDGECTL_FLASH_FAILED.
 */
enum edgectl_status edgectl_boot(const struct edgectl_device *device,
                                 struct edgectl_running *running);

/* Begin to install: check the header, and erase the other slot if all is right.
 *
 * Nothing is erased for a header that nobody has signed.
 */
enum edgectl_status edgectl_begin_install(const struct edgectl_device *device,
                                          struct edgectl_install *install,
                                          const uint8_t header[BUNDLE_HEADER_BYTES]);

/* Add bytes of the payload, as they come. */
enum edgectl_status edgectl_add_payload(const struct edgectl_device *device,
                                        struct edgectl_install *install, const uint8_t *bytes,
                                        size_t length);

/* End it: check all that is in flash, and put it on trial at the next boot. */
enum edgectl_status edgectl_end_install(const struct edgectl_device *device,
                                        struct edgectl_install *install);

/* The same in parts, for bundles that come in chunks: what an earlier attempt has left in the slot may
 * stay. Call edgectl_check_install, then for each part that is missing edgectl_begin_part,
 * edgectl_add_payload and edgectl_end_part, then edgectl_end_install. */

/* Return the slot into which the next bundle goes, as it is now. */
const uint8_t *edgectl_spare_slot(const struct edgectl_device *device);

/* Do what edgectl_begin_install does, but erase nothing. */
enum edgectl_status edgectl_check_install(const struct edgectl_device *device,
                                          struct edgectl_install *install,
                                          const uint8_t header[BUNDLE_HEADER_BYTES]);

/* Erase the sectors of a part of the bundle; the payload goes on there.
 *
 * from: a multiple of FLASH_SECTOR_BYTES. At 0 the header is written already.
 * length: another such multiple, or what is left of the bundle.
 */
enum edgectl_status edgectl_begin_part(const struct edgectl_device *device,
                                       struct edgectl_install *install, uint32_t from,
                                       uint32_t length);

/* Have all that was added in flash. */
enum edgectl_status edgectl_end_part(const struct edgectl_device *device,
                                     struct edgectl_install *install);

#endif
