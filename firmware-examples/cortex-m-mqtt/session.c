#include "session.h"

#include "board.h"
#include "lwip/altcp_tls.h"
#include "lwip/apps/mqtt.h"
#include "lwip/apps/mqtt_priv.h"
#include "mbedtls/ssl.h"
#include "network.h"

enum {
    KEEP_ALIVE_S = 30,
    WAIT_FIRST_MS = 1000,
    WAIT_MAX_MS = 30000,
    CONNECTING_MAX_MS = 15000,
    WILL_BYTES_MAX = 768,
};

/* The Makefile widens it: a signed will is longer than the 255 bytes that lwIP foresees. */
_Static_assert(sizeof((struct mqtt_connect_client_info_t){0}.will_msg_len) == 2, "not widened");

static struct {
    mqtt_client_t client;
    struct mqtt_connect_client_info_t info;
    const struct identity *identity;
    const struct session_events *events;
    ip_addr_t address;
    uint32_t connection; /* number of the newest */
    uint32_t next_ms;    /* when to connect again, or to give up connecting */
    uint32_t wait_ms;
    enum { DOWN, CONNECTING, UP } state;
    char will[WILL_BYTES_MAX];
} session;

/* ---------------------------------------------------------------- what lwIP calls */

static void went_down(mqtt_connection_status_t status)
{
    board_print("{\"disconnected\": ");
    board_print_number((uint32_t)status);
    board_print("}\n");
    session.state = DOWN;
    session.next_ms = network_ms() + session.wait_ms;
    session.wait_ms = session.wait_ms * 2 < WAIT_MAX_MS ? session.wait_ms * 2 : WAIT_MAX_MS;
}

static void changed(mqtt_client_t *client, void *context, mqtt_connection_status_t status)
{
    (void)client, (void)context;
    if (status == MQTT_CONNECT_ACCEPTED) {
        session.state = UP;
        session.wait_ms = WAIT_FIRST_MS;
        session.events->up();
        return;
    }
    went_down(status);
}

static void message_begins(void *context, const char *topic, u32_t length)
{
    (void)context;
    session.events->begin(topic, length);
}

static void message_goes_on(void *context, const u8_t *bytes, u16_t length, u8_t flags)
{
    (void)context;
    session.events->add(bytes, length);
    if ((flags & MQTT_DATA_FLAG_LAST) != 0)
        session.events->end();
}

/* ---------------------------------------------------------------- what the program calls */

bool session_begin(const struct identity *identity, const char *will_topic,
                   const struct session_events *events)
{
    session.identity = identity;
    session.events = events;
    session.wait_ms = WAIT_FIRST_MS;
    session.info = (struct mqtt_connect_client_info_t){
        .client_id = identity->device,
        .keep_alive = KEEP_ALIVE_S,
        .will_topic = will_topic,
        .will_msg = session.will,
        .will_qos = 1,
        .will_retain = 1,
        .tls_config = altcp_tls_create_config_client_2wayauth(
            identity->authority.bytes, identity->authority.length, identity->key.bytes,
            identity->key.length, NULL, 0, identity->certificate.bytes,
            identity->certificate.length),
    };
    return session.info.tls_config != NULL && ipaddr_aton(identity->host, &session.address);
}

/* What lwIP leaves out; the handshake has not begun. */
static bool prepare_tls(mbedtls_ssl_context *tls)
{
    mbedtls_ssl_config *settings = (mbedtls_ssl_config *)mbedtls_ssl_context_get_config(tls);
    return mbedtls_ssl_conf_max_frag_len(settings, MBEDTLS_SSL_MAX_FRAG_LEN_4096) == 0 &&
           mbedtls_ssl_set_hostname(tls, session.identity->server) == 0;
}

static void connect(void)
{
    struct text will = text_in(session.will, sizeof session.will);
    session.events->will(++session.connection, &will);
    session.info.will_msg_len = (u16_t)will.length;
    session.state = CONNECTING;
    session.next_ms = network_ms() + CONNECTING_MAX_MS;
    if (will.full || mqtt_client_connect(&session.client, &session.address, session.identity->port,
                                         changed, NULL, &session.info) != ERR_OK) {
        went_down(MQTT_CONNECT_TIMEOUT);
        return;
    }
    mqtt_set_inpub_callback(&session.client, message_begins, message_goes_on, NULL);
    if (!prepare_tls(altcp_tls_context(session.client.conn))) {
        mqtt_disconnect(&session.client);
        went_down(MQTT_CONNECT_TIMEOUT);
    }
}

void session_poll(void)
{
    if (session.state == UP || (int32_t)(network_ms() - session.next_ms) < 0)
        return;
    if (session.state == CONNECTING) {
        mqtt_disconnect(&session.client);
        went_down(MQTT_CONNECT_TIMEOUT);
        return;
    }
    connect();
}

bool session_is_up(void)
{
    return session.state == UP;
}

bool session_subscribe(const char *topic)
{
    return mqtt_subscribe(&session.client, topic, 1, NULL, NULL) == ERR_OK;
}

bool session_unsubscribe(const char *topic)
{
    return mqtt_unsubscribe(&session.client, topic, NULL, NULL) == ERR_OK;
}

bool session_publish(const char *topic, const struct text *message, bool retained)
{
    return !message->full && mqtt_publish(&session.client, topic, message->bytes,
                                          (u16_t)message->length, 1, retained, NULL, NULL) == ERR_OK;
}
