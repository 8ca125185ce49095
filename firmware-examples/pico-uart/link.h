/* What a gateway may ask a microcontroller on a serial line, and what it is answered.
 *
 * Rules: one request at a time, one answer to each. A request that comes again, because its answer was
 * lost, gets the same answer and is not done twice. Nothing that comes is believed for its length or
 * its order. What may be installed decides the core, by signature and counter, and not who asks.
 */
#ifndef LINK_H
#define LINK_H

#include "frames.h"
#include "update.h"

enum link_request {
    LINK_HELLO = 1, /* what are you, and what runs? */
    LINK_BEGIN,     /* a header: would you install this? */
    LINK_PART,      /* a sector of it, by its digest: do you have it? Else it is erased */
    LINK_DATA,      /* bytes of that sector, at an offset of the bundle */
    LINK_END,       /* check the whole, and put it on trial */
    LINK_RESET,
    LINK_INPUT,     /* bytes of the model's input, at an offset */
    LINK_RUN,
    LINK_OUTPUT,    /* give bytes of its output, from an offset */
};

enum {
    LINK_VERSION = 1,
    LINK_ANSWER = 0x80, /* the kind of an answer is that of its request and this */
    LINK_DATA_BYTES = 512,
    LINK_PART_DIGEST_BYTES = 32, /* the first bytes of a SHA-512 */
    LINK_BOARD_BYTES = 32,
    LINK_MACHINE_BYTES = 16,
    LINK_RUNNING_DIGEST_BYTES = 16,
};

/* Beside the codes of status.h, the first byte of an answer: */
enum link_refusal {
    LINK_UNKNOWN = 64, /* there is no such request */
    LINK_MALFORMED,    /* its length or an offset cannot be */
    LINK_NOT_BEGUN,    /* no bundle, or no part of it, was begun */
    LINK_ELSEWHERE,    /* data of another offset than the one that is next, which is in the answer */
};

/* What a board tells of itself, for the server to know its class by. */
struct link_board {
    const char *name;    /* at most LINK_BOARD_BYTES, such as "rp2040" */
    const char *machine; /* at most LINK_MACHINE_BYTES: its architecture, such as "armv6-m" */
    uint32_t memory_bytes;
    uint32_t (*microseconds)(void);
};

struct link {
    const struct edgectl_device *device;
    struct link_board board;
    enum edgectl_status booted;
    struct edgectl_running running; /* when booted is EDGECTL_OK */
    bool reset;                     /* it was asked for, and answered */

    struct edgectl_install install;
    bool begun;
    struct frame_reader reader;
    uint8_t content[FRAME_BYTES];
    uint8_t number;          /* of the request that was answered last */
    uint32_t request_crc;    /* of the same, to know it again */
    size_t answer_bytes;     /* of its answer, which is in `coded`; 0: there was none */
    uint8_t coded[FRAME_CODED_BYTES];
};

/* Boot the device and begin to listen. */
void link_begin(struct link *link, const struct edgectl_device *device,
                const struct link_board *board);

/* Take a byte from the line; returns how many bytes of link->coded are to be sent. */
size_t link_take(struct link *link, uint8_t byte);

#endif
