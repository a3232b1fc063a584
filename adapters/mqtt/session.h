/* SPDX-License-Identifier: Apache-2.0 */
/* One MQTT connection and its session, which here ends with the connection. Shared by the files of
 * this folder only.
 *
 *   WAIT_CONNECT --CONNECT--> LOGIN --ok--> UP --DISCONNECT, error, end--> DOWN
 */
#ifndef ADAPTERS_MQTT_SESSION_H
#define ADAPTERS_MQTT_SESSION_H

#include "adapters/mqtt/address.h"
#include "adapters/mqtt/encode.h"
#include "adapters/mqtt/mqtt.h"

enum mqtt_state { MQTT_WAIT_CONNECT, MQTT_LOGIN, MQTT_UP, MQTT_DOWN };

/* An outgoing packet identifier: what the client still owes for it. */
enum mqtt_owed { MQTT_OWED_NOTHING, MQTT_OWED_PUBACK, MQTT_OWED_PUBREC, MQTT_OWED_PUBCOMP };

struct mqtt_aliases;
struct mqtt_received;
struct mqtt_kept_will;
struct mqtt_claim;
struct mqtt_lease;

struct mqtt_session {
    struct client client; /* first: the broker gives it back */
    struct stream *stream;
    enum mqtt_state state;
    enum mqtt_version version;
    uint16_t keep_alive;  /* seconds; 0: none */
    uint16_t receive_max; /* what the client may have unanswered */
    uint16_t unanswered;  /* what it has */
    uint16_t next_id;     /* where the search for a free outgoing identifier begins */
    uint32_t packet_max;  /* what the client takes; UINT32_MAX: anything */
    uint32_t settled;     /* outgoing deliveries settled during this input */
    uint16_t subscribes;  /* SUBSCRIBEs under way */
    bool assigned_id, asked_expiry, ended_well;
    bool held; /* input waits for the broker, so silence is not the client's */
    uint64_t heard_ms;
    struct loop_timer timer;   /* until CONNECT, then keep alive */
    uint8_t *owed;             /* enum mqtt_owed by outgoing identifier; NULL until the first */
    struct mqtt_lease *leases; /* by outgoing identifier; NULL until the first */
    struct mqtt_aliases *aliases;
    struct mqtt_received *received; /* incoming QoS 2 identifiers */
    struct mqtt_kept_will *will;
    struct mqtt_claim *claim; /* to its client identifier */
};

static inline struct mqtt_session *mqtt_session_of(struct client *client)
{
    return (struct mqtt_session *)client;
}

extern struct mqtt_options mqtt_settings;
extern const struct client_ops mqtt_client_ops;

/* session.c: DISCONNECT with the reason where the version has it, then close; closes once. */
void mqtt_end(struct mqtt_session *session, enum mqtt_reason reason);
/* A reason that packets of this kind (MQTT_ON_...) may carry. */
enum mqtt_reason mqtt_reason_on(enum status status, uint32_t packets);
void mqtt_count_refusal(enum mqtt_reason reason); /* in /metrics */

/* connect.c */
void mqtt_handle_connect(struct mqtt_session *session, uint8_t header, struct span body);
void mqtt_will_publish(struct mqtt_session *session);
void mqtt_will_free(struct mqtt_session *session);

/* takeover.c: from CONNACK to the end; an older connection of the same name ends. */
void mqtt_claim_name(struct mqtt_session *session);
void mqtt_give_name_back(struct mqtt_session *session);

/* incoming.c: PUBLISH and PUBREL of the client, answers to it. False: it must wait, nothing was
 * taken. */
bool mqtt_handle_publish(struct mqtt_session *session, uint8_t header, struct span body);
void mqtt_handle_pubrel(struct mqtt_session *session, uint8_t header, struct span body);
void mqtt_answered(struct client *client, uint64_t token, enum status status, uint64_t partition,
                   uint64_t offset);
void mqtt_incoming_free(struct mqtt_session *session);

/* outgoing.c: deliveries, and the client's answers to them. */
void mqtt_deliver(struct client *client, struct subscription *subscription, struct blob *frame,
                  uint32_t variant, const struct record *record);
void mqtt_handle_ack(struct mqtt_session *session, uint8_t header, struct span body);

/* lease.c: deliveries that are not over when they are sent, by outgoing identifier. */
void mqtt_lease_shared(struct mqtt_session *session, uint16_t id,
                       struct subscription *subscription);
/* The client has answered, however. */
void mqtt_lease_end(struct mqtt_session *session, uint16_t id);
void mqtt_leases_free(struct mqtt_session *session);

/* subscribe.c */
void mqtt_handle_subscribe(struct mqtt_session *session, uint8_t header, struct span body);
void mqtt_handle_unsubscribe(struct mqtt_session *session, uint8_t header, struct span body);

/* view.c: a record as a PUBLISH, and a PUBLISH as a record (MAPPING). */
uint32_t mqtt_variant(struct client *client, const struct subscription *subscription,
                      const struct record *record);
struct blob *mqtt_encode_record(uint32_t variant, const struct record *record);
enum { MQTT_HEADERS_MAX = 64 };
/* Fills the headers (at most LIMIT_HEADERS, in room for that many), expiry and delay of publish
 * from the properties. text holds numbers made into text. */
enum mqtt_reason mqtt_publish_fill(const struct mqtt_properties *properties,
                                   struct publish *publish, struct header *headers, char text[24]);

#endif
