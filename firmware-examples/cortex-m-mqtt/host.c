#include "host.h"

#include <time.h>

#include "board.h"
#include "dates.h"
#include "mbedtls/entropy.h"
#include "mbedtls/platform.h"
#include "mbedtls/platform_time.h"
#include "mbedtls/platform_util.h"
#include "network.h"

enum { SYS_TIME = 0x11, RESET_REQUEST = 0x05FA0004 };

#define RESET_CONTROL (*(volatile uint32_t *)0xE000ED0C) /* AIRCR, ARMv7-M B3.2.6 */

bool host_random(void *bytes, size_t length)
{
    static int file = -1;
    if (file < 0)
        file = board_open("/dev/urandom", 0);
    return file >= 0 && board_read(file, 0, bytes, length) == 0;
}

uint32_t host_time(void)
{
    return (uint32_t)board_call(SYS_TIME, NULL);
}

_Noreturn void host_reset(void)
{
    RESET_CONTROL = RESET_REQUEST;
    for (;;)
        ;
}

/* ---------------------------------------------------------------- as mbedTLS asks for them */

int mbedtls_hardware_poll(void *data, unsigned char *output, size_t length, size_t *given)
{
    (void)data;
    if (!host_random(output, length))
        return MBEDTLS_ERR_ENTROPY_SOURCE_FAILED;
    *given = length;
    return 0;
}

static mbedtls_time_t now(mbedtls_time_t *also)
{
    mbedtls_time_t seconds = host_time();
    if (also != NULL)
        *also = seconds;
    return seconds;
}

void host_begin(void)
{
    mbedtls_platform_set_time(now);
}

mbedtls_ms_time_t mbedtls_ms_time(void)
{
    return network_ms();
}

struct tm *mbedtls_platform_gmtime_r(const mbedtls_time_t *seconds, struct tm *broken)
{
    struct date date = date_of((uint32_t)*seconds);
    *broken = (struct tm){
        .tm_year = (int)date.year - 1900,
        .tm_mon = (int)date.month - 1,
        .tm_mday = (int)date.day,
        .tm_hour = (int)date.hour,
        .tm_min = (int)date.minute,
        .tm_sec = (int)date.second,
    };
    return broken;
}
