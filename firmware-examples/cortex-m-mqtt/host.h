/* What the host gives for peripherals that QEMU's board lacks: random numbers and a clock. */
#ifndef HOST_H
#define HOST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Tell mbedTLS of them. */
void host_begin(void);

/* Fill with random bytes, from /dev/urandom of the host; a real board has a generator. False: none. */
bool host_random(void *bytes, size_t length);

/* Return seconds since 1970; a real board has a clock that runs on, or asks the network. */
uint32_t host_time(void);

/* Reset the processor. */
_Noreturn void host_reset(void);

#endif
