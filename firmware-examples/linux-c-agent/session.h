/* The session: MQTT 5 over TLS with both certificates, by libmosquitto; it comes back by itself.
 *
 * Nothing runs beside the caller: events are called from session_poll. Key and certificates come from
 * memory, so that no file of theirs has to lie about.
 */
#ifndef SESSION_H
#define SESSION_H

#include "identity.h"
#include "text.h"

struct session_events {
    /* The connection stands; nothing is subscribed to. */
    void (*up)(void);

    /* Write the last will of the connection with this number. */
    void (*will)(uint32_t connection, struct text *text);

    /* A message has come, whole; length 0: a topic was cleared. */
    void (*message)(const char *topic, const uint8_t *bytes, size_t length);
};

/* Read certificates and key. False: one of them is none. */
bool session_begin(const struct identity *identity, const char *will_topic,
                   const struct session_events *events);

/* Do what there is to do, or wait for it, for at most so long. Connects where there is no connection,
 * 1 s after the last try at the soonest, then less often. */
void session_poll(int wait_ms);

/* Say whether the connection stands. */
bool session_is_up(void);

/* Ask for a topic, or no more. */
bool session_subscribe(const char *topic);
bool session_unsubscribe(const char *topic);

/* Publish with QoS 1. */
bool session_publish(const char *topic, const struct text *message, bool retained);

#endif
