/* Dates of UTC, as messages have them: 2026-11-30T05:00:00Z. */
#ifndef DATES_H
#define DATES_H

#include <stdint.h>

enum { DATE_CHARACTERS = 20 };

struct date {
    uint32_t year, month, day, hour, minute, second;
};

/* Return the date of so many seconds since 1970. */
struct date date_of(uint32_t seconds);

/* Write the date as text, with its zero. Such texts are in the order of the moments that they name. */
void date_text(uint32_t seconds, char text[DATE_CHARACTERS + 1]);

#endif
