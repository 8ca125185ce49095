/* Any bytes in the flash: a device boots or says that it has no model, and can write its journal. */
#include <stdlib.h>
#include <string.h>

#include "simulated_device.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    static struct simulated_flash flash;
    static struct edgectl_device device;
    static const uint8_t KEY[ED25519_KEY_BYTES];
    struct edgectl_running running;
    begin_device(&device, &flash, KEY, "tiny");
    memcpy(flash.memory, bytes, length < sizeof flash.memory ? length : sizeof flash.memory);
    if (edgectl_boot(&device, &running) == EDGECTL_OK)
        abort(); /* nobody has signed it */
    struct edgectl_record record = edgectl_read_journal(&device.flash, device.journal);
    uint32_t before = record.sequence;
    if (edgectl_append_record(&device.flash, device.journal, &record) != EDGECTL_OK ||
        edgectl_read_journal(&device.flash, device.journal).sequence != before + 1)
        abort();
    return 0;
}
