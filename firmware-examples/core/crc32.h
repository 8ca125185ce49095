/* CRC-32 as in IEEE 802.3 and zlib: finds torn records of the journal; it proves no origin. */
#ifndef EDGECTL_CRC32_H
#define EDGECTL_CRC32_H

#include <stddef.h>
#include <stdint.h>

uint32_t edgectl_crc32(const uint8_t *bytes, size_t length);

#endif
