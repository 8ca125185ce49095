/* Signed envelopes (DSSE v1): those that the device sends, and those that it opens. */
#ifndef ENVELOPE_H
#define ENVELOPE_H

#include "identity.h"
#include "json.h"
#include "text.h"

#ifndef EDGECTL_OPENED_BYTES
#define EDGECTL_OPENED_BYTES (8 * 1024) /* a port with more memory says so */
#endif

enum { OPENED_BYTES_MAX = EDGECTL_OPENED_BYTES, ENVELOPE_KIND_MAX = 64 };

/* Read the device's key. False: it is none. */
bool envelope_begin(const struct identity *identity);

/* Add to `text` the envelope of a payload, signed by the device's key (ECDSA, P-256, SHA-256).
 *
 * kind: type of the payload.
 */
void envelope_seal(const struct identity *identity, const char *kind, const struct text *payload,
                   struct text *text);

/* Return the payload of an envelope that one of the order keys has signed, or JSON_NONE.
 *
 * buffer: of OPENED_BYTES_MAX bytes; the payload lies in it.
 */
struct json envelope_open(const struct identity *identity, const char *kind, struct json envelope,
                          char *buffer);

#endif
