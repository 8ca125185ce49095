/* A device on a simulated flash: two slots of 24 KiB behind a journal. */
#ifndef SIMULATED_DEVICE_H
#define SIMULATED_DEVICE_H

#include <stddef.h>

#include "simulated_flash.h"
#include "update.h"

/* Make a device whose flash is blank. */
void begin_device(struct edgectl_device *device, struct simulated_flash *flash,
                  const uint8_t key[ED25519_KEY_BYTES], const char *name);

/* Make a device on a flash as it is. */
void attach_device(struct edgectl_device *device, struct simulated_flash *flash,
                   const uint8_t key[ED25519_KEY_BYTES], const char *name);

/* Install a bundle, handed over in pieces of several sizes. */
enum edgectl_status install(const struct edgectl_device *device, const uint8_t *bundle,
                            size_t length);

/* The same in parts of one sector; what is in the slot already is not written again. */
enum edgectl_status install_in_parts(const struct edgectl_device *device, const uint8_t *bundle,
                                     size_t length);

#endif
