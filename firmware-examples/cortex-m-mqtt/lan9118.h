/* The Ethernet controller LAN9118 (SMSC; "smsc911x"), by polling its FIFOs. */
#ifndef LAN9118_H
#define LAN9118_H

#include "lwip/netif.h"
#include "lwip/pbuf.h"

enum { ETHERNET_FRAME_MAX = 1514 };

/* Begin: find it, read its address into the interface, let frames in and out. False: no such chip. */
bool lan9118_begin(struct netif *interface);

/* Send a frame; ERR_MEM: no room in the controller now. */
err_t lan9118_send(struct netif *interface, struct pbuf *frame);

/* Return the next frame, or NULL; damaged ones are left out. */
struct pbuf *lan9118_receive(void);

#endif
