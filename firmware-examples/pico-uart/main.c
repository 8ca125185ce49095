/* A Raspberry Pi Pico on a serial line: UART 0, GPIO 0 (out) and 1 (in).
 *
 * It boots what has proved itself, then answers whoever asks. A watchdog runs from the first line on:
 * a trial that hangs ends by a reset, which counts as an attempt.
 */
#include "hardware/gpio.h"
#include "hardware/regs/addressmap.h"
#include "hardware/timer.h"
#include "hardware/uart.h"
#include "hardware/watchdog.h"

#include "device.h"
#include "link.h"
#include "pico_flash.h"

enum {
    PIN_OUT = 0,
    PIN_IN = 1,
    WATCHDOG_MS = 8000, /* nearly the longest that it knows */
};

int main(void)
{
    static struct link link;
    watchdog_enable(WATCHDOG_MS, true);
    struct edgectl_device device = node_device(pico_flash());
    device.alive = watchdog_update;
    const struct link_board board = {"rp2040", "armv6-m", SRAM_END - SRAM_BASE, time_us_32};
    link_begin(&link, &device, &board);
    uart_init(uart0, BAUD);
    gpio_set_function(PIN_OUT, GPIO_FUNC_UART);
    gpio_set_function(PIN_IN, GPIO_FUNC_UART);
    while (!link.reset) {
        watchdog_update();
        if (!uart_is_readable(uart0))
            continue;
        size_t bytes = link_take(&link, (uint8_t)uart_getc(uart0));
        if (bytes != 0)
            uart_write_blocking(uart0, link.coded, bytes);
    }
    uart_tx_wait_blocking(uart0);
    watchdog_reboot(0, 0, 0);
    for (;;)
        ;
}
