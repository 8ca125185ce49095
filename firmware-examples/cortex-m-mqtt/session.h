/* The session: MQTT over TLS with both certificates; it comes back by itself. */
#ifndef SESSION_H
#define SESSION_H

#include "identity.h"
#include "text.h"

/* What happens; called from session_poll and network_poll. */
struct session_events {
    /* The connection stands; nothing is subscribed to. */
    void (*up)(void);

    /* Write the last will of the connection with this number. */
    void (*will)(uint32_t connection, struct text *text);

    /* A message begins; length 0: a topic was cleared. */
    void (*begin)(const char *topic, uint32_t length);

    /* Its next bytes. */
    void (*add)(const uint8_t *bytes, size_t length);

    /* It is whole. */
    void (*end)(void);
};

/* Read certificates and key. False: one of them is none. */
bool session_begin(const struct identity *identity, const char *will_topic,
                   const struct session_events *events);

/* Connect where there is no connection, 1 s after the last try at the soonest, then less often. */
void session_poll(void);

/* Say whether the connection stands. */
bool session_is_up(void);

/* Ask for a topic, or no more. False: no room now. */
bool session_subscribe(const char *topic);
bool session_unsubscribe(const char *topic);

/* Publish with QoS 1. False: no room now. */
bool session_publish(const char *topic, const struct text *message, bool retained);

#endif
