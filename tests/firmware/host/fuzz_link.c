/* Whatever comes on the line. An even first byte: the rest as it is; an odd one: as frames, each a kind,
 * a length of two bytes and a payload, so that what is behind the CRC is reached. The signature is
 * taken as right; a reset is done.
 */
#include <string.h>

#include "bytes.h"
#include "link.h"
#include "simulated_device.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length);

static struct simulated_flash flash;
static struct edgectl_device device;
static struct link link;

bool edgectl_signed_by(const uint8_t signature[ED25519_SIGNATURE_BYTES],
                       const uint8_t key[ED25519_KEY_BYTES], const uint8_t *message,
                       size_t length)
{
    (void)signature, (void)key, (void)message, (void)length;
    return true;
}

static uint32_t microseconds(void)
{
    return 0;
}

static const struct link_board BOARD = {"fuzz", "none", 64 * 1024, microseconds};

static void take(const uint8_t *bytes, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        link_take(&link, bytes[i]);
        if (link.reset)
            link_begin(&link, &device, &BOARD);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    static const uint8_t KEY[ED25519_KEY_BYTES];
    if (length == 0)
        return 0;
    begin_device(&device, &flash, KEY, "tiny");
    link_begin(&link, &device, &BOARD);
    if (bytes[0] % 2 == 0) {
        take(bytes + 1, length - 1);
        return 0;
    }
    uint8_t number = 0;
    for (size_t at = 1; at + 3 <= length;) {
        uint8_t content[FRAME_BYTES], coded[FRAME_CODED_BYTES];
        size_t size = load_u16(bytes + at + 1) % (FRAME_PAYLOAD_BYTES + 1);
        if (size > length - at - 3)
            size = length - at - 3;
        content[0] = bytes[at];
        content[1] = number++;
        memcpy(content + FRAME_HEAD_BYTES, bytes + at + 3, size);
        take(coded, frame_write(content, FRAME_HEAD_BYTES + size, coded));
        at += 3 + size;
    }
    return 0;
}
