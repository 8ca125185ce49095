/* Registers and formats: SMSC LAN9118 data sheet, 3.12 (FIFOs), 5.3 (registers), 5.4 (MAC).
 *
 * Frames go through four FIFOs of 32-bit words. Nothing is done in interrupts: that of a waiting
 * frame is let through only to wake the processor up.
 */
#include <string.h>

#include "board.h"
#include "lan9118.h"

#define LAN9118 ((volatile uint32_t *)0x40200000) /* on the MPS2 */

enum { /* offsets of registers, in words */
    RX_DATA = 0x00 / 4,
    TX_DATA = 0x20 / 4,
    RX_STATUS = 0x40 / 4,
    TX_STATUS = 0x48 / 4,
    ID = 0x50 / 4,
    IRQ_CONFIGURATION = 0x54 / 4,
    INTERRUPTS = 0x58 / 4,
    INTERRUPTS_ENABLED = 0x5C / 4,
    FIFO_LEVELS = 0x68 / 4,
    TX_CONFIGURATION = 0x70 / 4,
    HARDWARE = 0x74 / 4,
    RX_CONTROL = 0x78 / 4,
    RX_WAITING = 0x7C / 4,
    TX_FREE = 0x80 / 4,
    POWER = 0x84 / 4,
    MAC_COMMAND = 0xA4 / 4,
    MAC_DATA = 0xA8 / 4,
};

enum {
    CHIP = 0x0118,
    RESET = 1u << 0,
    FIFO_SIZES = 5u << 16 | 1u << 20, /* 5 KiB to send; whole frames only */
    AWAKE = 1u << 0,
    TX_ON = 1u << 1,
    TX_FIRST_LAST = 1u << 13 | 1u << 12,
    RX_FAILED = 1u << 15,
    RX_FAST_FORWARD = 1u << 31,
    RX_LEVEL = 1u << 3,
    IRQ_LINE = 1u << 8 | 1u << 4 | 1u << 0,
    MAC_BUSY = 1u << 31,
    MAC_READ = 1u << 30,
    MAC_CONTROL = 1,
    MAC_ADDRESS_HIGH = 2,
    MAC_ADDRESS_LOW = 3,
    MAC_RECEIVES_SENDS = 1u << 3 | 1u << 2,
    CRC_BYTES = 4,
    TRIES = 1000000,
};

static bool wait_for(uint32_t at, uint32_t mask, uint32_t value)
{
    for (uint32_t i = 0; i < TRIES; i++)
        if ((LAN9118[at] & mask) == value)
            return true;
    return false;
}

static bool write_mac(uint32_t number, uint32_t value)
{
    LAN9118[MAC_DATA] = value;
    LAN9118[MAC_COMMAND] = MAC_BUSY | number;
    return wait_for(MAC_COMMAND, MAC_BUSY, 0);
}

static uint32_t read_mac(uint32_t number)
{
    LAN9118[MAC_COMMAND] = MAC_BUSY | MAC_READ | number;
    return wait_for(MAC_COMMAND, MAC_BUSY, 0) ? LAN9118[MAC_DATA] : 0;
}

bool lan9118_begin(struct netif *interface)
{
    if (LAN9118[ID] >> 16 != CHIP)
        return false;
    LAN9118[HARDWARE] = RESET;
    if (!wait_for(HARDWARE, RESET, 0) || !wait_for(POWER, AWAKE, AWAKE))
        return false;
    LAN9118[HARDWARE] = FIFO_SIZES;
    uint32_t low = read_mac(MAC_ADDRESS_LOW), high = read_mac(MAC_ADDRESS_HIGH);
    for (unsigned i = 0; i < 6; i++)
        interface->hwaddr[i] = (uint8_t)(i < 4 ? low >> 8 * i : high >> 8 * (i - 4));
    interface->hwaddr_len = 6;
    LAN9118[FIFO_LEVELS] = 0; /* a single waiting frame is enough */
    LAN9118[INTERRUPTS] = UINT32_MAX;
    LAN9118[INTERRUPTS_ENABLED] = RX_LEVEL;
    LAN9118[IRQ_CONFIGURATION] = IRQ_LINE;
    LAN9118[TX_CONFIGURATION] = TX_ON;
    return write_mac(MAC_CONTROL, MAC_RECEIVES_SENDS);
}

err_t lan9118_send(struct netif *interface, struct pbuf *frame)
{
    static uint32_t words[(ETHERNET_FRAME_MAX + 3) / 4];
    (void)interface;
    if (frame->tot_len > ETHERNET_FRAME_MAX)
        return ERR_VAL;
    uint32_t length = frame->tot_len, count = (length + 3) / 4;
    while ((LAN9118[TX_FREE] >> 16 & 0xFF) != 0)
        (void)LAN9118[TX_STATUS]; /* of frames before: how they went is TCP's to find out */
    if ((LAN9118[TX_FREE] & 0xFFFF) < 4 * (count + 2))
        return ERR_MEM;
    pbuf_copy_partial(frame, words, frame->tot_len, 0);
    LAN9118[TX_DATA] = TX_FIRST_LAST | length;
    LAN9118[TX_DATA] = length;
    for (uint32_t i = 0; i < count; i++)
        LAN9118[TX_DATA] = words[i];
    return ERR_OK;
}

static void discard(uint32_t count)
{
    if (count >= 4) { /* fewer cannot be skipped */
        LAN9118[RX_CONTROL] = RX_FAST_FORWARD;
        wait_for(RX_CONTROL, RX_FAST_FORWARD, 0);
        return;
    }
    while (count-- > 0)
        (void)LAN9118[RX_DATA];
}

/* Fill a chain of buffers from the FIFO, which gives words: a buffer may end within one. */
static void take(struct pbuf *frame, uint32_t count)
{
    struct pbuf *to = frame;
    uint32_t filled = 0;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t word = LAN9118[RX_DATA];
        for (unsigned byte = 0; byte < 4; byte++, word >>= 8) {
            while (to != NULL && filled == to->len)
                to = to->next, filled = 0;
            if (to != NULL)
                ((uint8_t *)to->payload)[filled++] = (uint8_t)word;
        }
    }
}

struct pbuf *lan9118_receive(void)
{
    LAN9118[INTERRUPTS] = RX_LEVEL; /* before the look: what comes after it wakes us */
    while ((LAN9118[RX_WAITING] >> 16 & 0xFF) != 0) {
        uint32_t status = LAN9118[RX_STATUS], length = status >> 16 & 0x3FFF;
        uint32_t count = (length + 3) / 4;
        bool good = (status & RX_FAILED) == 0 && length > CRC_BYTES &&
                    length - CRC_BYTES <= ETHERNET_FRAME_MAX;
        struct pbuf *frame =
            good ? pbuf_alloc(PBUF_RAW, (u16_t)(length - CRC_BYTES), PBUF_POOL) : NULL;
        if (frame != NULL) {
            take(frame, count);
            return frame;
        }
        discard(count); /* damaged, or no buffer free: TCP sends it again */
    }
    return NULL;
}
