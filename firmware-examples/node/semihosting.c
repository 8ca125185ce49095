#include "board.h"

/* Operations of Arm's semihosting, which RISC-V has taken over. */
enum {
    SYS_OPEN = 0x01,
    SYS_WRITE0 = 0x04,
    SYS_WRITE = 0x05,
    SYS_READ = 0x06,
    SYS_SEEK = 0x0A,
    SYS_FLEN = 0x0C,
    SYS_GET_CMDLINE = 0x15,
    SYS_EXIT_EXTENDED = 0x20,
    READ_BINARY = 1,
    UPDATE_BINARY = 3,
    APPLICATION_EXIT = 0x20026,
};

static size_t length_of(const char *text)
{
    size_t length = 0;
    while (text[length] != '\0')
        length++;
    return length;
}

void board_arguments(char *text, size_t size)
{
    uintptr_t block[] = {(uintptr_t)text, size};
    if (board_call(SYS_GET_CMDLINE, block) != 0)
        text[0] = '\0';
}

int board_open(const char *path, int writable)
{
    uintptr_t block[] = {(uintptr_t)path, writable ? UPDATE_BINARY : READ_BINARY,
                         length_of(path)};
    return board_call(SYS_OPEN, block);
}

static int seek(int file, uint32_t offset)
{
    uintptr_t block[] = {(uintptr_t)file, offset};
    return board_call(SYS_SEEK, block);
}

int board_read(int file, uint32_t offset, void *bytes, size_t length)
{
    uintptr_t block[] = {(uintptr_t)file, (uintptr_t)bytes, length};
    return seek(file, offset) != 0 || board_call(SYS_READ, block) != 0;
}

int board_write(int file, uint32_t offset, const void *bytes, size_t length)
{
    uintptr_t block[] = {(uintptr_t)file, (uintptr_t)bytes, length};
    return seek(file, offset) != 0 || board_call(SYS_WRITE, block) != 0;
}

uint32_t board_length(int file)
{
    uintptr_t block[] = {(uintptr_t)file};
    return (uint32_t)board_call(SYS_FLEN, block);
}

void board_print(const char *text)
{
    board_call(SYS_WRITE0, text);
}

void board_print_number(uint32_t number)
{
    char digits[11];
    char *at = digits + sizeof digits - 1;
    *at = '\0';
    do
        *--at = (char)('0' + number % 10);
    while ((number /= 10) != 0);
    board_print(at);
}

void board_end(int code)
{
    uintptr_t block[] = {APPLICATION_EXIT, (uintptr_t)code};
    board_call(SYS_EXIT_EXTENDED, block);
    for (;;)
        ;
}
