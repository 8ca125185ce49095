/* lwIP: no operating system, TCP over DHCP, TLS below MQTT; all memory is static and of these sizes. */
#ifndef LWIPOPTS_H
#define LWIPOPTS_H

#define NO_SYS 1
#define SYS_LIGHTWEIGHT_PROT 0
#define LWIP_NETCONN 0
#define LWIP_SOCKET 0
#define LWIP_RAW 0
#define LWIP_ICMP 1
#define LWIP_DHCP 1
#define LWIP_DHCP_DOES_ACD_CHECK 0 /* or an address takes 8 seconds */
#define LWIP_DNS 0
#define LWIP_STATS 1 /* of the heap alone: how much of it was ever used */
#define MEM_STATS 1
#define LINK_STATS 0
#define ETHARP_STATS 0
#define IP_STATS 0
#define ICMP_STATS 0
#define UDP_STATS 0
#define TCP_STATS 0
#define MEMP_STATS 0
#define SYS_STATS 0
#define IP_REASSEMBLY 0
#define IP_FRAG 0

/* lwIP's heap holds what it sends and all that mbedTLS allocates. */
#define MEM_ALIGNMENT 8
#define MEM_SIZE (28 * 1024)
#define LWIP_CHECKSUM_ON_COPY 1

/* A frame of Ethernet in each buffer. The window holds a whole record of TLS (4 KiB), because lwIP opens it
 * again only when one has been read; and no more than the controller's FIFO (10 KiB). */
#define PBUF_POOL_SIZE 10
#define PBUF_POOL_BUFSIZE 1536
#define TCP_MSS 1460
#define TCP_WND (6 * TCP_MSS)
#define TCP_SND_BUF (4 * TCP_MSS)
#define TCP_SND_QUEUELEN 12
#define MEMP_NUM_TCP_SEG 12
#define MEMP_NUM_TCP_PCB 3
#define MEMP_NUM_TCP_PCB_LISTEN 1
#define MEMP_NUM_UDP_PCB 2
#define MEMP_NUM_SYS_TIMEOUT (LWIP_NUM_SYS_TIMEOUT_INTERNAL + 2) /* MQTT has one */

#define LWIP_ALTCP 1
#define LWIP_ALTCP_TLS 1
#define LWIP_ALTCP_TLS_MBEDTLS 1
#define ALTCP_MBEDTLS_AUTHMODE MBEDTLS_SSL_VERIFY_REQUIRED /* lwIP's default takes any certificate */

#define MQTT_OUTPUT_RINGBUF_SIZE 4096 /* the longest message that is sent fits */
#define MQTT_VAR_HEADER_BUFFER_LEN 512 /* pieces of what comes */
#define MQTT_REQ_MAX_IN_FLIGHT 8

#endif
