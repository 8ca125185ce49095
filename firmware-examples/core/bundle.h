/* A bundle: a signed header, the golden cases, the flat model. docs/firmware-format.md says it all.
 *
 * Rule: nothing behind the header is looked at before the header's signature has been checked, and
 * nothing of the payload before its digest has.
 */
#ifndef EDGECTL_BUNDLE_H
#define EDGECTL_BUNDLE_H

#include <stddef.h>
#include <stdint.h>

#include "sha512.h"
#include "signature.h"
#include "status.h"

enum { BUNDLE_HEADER_BYTES = 224, BUNDLE_NAME_BYTES = 64, BUNDLE_ALIGNMENT = 4 };

/* What the header says; it points into no memory. */
struct edgectl_bundle {
    uint64_t counter;       /* of versions of the model; larger is newer */
    uint32_t payload_bytes; /* behind the header */
    uint32_t arena_bytes;   /* that its model needs */
    uint32_t cases;         /* golden ones, each an input and the output to it */
    uint32_t model_offset;  /* in the payload; the cases lie before it */
    uint8_t digest[SHA512_BYTES];
};

/* Check the header of a bundle.
 *
 * header: its first BUNDLE_HEADER_BYTES bytes.
 * key: the pinned one.
 * name: of the model that the device runs, ended by a zero.
 *
 * Returns EDGECTL_BAD_BUNDLE, EDGECTL_BAD_SIGNATURE, EDGECTL_OTHER_MODEL, or EDGECTL_OK.
 */
enum edgectl_status edgectl_read_header(struct edgectl_bundle *bundle, const uint8_t *header,
                                        const uint8_t key[ED25519_KEY_BYTES], const char *name);

/* Check that the payload is what was signed: EDGECTL_OK or EDGECTL_BAD_PAYLOAD. */
enum edgectl_status edgectl_check_payload(const struct edgectl_bundle *bundle,
                                          const uint8_t *payload);

#endif
