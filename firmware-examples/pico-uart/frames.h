/* Frames on a serial line: COBS between zeros, CRC-32 at the end. README.md, "The line", says it all.
 *
 * Whatever comes, a reader keeps at most FRAME_CODED_BYTES of it, and gives only what is whole.
 */
#ifndef FRAMES_H
#define FRAMES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    FRAME_HEAD_BYTES = 2, /* kind, number */
    FRAME_PAYLOAD_BYTES = 520,
    FRAME_CRC_BYTES = 4,
    FRAME_BYTES = FRAME_HEAD_BYTES + FRAME_PAYLOAD_BYTES + FRAME_CRC_BYTES,
    FRAME_CODED_BYTES = FRAME_BYTES + FRAME_BYTES / 254 + 2, /* with the zero behind it */
};

struct frame_reader {
    uint8_t bytes[FRAME_CODED_BYTES]; /* what has come since the last zero; then the frame */
    uint16_t length;
    bool too_long;
    uint32_t dropped; /* runs of bytes that were no frame */
};

/* Take a byte from the line.
 *
 * Returns the length of a frame that it has completed: head and payload, in reader->bytes until the
 * next call; 0: there is none.
 */
size_t frame_take(struct frame_reader *reader, uint8_t byte);

/* Write a frame as it goes on the line; returns its length there.
 *
 * content: head and payload; a CRC is put behind them.
 */
size_t frame_write(uint8_t content[FRAME_BYTES], size_t length,
                   uint8_t coded[FRAME_CODED_BYTES]);

#endif
