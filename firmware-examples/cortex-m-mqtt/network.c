#include "network.h"

#include "board.h"
#include "host.h"
#include "lan9118.h"
#include "lwip/dhcp.h"
#include "lwip/etharp.h"
#include "lwip/init.h"
#include "lwip/sys.h"
#include "lwip/timeouts.h"

enum {
    TICKS_PER_MS = 25000,
    SLEEP_TICKS = 20 * TICKS_PER_MS,
    ETHERNET_INTERRUPT = 13, /* of the MPS2 */
};

/* The system timer and the interrupt controller, ARMv7-M B3.3, B3.4. */
#define TIMER_CONTROL (*(volatile uint32_t *)0xE000E010)
#define TIMER_RELOAD (*(volatile uint32_t *)0xE000E014)
#define INTERRUPT_ENABLE (*(volatile uint32_t *)0xE000E100)
#define INTERRUPT_CLEAR (*(volatile uint32_t *)0xE000E280)
#define INTERRUPT_STATE (*(volatile uint32_t *)0xE000ED04)
enum { TIMER_RUNS = 7, CLEAR_TIMER = 1u << 25 };

static struct netif interface;

static err_t begin_interface(struct netif *one)
{
    one->name[0] = 'e';
    one->name[1] = 'n';
    one->mtu = 1500;
    one->flags = NETIF_FLAG_BROADCAST | NETIF_FLAG_ETHARP | NETIF_FLAG_LINK_UP;
    one->output = etharp_output;
    one->linkoutput = lan9118_send;
    return lan9118_begin(one) ? ERR_OK : ERR_IF;
}

bool network_begin(void)
{
    /* Interrupts stay masked: a pending one wakes the processor, and no handler runs. */
    __asm__ volatile("cpsid i");
    INTERRUPT_ENABLE = 1u << ETHERNET_INTERRUPT;
    TIMER_RELOAD = SLEEP_TICKS - 1;
    TIMER_CONTROL = TIMER_RUNS;
    lwip_init();
    if (netif_add_noaddr(&interface, NULL, begin_interface, netif_input) == NULL)
        return false;
    netif_set_default(&interface);
    netif_set_up(&interface);
    return dhcp_start(&interface) == ERR_OK;
}

void network_poll(void)
{
    struct pbuf *frame;
    while ((frame = lan9118_receive()) != NULL)
        if (interface.input(frame, &interface) != ERR_OK)
            pbuf_free(frame);
    sys_check_timeouts();
}

bool network_is_up(void)
{
    return dhcp_supplied_address(&interface) != 0;
}

void network_sleep(void)
{
    __asm__ volatile("wfi");
    INTERRUPT_STATE = CLEAR_TIMER;
    INTERRUPT_CLEAR = 1u << ETHERNET_INTERRUPT;
}

uint32_t network_ms(void)
{
    static uint64_t elapsed;
    static uint32_t last;
    uint32_t now = board_ticks();
    elapsed += (uint32_t)(now - last); /* wraps after 171 s; somebody asks more often */
    last = now;
    return (uint32_t)(elapsed / TICKS_PER_MS);
}

uint32_t sys_now(void)
{
    return network_ms();
}

uint32_t network_random(void)
{
    uint32_t number = 0;
    host_random(&number, sizeof number);
    return number;
}
