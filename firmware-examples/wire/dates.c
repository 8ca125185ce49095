#include "dates.h"

enum { DAY_SECONDS = 86400 };

/* Days from a first of March on, in eras of 400 years: H. Hinnant, "chrono-compatible low-level date
 * algorithms", civil_from_days. */
struct date date_of(uint32_t seconds)
{
    uint32_t days = seconds / DAY_SECONDS + 719468, rest = seconds % DAY_SECONDS;
    uint32_t era = days / 146097, of_era = days % 146097;
    uint32_t year = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146096) / 365;
    uint32_t of_year = of_era - (365 * year + year / 4 - year / 100);
    uint32_t month = (5 * of_year + 2) / 153; /* 0: March */
    return (struct date){
        .year = year + era * 400 + (month >= 10),
        .month = month < 10 ? month + 3 : month - 9,
        .day = of_year - (153 * month + 2) / 5 + 1,
        .hour = rest / 3600,
        .minute = rest / 60 % 60,
        .second = rest % 60,
    };
}

static char *put(char *at, uint32_t number, int digits, char end)
{
    for (int i = digits - 1; i >= 0; i--, number /= 10)
        at[i] = (char)('0' + number % 10);
    at[digits] = end;
    return at + digits + 1;
}

void date_text(uint32_t seconds, char text[DATE_CHARACTERS + 1])
{
    struct date date = date_of(seconds);
    char *at = put(text, date.year, 4, '-');
    at = put(at, date.month, 2, '-');
    at = put(at, date.day, 2, 'T');
    at = put(at, date.hour, 2, ':');
    at = put(at, date.minute, 2, ':');
    at = put(at, date.second, 2, 'Z');
    *at = '\0';
}
