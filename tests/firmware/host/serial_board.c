/* serial_board FLASH KEY NAME [CUT]: pico-uart's link on a simulated flash, the line on stdin and stdout.
 *
 * FLASH is a file that stands for the flash, made if there is none. CUT is the operation of the flash,
 * counted from power on, in which the power is cut: the program ends with 77. A reset begins anew
 * in the same process; the end of the input is power off.
 */
#define _DEFAULT_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "files.h"
#include "link.h"
#include "simulated_device.h"

enum { POWER_CUT = 77, USAGE = 98 };

static uint32_t microseconds(void)
{
    static uint32_t now;
    return now += 1000;
}

static const struct link_board BOARD = {"host", "none", 64 * 1024, microseconds};

static bool send_all(const uint8_t *bytes, size_t length)
{
    while (length > 0) {
        ssize_t written = write(STDOUT_FILENO, bytes, length);
        if (written <= 0)
            return false;
        bytes += written;
        length -= (size_t)written;
    }
    return true;
}

/* Map the flash; what is written to it is in the file at once. */
static struct simulated_flash *map(const char *path)
{
    struct simulated_flash *flash;
    int file = open(path, O_RDWR | O_CREAT, 0600);
    if (file < 0 || ftruncate(file, sizeof *flash) != 0)
        return NULL;
    flash = mmap(NULL, sizeof *flash, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    return flash == MAP_FAILED ? NULL : flash;
}

int main(int count, char **arguments)
{
    static struct edgectl_device device;
    static struct link link;
    if (count < 4)
        return USAGE;
    struct content key = read_whole(arguments[2]);
    struct simulated_flash *flash = map(arguments[1]);
    if (flash == NULL || key.length != ED25519_KEY_BYTES)
        return USAGE;
    if (flash->random == 0)
        begin_device(&device, flash, key.bytes, arguments[3]);
    else
        attach_device(&device, flash, key.bytes, arguments[3]);
    free(key.bytes);
    flash->operations = 0;
    flash->cut_after = count > 4 ? atoi(arguments[4]) : NEVER;
    if (setjmp(flash->power_cut) != 0)
        return POWER_CUT;
    link_begin(&link, &device, &BOARD);
    uint8_t bytes[4096];
    for (;;) {
        ssize_t length = read(STDIN_FILENO, bytes, sizeof bytes);
        if (length <= 0)
            break;
        for (ssize_t i = 0; i < length && !link.reset; i++) {
            size_t answer = link_take(&link, bytes[i]);
            if (answer != 0 && !send_all(link.coded, answer))
                return 0;
        }
        if (link.reset)
            link_begin(&link, &device, &BOARD);
    }
    fprintf(stderr, "%d operations, %d rules broken\n", flash->operations, flash->broken_rules);
    return flash->broken_rules != 0;
}
