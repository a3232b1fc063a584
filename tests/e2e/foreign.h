/* SPDX-License-Identifier: Apache-2.0 */
/* One MQTT client of a C library that others wrote, as foreign_checks.c and foreign_ends.c use it:
 * foreign_paho.c and foreign_mosquitto.c. Calls come from one thread and wait for the gateway's
 * answer, at most WAIT_MS; what cannot be done ends the program with die(). */
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

/* version: 3 (3.1), 4 (3.1.1) or 5. session_seconds: MQTT 5's expiry. A session of 3 and 4 without
 * clean is kept for ever. receive_max, alias_max, packet_max: 0 for the library's own. */
struct options {
    const char *id;
    int port, version;
    bool clean;
    uint32_t session_seconds;
    uint16_t receive_max, alias_max;
    uint32_t packet_max;
    const struct will *will;
};

struct client;

extern const char *client_library;
/* It resolves the topic aliases that a gateway may set, or hands them on. */
extern const bool client_takes_aliases;
/* It hands on which other server a DISCONNECT names. */
extern const bool client_tells_servers;
/* It shows a message of QoS 2 twice when the connection breaks while its PUBREC is on the way. */
extern const bool client_repeats;

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

/* Waits until the gateway has ended the connection. The reason of its DISCONNECT, and the server
 * that it names, empty when it names none; -1: there was no DISCONNECT. */
int client_farewell(struct client *client, char reference[64]);

_Noreturn void die(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Milliseconds of a clock that only goes forward. */
int64_t clock_ms(void);

/* foreign_checks.c: steps of checks, each of which dies unless what it says holds. */
enum { MANY = 60 };
extern int port, relay_port; /* the gateway, and the relay whose connections may be broken */
void pause_ms(int ms);
void same(const char *what, const char *got, const char *want);
void same_number(const char *what, long got, long want);
struct client *connected(const struct options *options, bool present);
struct client *plain(const char *id, int version); /* nothing of it is kept */
struct message text_message(const char *topic, const char *body, int qos);
/* Numbered bodies, from first on. */
void publish_numbers(struct client *client, const char *topic, int qos, int first, int count);
struct message next(struct client *client);
void nothing_more(struct client *client);
/* So many of QoS 1 and of QoS 2, each in order by itself. */
void expect_numbers(struct client *client, int count_1, int count_2);

/* foreign_ends.c: what outlives its connection, or the gateway. */
void check_killed(void);
void check_killed_wills(void);
void check_durable(void);
void check_members(void);
void check_takeover(void);
void check_farewell(void);

#endif
