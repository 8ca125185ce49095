/* The Pico's own flash, from its second megabyte on; the program is in the first. */
#ifndef PICO_FLASH_H
#define PICO_FLASH_H

#include "flash.h"

struct edgectl_flash pico_flash(void);

#endif
