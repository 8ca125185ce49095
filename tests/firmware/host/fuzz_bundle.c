/* Any bytes as a signed bundle: the signature is taken as right, all behind it is hostile.
 *
 * What signs is trusted with what a device computes, and not with its memory.
 */
#include <string.h>

#include "simulated_device.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length);

/* In place of the core's: everything is signed, and every payload is what was signed. */
bool edgectl_signed_by(const uint8_t signature[ED25519_SIGNATURE_BYTES],
                       const uint8_t key[ED25519_KEY_BYTES], const uint8_t *message,
                       size_t length)
{
    (void)signature, (void)key, (void)message, (void)length;
    return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    static struct simulated_flash flash;
    static struct edgectl_device device;
    static const uint8_t KEY[ED25519_KEY_BYTES];
    struct edgectl_running running;
    if (length < BUNDLE_HEADER_BYTES || length > 24 * 1024)
        return 0;
    uint8_t bundle[24 * 1024];
    memcpy(bundle, bytes, length);
    struct sha512 hash;
    sha512_begin(&hash);
    sha512_add(&hash, bundle + BUNDLE_HEADER_BYTES, length - BUNDLE_HEADER_BYTES);
    sha512_end(&hash, bundle + 96);
    begin_device(&device, &flash, KEY, "tiny");
    install(&device, bundle, length);
    edgectl_boot(&device, &running);
    return 0;
}
