/* A flash that is a file of the host, with a copy in memory: the board of QEMU has none. */
#include "board.h"

__attribute__((section(".slots"))) static uint8_t memory[BOARD_FLASH_BYTES];

static struct {
    int file;
    int cut_after;
    int operations;
} state;

/* Write `length` changed bytes through to the file; half of them when the power is cut. */
static bool store(uint32_t offset, uint32_t length)
{
    bool cut = state.cut_after == state.operations++;
    uint32_t written = cut ? length / 2 : length;
    bool stored = board_write(state.file, offset, memory + offset, written) == 0;
    if (cut)
        board_end(POWER_CUT);
    return stored;
}

static bool erase(void *context, uint32_t offset)
{
    (void)context;
    for (uint32_t i = 0; i < FLASH_SECTOR_BYTES; i++)
        memory[offset + i] = FLASH_BLANK;
    return store(offset, FLASH_SECTOR_BYTES);
}

static bool program(void *context, uint32_t offset, const uint8_t page[FLASH_PAGE_BYTES])
{
    (void)context;
    for (uint32_t i = 0; i < FLASH_PAGE_BYTES; i++)
        memory[offset + i] &= page[i];
    return store(offset, FLASH_PAGE_BYTES);
}

bool board_begin_flash(struct edgectl_flash *flash, const char *path, int cut_after)
{
    *flash = (struct edgectl_flash){.memory = memory, .erase = erase, .program = program};
    state.cut_after = cut_after;
    state.file = board_open(path, 1);
    return state.file >= 0 && board_length(state.file) == BOARD_FLASH_BYTES &&
           board_read(state.file, 0, memory, BOARD_FLASH_BYTES) == 0;
}

uint32_t board_flash_operations(void)
{
    return (uint32_t)state.operations;
}
