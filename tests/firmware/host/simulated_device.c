#include "simulated_device.h"

#include <string.h>

enum { SLOT_BYTES = 24 * 1024, ARENA_BYTES = 64 * 1024, LARGEST_PIECE = 700 };

void begin_device(struct edgectl_device *device, struct simulated_flash *flash,
                  const uint8_t key[ED25519_KEY_BYTES], const char *name)
{
    memset(flash->memory, FLASH_BLANK, sizeof flash->memory);
    flash->cut_after = NEVER;
    flash->operations = 0;
    flash->random = 1;
    flash->broken_rules = 0;
    attach_device(device, flash, key, name);
}

void attach_device(struct edgectl_device *device, struct simulated_flash *flash,
                   const uint8_t key[ED25519_KEY_BYTES], const char *name)
{
    static int8_t arena[ARENA_BYTES];
    *device = (struct edgectl_device){
        .flash = flash_of(flash),
        .journal = 0,
        .slots = {2 * FLASH_SECTOR_BYTES, 2 * FLASH_SECTOR_BYTES + SLOT_BYTES},
        .slot_bytes = SLOT_BYTES,
        .name = name,
        .attempts_max = 3,
        .arena = arena,
        .arena_bytes = ARENA_BYTES,
    };
    memcpy(device->key, key, sizeof device->key);
}

enum edgectl_status install(const struct edgectl_device *device, const uint8_t *bundle,
                            size_t length)
{
    struct edgectl_install one;
    if (length < BUNDLE_HEADER_BYTES)
        return EDGECTL_BAD_BUNDLE;
    enum edgectl_status status = edgectl_begin_install(device, &one, bundle);
    size_t piece = 1;
    for (size_t at = BUNDLE_HEADER_BYTES; status == EDGECTL_OK && at < length; at += piece) {
        piece = piece * 3 % LARGEST_PIECE + 1;
        if (piece > length - at)
            piece = length - at;
        status = edgectl_add_payload(device, &one, bundle + at, piece);
    }
    return status == EDGECTL_OK ? edgectl_end_install(device, &one) : status;
}

enum edgectl_status install_in_parts(const struct edgectl_device *device, const uint8_t *bundle,
                                     size_t length)
{
    struct edgectl_install one;
    if (length < BUNDLE_HEADER_BYTES)
        return EDGECTL_BAD_BUNDLE;
    enum edgectl_status status = edgectl_check_install(device, &one, bundle);
    for (size_t at = 0; status == EDGECTL_OK && at < length; at += FLASH_SECTOR_BYTES) {
        size_t part = length - at < FLASH_SECTOR_BYTES ? length - at : FLASH_SECTOR_BYTES;
        size_t header = at == 0 ? BUNDLE_HEADER_BYTES : 0;
        if (memcmp(edgectl_spare_slot(device) + at, bundle + at, part) == 0)
            continue;
        status = edgectl_begin_part(device, &one, (uint32_t)at, (uint32_t)part);
        if (status == EDGECTL_OK)
            status = edgectl_add_payload(device, &one, bundle + at + header, part - header);
        if (status == EDGECTL_OK)
            status = edgectl_end_part(device, &one);
    }
    return status == EDGECTL_OK ? edgectl_end_install(device, &one) : status;
}
