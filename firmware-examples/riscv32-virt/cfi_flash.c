/* The second flash of QEMU's virt: CFI, Intel's commands (JESD68.01; Intel 28F, AP-646).
 *
 * Two chips of 16 bits lie beside each other: each command goes to both, each status comes from
 * both. What is written is in the file behind the drive at once, so a power cut is a real one: the
 * program ends in the middle of an operation, and what was not written is not there.
 */
#include "board.h"

enum {
    PROGRAM = 0x00400040,
    ERASE = 0x00200020,
    CONFIRM = 0x00D000D0,
    READ_STATUS = 0x00700070,
    CLEAR_STATUS = 0x00500050,
    READ_ARRAY = 0x00FF00FF,
    READY = 0x00800080,
    FAILED = 0x003A003A, /* erase, program, voltage, lock */
};

#define FLASH ((volatile uint32_t *)0x22000000)

static struct {
    int cut_after;
    int operations;
} state;

/* Wait for the end of an operation, and go back to reading. */
static bool finish(volatile uint32_t *at)
{
    uint32_t status;
    do {
        *at = READ_STATUS;
        status = *at;
    } while ((status & READY) != READY);
    *at = CLEAR_STATUS;
    *at = READ_ARRAY;
    return (status & FAILED) == 0;
}

static bool is_cut(void)
{
    return state.cut_after == state.operations++;
}

static bool program_words(uint32_t offset, const uint8_t *bytes, uint32_t length)
{
    for (uint32_t done = 0; done < length; done += 4) {
        volatile uint32_t *at = FLASH + (offset + done) / 4;
        uint32_t word = (uint32_t)bytes[done] | (uint32_t)bytes[done + 1] << 8 |
                        (uint32_t)bytes[done + 2] << 16 | (uint32_t)bytes[done + 3] << 24;
        uint32_t held = *at;
        if ((held & word) == held)
            continue; /* no bit to clear */
        *at = PROGRAM;
        *at = held & word;
        if (!finish(at))
            return false;
    }
    return true;
}

static bool erase(void *context, uint32_t offset)
{
    (void)context;
    volatile uint32_t *at = FLASH + offset / 4;
    if (is_cut()) {
        /* Bits that an erase has not reached yet: the chip itself does it in one go. */
        static const uint8_t BROKEN[FLASH_PAGE_BYTES];
        program_words(offset, BROKEN, FLASH_PAGE_BYTES);
        board_end(POWER_CUT);
    }
    *at = ERASE;
    *at = CONFIRM;
    return finish(at);
}

static bool program(void *context, uint32_t offset, const uint8_t page[FLASH_PAGE_BYTES])
{
    (void)context;
    bool cut = is_cut();
    bool programmed = program_words(offset, page, cut ? FLASH_PAGE_BYTES / 2 : FLASH_PAGE_BYTES);
    if (cut)
        board_end(POWER_CUT);
    return programmed;
}

bool board_begin_flash(struct edgectl_flash *flash, const char *path, int cut_after)
{
    (void)path; /* QEMU has it */
    *flash = (struct edgectl_flash){
        .memory = (const uint8_t *)FLASH, .erase = erase, .program = program};
    state.cut_after = cut_after;
    return true;
}

uint32_t board_flash_operations(void)
{
    return (uint32_t)state.operations;
}
