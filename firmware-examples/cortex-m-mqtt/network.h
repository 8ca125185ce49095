/* The network: lwIP over the Ethernet controller, an address by DHCP, time, sleep. */
#ifndef NETWORK_H
#define NETWORK_H

#include <stdbool.h>
#include <stdint.h>

/* Begin to ask for an address. False: there is no Ethernet controller. */
bool network_begin(void);

/* Take in what has come and do what is due; to be called in a loop. */
void network_poll(void);

/* Say whether there is an address. */
bool network_is_up(void);

/* Sleep until a frame comes, 20 ms at most. */
void network_sleep(void);

/* Return milliseconds since the start; it wraps after 49 days. */
uint32_t network_ms(void);

#endif
