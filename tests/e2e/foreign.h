/* SPDX-License-Identifier: Apache-2.0 */
/* One MQTT client of a C library that others wrote, as foreign_checks.c uses it: foreign_paho.c
 * and foreign_mosquitto.c. Calls come from one thread and wait for the gateway's answer, at most
 * WAIT_MS; what cannot be done ends the program with die(). */
#ifndef TESTS_E2E_FOREIGN_H
#define TESTS_E2E_FOREIGN_H

#include <stdbool.h>
#include <stdint.h>

enum { WAIT_MS = 15000 };

/* What is published and what arrives. Texts are empty and numbers 0 where a property is absent.
 * users: the user properties as "name=value;", in their order. */
struct message {
    char topic[128], body[64];
    int qos;
    bool retained;
    uint32_t expiry_seconds, subscription_id;
    uint16_t alias;
    char response_topic[128], correlation[64], content_type[64], users[128];
};

struct will {
    struct message message;
    uint32_t delay_seconds;
};

/* version: 4 (3.1.1) or 5. session_seconds: MQTT 5's expiry. A version 4 session without clean is
 * kept for ever. receive_max, alias_max: 0 for the library's own. */
struct options {
    const char *id;
    int port, version;
    bool clean;
    uint32_t session_seconds;
    uint16_t receive_max, alias_max;
    const struct will *will;
};

struct client;

extern const char *client_library;
/* It resolves the topic aliases that a gateway may set, or hands them on. */
extern const bool client_takes_aliases;

/* Not connected yet; options are copied, except for what they point to. */
struct client *client_new(const struct options *options);
/* Disconnects if it must. */
void client_free(struct client *client);
/* Also again, after the connection broke: with clean false what was in flight goes on.
 * Returns whether the gateway had a session; -1: the library does not tell. */
int client_connect(struct client *client);
void client_disconnect(struct client *client);
/* The reason of SUBACK. id: subscription identifier, or 0. */
int client_subscribe(struct client *client, const char *filter, int qos, uint32_t id);
int client_unsubscribe(struct client *client, const char *filter);
/* Hands it to the library. */
void client_publish(struct client *client, const struct message *message);
/* Waits until all that was published has been answered, connecting again whenever the connection
 * is lost. The worst reason among the answers. */
int client_settle(struct client *client);
/* The next message; false: none within ms. Connects again as client_settle does. */
bool client_next(struct client *client, struct message *message, int ms);

_Noreturn void die(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Milliseconds of a clock that only goes forward. */
int64_t clock_ms(void);

#endif
