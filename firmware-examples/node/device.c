#include "device.h"

#include <string.h>

#include "pinned.h" /* PINNED_KEY and MODEL_NAME, made by the Makefile */

static int8_t arena[ARENA_BYTES];

struct edgectl_device node_device(struct edgectl_flash flash)
{
    static const uint8_t KEY[ED25519_KEY_BYTES] = PINNED_KEY;
    struct edgectl_device device = {
        .flash = flash,
        .journal = 0,
        .slots = {SLOTS_AT, SLOTS_AT + SLOT_BYTES},
        .slot_bytes = SLOT_BYTES,
        .name = MODEL_NAME,
        .attempts_max = 3,
        .arena = arena,
        .arena_bytes = ARENA_BYTES,
    };
    memcpy(device.key, KEY, sizeof device.key);
    return device;
}
