/* SPDX-License-Identifier: Apache-2.0 */
/* One MQTT connection; what of its session outlives it is the broker's. Shared by the files of this
 * folder only.
 *
 *   WAIT_CONNECT --CONNECT--> LOGIN --ok, attached--> UP --DISCONNECT, error, end--> DOWN
 *        \--CONNECT with a method--> AUTHENTICATING --proof--^
 */
#ifndef ADAPTERS_MQTT_SESSION_H
#define ADAPTERS_MQTT_SESSION_H

#include "adapters/mqtt/address.h"
#include "adapters/mqtt/encode.h"
#include "adapters/mqtt/mqtt.h"
#include "core/base/limits.h"
#include "core/broker/consume.h"

enum mqtt_state { MQTT_WAIT_CONNECT, MQTT_AUTHENTICATING, MQTT_LOGIN, MQTT_UP, MQTT_DOWN };

/* An outgoing packet identifier: what the client still owes for it. */
enum mqtt_owed { MQTT_OWED_NOTHING, MQTT_OWED_PUBACK, MQTT_OWED_PUBREC, MQTT_OWED_PUBCOMP };

struct mqtt_aliases;
struct mqtt_out_aliases;
struct mqtt_received;
struct mqtt_kept_will;
struct mqtt_lease;
struct mqtt_auth;
struct mqtt_login;

struct mqtt_session {
    struct client client; /* first: the broker gives it back */
    struct stream *stream;
    enum mqtt_state state;
    enum mqtt_version version;
    uint16_t keep_alive;  /* seconds; 0: none */
    uint16_t receive_max; /* what the client may have unanswered */
    uint16_t unanswered;  /* what it has */
    uint16_t next_id;     /* where the search for a free outgoing identifier begins */
    uint16_t id_base;     /* identifiers up to here are those of the kept session's deliveries */
    uint32_t packet_max;  /* what the client takes; UINT32_MAX: anything */
    uint32_t withheld;    /* credit, until CONNACK has gone out */
    struct mqtt_login *resuming; /* while it subscribes again */
    uint32_t settled;            /* outgoing deliveries settled during this input */
    uint16_t subscribes;         /* SUBSCRIBEs under way */
    bool assigned_id, clean;
    bool is_bridge;        /* a broker's: it subscribes to what others publish, as it is */
    bool excess;           /* one connection too many: CONNECT is refused */
    bool no_problem_info;  /* the client asks for no reason strings */
    uint32_t asked_expiry; /* seconds, in CONNECT */
    bool held;             /* input waits for the broker, so silence is not the client's */
    uint64_t heard_ms;
    struct loop_timer timer;   /* until CONNECT, then keep alive */
    uint8_t *owed;             /* enum mqtt_owed by outgoing identifier; NULL until the first */
    struct mqtt_lease *leases; /* by outgoing identifier; NULL until the first */
    struct list queues;        /* subscriptions to them */
    uint32_t queue_count;
    struct list replays; /* subscriptions to what was */
    uint32_t replay_count;
    struct list replayed;  /* records that wait for credit */
    struct list settlings; /* answers owed to what was published to settle */
    struct mqtt_aliases *aliases;
    struct mqtt_out_aliases *out_aliases; /* NULL: the client takes none */
    struct mqtt_received *received;       /* incoming QoS 2 identifiers */
    struct mqtt_kept_will *will;
    struct mqtt_auth *auth;   /* NULL: CONNECT named no method */
    struct mqtt_login *login; /* while AUTHENTICATING */
};

static inline struct mqtt_session *mqtt_session_of(struct client *client)
{
    return (struct mqtt_session *)client;
}

/* Outgoing identifiers are below this. */
static inline uint32_t mqtt_id_count(const struct mqtt_session *session)
{
    return session->id_base + session->client.credit_max + 1u;
}

extern struct mqtt_options mqtt_settings;
extern const struct client_ops mqtt_client_ops;

/* session.c: DISCONNECT with the reason where the version has it, then close; closes once. */
void mqtt_end(struct mqtt_session *session, enum mqtt_reason reason);
/* A reason that packets of this kind (MQTT_ON_...) may carry. */
enum mqtt_reason mqtt_reason_on(enum status status, uint32_t packets);
void mqtt_count_refusal(enum mqtt_reason reason); /* in /metrics */

/* explain.c: refusals in words. type: of the packet that carries the properties. */
void mqtt_explain(const struct mqtt_session *session, enum mqtt_type type, enum mqtt_reason reason,
                  struct mqtt_properties *properties);
void mqtt_send_ack(struct mqtt_session *session, enum mqtt_type type, uint16_t id,
                   enum mqtt_reason reason);
/* SUBACK or UNSUBACK; a client that takes no packet of that size gets none. */
void mqtt_send_suback(struct mqtt_session *session, enum mqtt_type type, uint16_t id,
                      struct span reasons);

/* statistics.c: what a subscription to $SYS gets at once. */
void mqtt_show_statistics(struct mqtt_session *session, const struct subscribe_item *item);

/* alias.c. client_max: of CONNECT. */
void mqtt_aliases_out(struct mqtt_session *session, uint16_t client_max);
/* False: send it as it is. With aliases only; id 0: QoS 0. */
bool mqtt_send_aliased(struct mqtt_session *session, struct blob *frame, uint16_t id, uint8_t flag);

/* connect.c */
void mqtt_handle_connecting_auth(struct mqtt_session *session, uint8_t header, struct span body);
void mqtt_login_free(struct mqtt_session *session);
void mqtt_handle_connect(struct mqtt_session *session, uint8_t header, struct span body);
void mqtt_subscribed_again(struct mqtt_session *session, enum status status);
/* CONNACK with the reason, where there is one, then close. */
void mqtt_refuse(struct mqtt_session *session, enum mqtt_reason reason);

/* will.c */
void mqtt_will_keep(struct mqtt_session *session, const struct mqtt_will *will); /* of CONNECT */
/* For the broker, which copies it; NULL: there is none. */
const struct broker_will *mqtt_will_of(struct mqtt_session *session);
void mqtt_will_free(struct mqtt_session *session);
/* OK, also without one; INVALID, DENIED: nothing can be published there, or with such a delay or
 * dedup-id; OVER_QUOTA: that is too long, or there are too many user properties. */
enum status mqtt_will_status(struct mqtt_session *session);

/* auth.c. CONNECT named a method: BUSY when the client has to say more, OK when somebody has proven
 * who it is, UNSUPPORTED for a method that is not there. */
enum status mqtt_auth_begin(struct mqtt_session *session, const struct mqtt_properties *properties);
/* The client says more: the reason when it may not, else status as above. */
enum mqtt_reason mqtt_auth_continue(struct mqtt_session *session, uint8_t header, struct span body,
                                    enum status *status);
const struct principal *mqtt_auth_proven(const struct mqtt_session *session);
void mqtt_auth_done(struct mqtt_session *session); /* and forgotten */
/* Method, and the last answer, for CONNACK. */
void mqtt_auth_show(const struct mqtt_session *session, struct mqtt_properties *properties);
void mqtt_handle_auth(struct mqtt_session *session, uint8_t header, struct span body);
void mqtt_auth_free(struct mqtt_session *session);

/* incoming.c: PUBLISH and PUBREL of the client, answers to it. False: it must wait, nothing was
 * taken. */
bool mqtt_handle_publish(struct mqtt_session *session, uint8_t header, struct span body);
void mqtt_handle_pubrel(struct mqtt_session *session, uint8_t header, struct span body);
void mqtt_answered(struct client *client, uint64_t token, enum status status, uint64_t partition,
                   uint64_t offset);
/* Identifiers of an earlier connection of the session, of publishes that are stored. */
void mqtt_incoming_known(struct mqtt_session *session, const uint32_t *ids, uint32_t count);
void mqtt_forgotten(struct client *client, uint32_t number);
void mqtt_incoming_free(struct mqtt_session *session);

/* outgoing.c: deliveries, and the client's answers to them. */
bool mqtt_deliver(struct client *client, struct subscription *subscription, struct blob *frame,
                  uint32_t variant, const struct record *record);
bool mqtt_deliver_kept(struct client *client, struct blob *frame, const struct kept_delivery *kept);
void mqtt_release(struct client *client, uint32_t number);
void mqtt_handle_ack(struct mqtt_session *session, uint8_t header, struct span body);

/* An identifier that is not in use; there is one while there is credit. */
uint16_t mqtt_take_id(struct mqtt_session *session, enum mqtt_owed owed);

/* lease.c: deliveries that are not over when they are sent, by outgoing identifier. */
struct mqtt_queue;
struct mqtt_lease {
    struct subscription *subscription; /* shared; or */
    struct mqtt_queue *queue;          /* NULL with the other: nothing to settle */
    uint32_t number;                   /* what they call it */
};
void mqtt_lease_put(struct mqtt_session *session, uint16_t id, const struct mqtt_lease *lease);
/* NULL: there never was one of that identifier. */
struct mqtt_lease *mqtt_lease_at(struct mqtt_session *session, uint16_t id);
/* The client has answered with this reason; properties are those of its answer. */
void mqtt_lease_end(struct mqtt_session *session, uint16_t id, const struct mqtt_ack *ack);
void mqtt_leases_free(struct mqtt_session *session);

/* show.c: a record as a PUBLISH that tells more than the record says, to one client. */
struct mqtt_shown {
    struct span topic;
    uint8_t qos;
    bool retain;
    uint32_t identifier; /* of the subscription; 0: none */
    bool tells_topic;    /* the one it was published to */
    uint32_t failures;
    const struct receipt *receipt; /* NULL: not told */
    bool tells_offset;
    int64_t partition; /* number within the queue; negative: not told */
    /* Below: what is made of it. */
    struct mqtt_publish publish; /* packet_id is to be set before it is sent */
    struct mqtt_pair users[LIMIT_HEADERS + 5];
    char receipt_text[RECEIPT_TEXT_SIZE], number_text[3][24];
};
/* The size of the packet; 0: it cannot be shown. Borrows from record and shown. */
size_t mqtt_show(const struct mqtt_session *session, const struct record *record,
                 struct mqtt_shown *shown);
void mqtt_send_shown(struct mqtt_session *session, const struct mqtt_shown *shown, size_t size);

/* replay.c: subscriptions that read a queue, or what matches a filter, from a position on. */
uint8_t mqtt_replay_subscribe(struct mqtt_session *session, const struct mqtt_filter *filter,
                              const struct mqtt_address *address, const struct mqtt_asked *asked,
                              uint32_t identifier);
/* NOT_FOUND: there is no such subscription. */
enum status mqtt_replay_unsubscribe(struct mqtt_session *session, struct span filter);
void mqtt_replays_credit(struct mqtt_session *session);
void mqtt_replays_close(struct mqtt_session *session); /* before client_close() */

/* queue.c: subscriptions to queues and dead letters, as consumers of groups. */
struct mqtt_subscribing;
/* The reason, or MQTT_PENDING: then mqtt_subscribed() follows for that place. */
uint8_t mqtt_queue_subscribe(struct mqtt_session *session, const struct mqtt_filter *filter,
                             const struct mqtt_address *address, const struct mqtt_asked *asked,
                             uint32_t identifier, struct mqtt_subscribing *subscribing,
                             uint16_t place);
enum status mqtt_queue_unsubscribe(struct mqtt_session *session, struct span filter);
void mqtt_queues_credit(struct mqtt_session *session);
void mqtt_queues_close(struct mqtt_session *session); /* after client_close() */
bool mqtt_queue_is_of(const struct mqtt_queue *queue, uint64_t id);
void mqtt_queue_settle(struct mqtt_queue *queue, uint32_t slot, enum settle_outcome outcome,
                       uint32_t delay_ms);

/* kept.c: subscriptions to shares and queues, which the broker keeps as notes of the session. */
bool mqtt_is_kept(const struct mqtt_address *address);
/* True: mqtt_subscribed() follows for that place, when it is durable. */
bool mqtt_keep(struct mqtt_session *session, const struct mqtt_filter *filter,
               const struct mqtt_asked *asked, uint32_t identifier,
               struct mqtt_subscribing *subscribing, uint16_t place);

/* settle.c: what is published to $nack and $extend. */
void mqtt_settle_publish(struct mqtt_session *session, const struct mqtt_address *address,
                         const struct publish *publish);
struct mqtt_settling;
/* Likewise, with an answer: settled() of the consumer gets the token. A number of ms that is 0:
 * what the queue's subscription says. */
void mqtt_queue_settle_asked(struct mqtt_queue *queue, uint32_t slot, enum mqtt_address_kind kind,
                             uint32_t ms, struct mqtt_settling *settling);
void mqtt_settling_done(struct mqtt_settling *settling, enum status status);
void mqtt_settlings_close(struct mqtt_session *session); /* their consumers are closed */

/* subscribe.c */
enum { MQTT_PENDING = 0xff };
void mqtt_subscribed(struct mqtt_subscribing *subscribing, uint16_t place, uint8_t reason);
/* Before that. After a failed sync nobody knows whether the next start will find the subscription,
 * so that it is neither granted nor refused: the connection ends. */
void mqtt_subscribe_failed(struct mqtt_subscribing *subscribing, enum status status);
void mqtt_handle_subscribe(struct mqtt_session *session, uint8_t header, struct span body);
/* What a session that goes on had subscribed to, before CONNACK; notes are borrowed for the call.
 * mqtt_subscribed_again() follows. */
void mqtt_subscribe_again(struct mqtt_session *session, struct span notes);
/* False: it must wait, nothing was taken. */
bool mqtt_handle_unsubscribe(struct mqtt_session *session, uint8_t header, struct span body);

/* view.c: a record as a PUBLISH, and a PUBLISH as a record (MAPPING). */
uint32_t mqtt_variant(struct client *client, const struct subscription *subscription,
                      const struct record *record);
struct blob *mqtt_encode_record(uint32_t variant, const struct record *record);
enum { MQTT_HEADERS_MAX = 64 };
/* A record's headers as properties; room for LIMIT_HEADERS users, borrowed as the record is. */
void mqtt_show_headers(const struct record *record, struct mqtt_properties *properties,
                       struct mqtt_pair *users);
enum {
    MQTT_EXPIRY_TEXT = 24,
    MQTT_FILL_TEXT = MQTT_EXPIRY_TEXT + LABELS_MAX * (LABEL_SIZE_MAX + 1)
};
/* Fills the headers (at most LIMIT_HEADERS, in room for that many), expiry and delay of publish
 * from the properties. text holds numbers made into text, names those that are stored as others. */
enum mqtt_reason mqtt_publish_fill(const struct mqtt_properties *properties,
                                   struct publish *publish, struct header *headers,
                                   char text[MQTT_FILL_TEXT], struct arena *names);

#endif
