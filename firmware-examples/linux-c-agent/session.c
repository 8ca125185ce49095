#include "session.h"

#include <mosquitto.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/time.h>

#include "workers.h"

enum {
    KEEP_ALIVE_S = 30,
    WAIT_FIRST_MS = 1000,
    WAIT_MAX_MS = 60000,
    CONNECT_S_MAX = 10,    /* a host that is silent would be waited for for minutes */
    ANSWER_MS_MAX = 15000, /* from the connection to the broker's welcome */
    PACKETS_AT_ONCE = 16,
    WILL_TEXT_MAX = 1024,
};

static struct {
    struct mosquitto *client;
    const struct identity *identity;
    const char *will_topic;
    const struct session_events *events;
    uint32_t connection; /* number of the newest */
    uint64_t next_ms;    /* when to connect again, or to give up connecting */
    uint32_t wait_ms;
    enum { DOWN, CONNECTING, UP } state;
} session;

/* ---------------------------------------------------------------- what libmosquitto calls */

static void went_down(const char *why)
{
    printf("{\"event\": \"disconnected\", \"detail\": \"%s\"}\n", why);
    fflush(stdout);
    session.state = DOWN;
    session.next_ms = clock_ms() + session.wait_ms;
    session.wait_ms = session.wait_ms * 2 < WAIT_MAX_MS ? session.wait_ms * 2 : WAIT_MAX_MS;
}

static void on_connect(struct mosquitto *client, void *context, int code)
{
    (void)client, (void)context;
    if (code != 0)
        return; /* on_disconnect follows */
    session.state = UP;
    session.wait_ms = WAIT_FIRST_MS;
    session.events->up();
}

static void on_disconnect(struct mosquitto *client, void *context, int code)
{
    (void)client, (void)context;
    if (session.state != DOWN)
        went_down(mosquitto_strerror(code));
}

static void on_message(struct mosquitto *client, void *context,
                       const struct mosquitto_message *message)
{
    (void)client, (void)context;
    session.events->message(message->topic, message->payload, (size_t)message->payloadlen);
}

/* ---------------------------------------------------------------- TLS */

static bool trust(SSL_CTX *tls, const struct identity *identity)
{
    const unsigned char *at = identity->authority.bytes;
    X509 *authority = d2i_X509(NULL, &at, (long)identity->authority.length);
    bool done = authority != NULL &&
                X509_STORE_add_cert(SSL_CTX_get_cert_store(tls), authority) == 1;
    X509_free(authority);
    /* The broker's certificate has to name what the enrolment names, an address or a host. */
    X509_VERIFY_PARAM *rules = SSL_CTX_get0_param(tls);
    return done && (X509_VERIFY_PARAM_set1_ip_asc(rules, identity->server) == 1 ||
                    X509_VERIFY_PARAM_set1_host(rules, identity->server, 0) == 1);
}

static SSL_CTX *make_tls(const struct identity *identity)
{
    SSL_CTX *tls = SSL_CTX_new(TLS_client_method());
    if (tls == NULL || SSL_CTX_set_min_proto_version(tls, TLS1_2_VERSION) != 1)
        return NULL;
    SSL_CTX_set_verify(tls, SSL_VERIFY_PEER, NULL);
    SSL_CTX_set_mode(tls, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    bool done =
        SSL_CTX_use_certificate_ASN1(tls, (int)identity->certificate.length,
                                     identity->certificate.bytes) == 1 &&
        SSL_CTX_use_PrivateKey_ASN1(EVP_PKEY_EC, tls, identity->key.bytes,
                                    (long)identity->key.length) == 1 &&
        SSL_CTX_check_private_key(tls) == 1 && trust(tls, identity);
    return done ? tls : NULL;
}

/* ---------------------------------------------------------------- what the program calls */

static void on_alarm(int number)
{
    (void)number; /* that connect() comes back is all that is wanted */
}

bool session_begin(const struct identity *identity, const char *will_topic,
                   const struct session_events *events)
{
    static const struct sigaction ALARM = {.sa_handler = on_alarm}; /* without SA_RESTART */
    sigaction(SIGALRM, &ALARM, NULL);
    session.identity = identity;
    session.will_topic = will_topic;
    session.events = events;
    session.wait_ms = WAIT_FIRST_MS;
    SSL_CTX *tls = make_tls(identity);
    if (tls == NULL || mosquitto_lib_init() != MOSQ_ERR_SUCCESS)
        return false;
    session.client = mosquitto_new(identity->device, true, NULL);
    if (session.client == NULL)
        return false;
    mosquitto_connect_callback_set(session.client, on_connect);
    mosquitto_disconnect_callback_set(session.client, on_disconnect);
    mosquitto_message_callback_set(session.client, on_message);
    return mosquitto_int_option(session.client, MOSQ_OPT_PROTOCOL_VERSION, MQTT_PROTOCOL_V5) ==
               MOSQ_ERR_SUCCESS &&
           mosquitto_int_option(session.client, MOSQ_OPT_TCP_NODELAY, 1) == MOSQ_ERR_SUCCESS &&
           mosquitto_int_option(session.client, MOSQ_OPT_SSL_CTX_WITH_DEFAULTS, 0) ==
               MOSQ_ERR_SUCCESS &&
           mosquitto_void_option(session.client, MOSQ_OPT_SSL_CTX, tls) == MOSQ_ERR_SUCCESS;
}

/* Connect; libmosquitto waits for that, so a signal ends it: of each address that the name has. */
static int connect_in_time(void)
{
    static const struct itimerval BOUND = {.it_value = {CONNECT_S_MAX, 0}, .it_interval = {1, 0}};
    static const struct itimerval NONE;
    setitimer(ITIMER_REAL, &BOUND, NULL);
    int code = mosquitto_connect(session.client, session.identity->host, session.identity->port,
                                 KEEP_ALIVE_S);
    setitimer(ITIMER_REAL, &NONE, NULL);
    return code;
}

static void connect_now(void)
{
    char bytes[WILL_TEXT_MAX];
    struct text will = text_in(bytes, sizeof bytes);
    session.events->will(++session.connection, &will);
    session.state = CONNECTING;
    session.next_ms = clock_ms() + ANSWER_MS_MAX;
    int code = will.full ? MOSQ_ERR_PAYLOAD_SIZE
                         : mosquitto_will_set(session.client, session.will_topic,
                                              (int)will.length, will.bytes, 1, true);
    if (code == MOSQ_ERR_SUCCESS)
        code = connect_in_time();
    if (code != MOSQ_ERR_SUCCESS && session.state != DOWN)
        went_down(code == MOSQ_ERR_ERRNO ? "no connection" : mosquitto_strerror(code));
}

static void drive(int wait_ms)
{
    struct pollfd socket = {.fd = mosquitto_socket(session.client), .events = POLLIN};
    if (mosquitto_want_write(session.client))
        socket.events |= POLLOUT;
    poll(&socket, 1, wait_ms);
    int code = MOSQ_ERR_SUCCESS;
    if ((socket.revents & (POLLIN | POLLERR | POLLHUP)) != 0)
        code = mosquitto_loop_read(session.client, PACKETS_AT_ONCE);
    if (code == MOSQ_ERR_SUCCESS && mosquitto_want_write(session.client))
        code = mosquitto_loop_write(session.client, PACKETS_AT_ONCE);
    if (code == MOSQ_ERR_SUCCESS)
        code = mosquitto_loop_misc(session.client);
    if (code != MOSQ_ERR_SUCCESS && session.state != DOWN)
        went_down(mosquitto_strerror(code));
}

void session_poll(int wait_ms)
{
    if (session.state == CONNECTING && clock_ms() > session.next_ms) {
        mosquitto_disconnect(session.client);
        if (session.state != DOWN)
            went_down("no answer");
    }
    if (session.state == DOWN && clock_ms() >= session.next_ms)
        connect_now();
    if (session.state != DOWN && mosquitto_socket(session.client) >= 0)
        drive(wait_ms);
    else
        poll(NULL, 0, wait_ms);
}

bool session_is_up(void)
{
    return session.state == UP;
}

bool session_subscribe(const char *topic)
{
    return mosquitto_subscribe(session.client, NULL, topic, 1) == MOSQ_ERR_SUCCESS;
}

bool session_unsubscribe(const char *topic)
{
    return mosquitto_unsubscribe(session.client, NULL, topic) == MOSQ_ERR_SUCCESS;
}

bool session_publish(const char *topic, const struct text *message, bool retained)
{
    return !message->full && mosquitto_publish(session.client, NULL, topic, (int)message->length,
                                               message->bytes, 1, retained) == MOSQ_ERR_SUCCESS;
}
