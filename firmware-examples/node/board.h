/* What a board gives: a flash, files and text of the host by semihosting, a timer, an end. */
#ifndef BOARD_H
#define BOARD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "flash.h"

enum { BOARD_FLASH_BYTES = 1024 * 1024, POWER_CUT = 77, BOARD_FAULT = 99, NEVER = -1 };

int main(void);

/* Copy what stands behind the program's name on the host; "" if it does not fit. */
void board_arguments(char *text, size_t size);

/* Find the flash, of BOARD_FLASH_BYTES.
 *
 * path: of the file of the host that stands for it, where the board has none of its own.
 * cut_after: operations until the power is cut: half of one is done, then the program ends with
 * POWER_CUT; or NEVER.
 */
bool board_begin_flash(struct edgectl_flash *flash, const char *path, int cut_after);

/* Return the operations of the flash that were begun. */
uint32_t board_flash_operations(void);

/* Do one operation of semihosting; `block` is what it says. */
int board_call(int operation, const void *block);

/* Open a file of the host: to read, or to read and write. Returns a handle, or -1. */
int board_open(const char *path, int writable);

/* Read or write bytes at an offset of a file; returns 0 when all went well. */
int board_read(int file, uint32_t offset, void *bytes, size_t length);
int board_write(int file, uint32_t offset, const void *bytes, size_t length);

/* Return the length of a file. */
uint32_t board_length(int file);

/* Print text, or a number. */
void board_print(const char *text);
void board_print_number(uint32_t number);

/* Return ticks since some moment; with QEMU's `-icount shift=0` of 40 instructions each. */
uint32_t board_ticks(void);

/* Return the most that the stack has held. */
uint32_t board_stack_bytes(void);

/* End the program with an exit code of the host. */
_Noreturn void board_end(int code);

#endif
