#include "frames.h"

#include "bytes.h"
#include "crc32.h"

enum { RUN_MAX = 0xFF }; /* of COBS: so many bytes, or the zero at their end, for one of length */

/* Decode in place; returns the length, 0 for what is no code. There is no zero in it. */
static size_t decode(uint8_t *bytes, size_t length)
{
    size_t to = 0;
    for (size_t from = 0; from < length;) {
        uint8_t run = bytes[from++];
        if (run - 1u > length - from)
            return 0;
        for (uint8_t i = 1; i < run; i++)
            bytes[to++] = bytes[from++];
        if (run != RUN_MAX && from < length)
            bytes[to++] = 0;
    }
    return to;
}

size_t frame_take(struct frame_reader *reader, uint8_t byte)
{
    if (byte != 0) {
        if (reader->length == sizeof reader->bytes)
            reader->too_long = true;
        else
            reader->bytes[reader->length++] = byte;
        return 0;
    }
    size_t coded = reader->length;
    bool whole = !reader->too_long;
    reader->length = 0;
    reader->too_long = false;
    if (coded == 0)
        return 0; /* between two frames, or before the first */
    size_t length = whole ? decode(reader->bytes, coded) : 0;
    if (length < FRAME_HEAD_BYTES + FRAME_CRC_BYTES || length > FRAME_BYTES ||
        load_u32(reader->bytes + length - FRAME_CRC_BYTES) !=
            edgectl_crc32(reader->bytes, length - FRAME_CRC_BYTES)) {
        reader->dropped++;
        return 0;
    }
    return length - FRAME_CRC_BYTES;
}

size_t frame_write(uint8_t content[FRAME_BYTES], size_t length, uint8_t coded[FRAME_CODED_BYTES])
{
    store_u32(content + length, edgectl_crc32(content, length));
    length += FRAME_CRC_BYTES;
    size_t at = 0, to = 1;
    uint8_t run = 1;
    for (size_t i = 0; i < length; i++) {
        if (content[i] != 0) {
            coded[to++] = content[i];
            run++;
        }
        if (content[i] == 0 || (run == RUN_MAX && i + 1 < length)) {
            coded[at] = run;
            at = to++;
            run = 1;
        }
    }
    coded[at] = run;
    coded[to++] = 0;
    return to;
}
