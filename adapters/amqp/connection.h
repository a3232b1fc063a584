/* SPDX-License-Identifier: Apache-2.0 */
/* One AMQP connection, its links, and what the files of this folder share.
 *
 *   NEW --open, logged in--> UP --close, error, end--> CLOSING --all is said, or 5 s--> DOWN
 *
 * Proton's objects belong to the connection and are touched on its loop only. A link of ours
 * outlives Proton's by what is still under way for it; then its pn is NULL. */
#ifndef ADAPTERS_AMQP_CONNECTION_H
#define ADAPTERS_AMQP_CONNECTION_H

#include <proton/condition.h>
#include <proton/connection.h>
#include <proton/connection_driver.h>
#include <proton/delivery.h>
#include <proton/disposition.h>
#include <proton/link.h>
#include <proton/sasl.h>
#include <proton/session.h>
#include <proton/terminus.h>
#include <proton/transport.h>

#include "adapters/amqp/amqp.h"
#include "adapters/amqp/attach.h"
#include "adapters/amqp/frames.h"
#include "adapters/amqp/said.h"
#include "adapters/amqp/view.h"
#include "core/base/check.h"
#include "core/base/heap.h"
#include "core/base/limits.h"
#include "core/broker/consume.h"
#include "core/broker/follow.h"
#include "core/broker/metrics.h"
#include "core/queue/selector.h"

enum {
    AMQP_FRAME_MAX = 16 * 1024,
    AMQP_SCRATCH = 64 * 1024,
    AMQP_CREDIT = 1000, /* what a sender may have under way on one link */
    AMQP_LEASE_MIN_MS = 1000,
    AMQP_LEASE_MAX_MS = 12 * 3600 * 1000,
    AMQP_ADDRESS_MAX = 1024
};

/* Why a link goes: what it subscribed to may outlive that. */
enum amqp_leaving {
    AMQP_LEAVES_REFUSED,
    AMQP_LEAVES_FOR_GOOD, /* its receiver closed it */
    AMQP_LEAVES_LINK,     /* was detached only */
    AMQP_LEAVES_SESSION,
    AMQP_LEAVES_CONNECTION
};

enum amqp_state { AMQP_NEW, AMQP_UP, AMQP_CLOSING, AMQP_DOWN };

enum amqp_kind {
    AMQP_LINK_NONE, /* not decided yet, or refused */
    AMQP_TO_QUEUE,
    AMQP_TO_TOPIC,
    AMQP_TO_ANYWHERE, /* the anonymous relay */
    AMQP_TO_COORDINATOR,
    AMQP_TO_MANAGEMENT,
    AMQP_FROM_GROUP,
    AMQP_FROM_TOPIC,
    AMQP_FROM_MANAGEMENT, /* answers; its topic is the target that requests name */
    AMQP_FROM_LOG,        /* reads along, and takes nothing */
};

struct amqp_connection;

/* A parsed address; spans borrow from its text. */
struct amqp_address {
    enum { AMQP_AT_NOTHING, AMQP_AT_QUEUE, AMQP_AT_TOPIC, AMQP_AT_RELAY, AMQP_AT_MANAGEMENT } at;
    struct span queue, group, topic; /* group empty: the default one */
    bool dead;
};

/* What a source's filter set asks for. */
struct amqp_filter {
    struct selector *selector; /* a reference; NULL: all */
    bool of_group;             /* in: whose consumers are not asked who they are */
    bool no_local;
    bool has_position; /* where to begin reading along */
    enum seek_to from;
    uint64_t offset;
    int64_t time_ms;
    bool last; /* the last record there is */
};

struct amqp_link {
    struct amqp_connection *connection;
    pn_link_t *pn;
    pn_session_t *session; /* Proton's, to be compared only */
    uint32_t refs;         /* being attached, requests and answers under way */
    enum amqp_kind kind;
    uint32_t peer_handle; /* by which it names the link */
    bool is_answered;     /* then we name it so: */
    uint32_t handle;
    uint16_t channel;
    struct link of_connection;
    uint64_t queue;     /* id */
    uint64_t temporary; /* likewise, of the one that was made for this link; 0: none was */
    bool joined;        /* the queue counts it */
    bool attached;      /* its peer has been told what it is attached to */
    char *topic;        /* TO_TOPIC, FROM_TOPIC: name, filter */
    bool settles;       /* deliveries leave settled */
    /* Targets */
    struct buf partial;  /* a delivery that has not come whole */
    uint32_t owed;       /* credit that the sender may have back */
    bool settles_second; /* when the sender has: a delivery is unsettled until then */
    uint32_t unsettled;  /* of those: answered, and not settled by the sender */
    bool resumed;        /* the delivery that comes is one of a link before */
    bool foreign;        /* it is no message by its message-format */
    bool makes;          /* the relay's: the queue that the current delivery names */
    enum status unmade;  /* why that queue cannot be made; OK: it has not been tried */
    struct amqp_resumption *resumption; /* NULL: it cannot be resumed */
    /* Sources */
    struct consumer *consumer;
    struct follower *follower;
    bool draining;
    struct amqp_echo drain; /* its FLOW, as long as it drains and is not answered */
    struct list sending;    /* messages that have not been given to Proton, or not all of them */
    uint32_t sending_count;
    bool drains;             /* a drain is answered behind them */
    uint32_t delivery_count; /* what Proton has of it, as of its last message or flow */
    char *group;             /* its name */
    bool names_group;        /* the address does */
    struct amqp_filter filter;
    struct amqp_default unnamed; /* what settled without an outcome means */
    uint32_t lease_ms;           /* 0: as the queue says */
    bool dead;
    struct amqp_subscriber *subscriber;
    enum amqp_leaving leaving; /* why it goes */
    bool closes_later;         /* its close is answered when what it gives up is gone for ever */
    pn_link_t *closing;        /* Proton's, until then */
    uint64_t tag;              /* of the next delivery */
};

/* How a subscription that is to last ends, apart from a receiver that closes its link (3.5.5). */
enum amqp_expiry { AMQP_AFTER_LINK, AMQP_AFTER_SESSION, AMQP_AFTER_CONNECTION, AMQP_NEVER };

/* A link from a topic: a client of its own, with the link's credit and one subscription. */
struct amqp_subscriber {
    struct client client; /* first: the broker gives it back */
    struct amqp_connection *connection;
    struct amqp_link *link; /* NULL: it has gone */
    pn_session_t *session;  /* as the link's */
    struct link of_connection;
    struct broker_subscribe subscribe;
    struct subscribe_item item;
    struct broker_attach attach;
    bool pending;               /* subscribe or attach is under way */
    bool attaching;             /* it is attach */
    bool kept;                  /* outlives the link */
    bool looks;                 /* for what is kept, whatever it is */
    bool anew;                  /* what was kept under the name is given up */
    struct amqp_link *given_up; /* closed for good while attach was under way, and not answered;
                                   NULL: none. What is attached then ends. */
    bool stolen;
    uint32_t unsettled; /* deliveries of this link */
    enum amqp_expiry expiry;
    uint32_t expiry_s;
    struct span name;         /* of what is kept; bytes are ours */
    struct broker_hold *hold; /* of what is kept for all its links; NULL: that has no time */
    struct subscription *shared;
    struct amqp_claim *claim; /* while it is made, or looked at; else NULL */
    struct amqp_taken *taken; /* deliveries whose receiver waits (durable.c): by number less one, of
                                 what is shared by lease */
    uint32_t taken_capacity;
    bool released; /* some of them are over */
};

/* A publish that waits for its answer; answers come in order. */
struct amqp_waiting {
    struct amqp_link *link;
    pn_delivery_t *delivery;
};

struct amqp_resumption; /* resume.c */
struct amqp_login;      /* sasl.c */
struct amqp_exchange;
struct amqp_overdue; /* transaction.c */

struct amqp_connection {
    struct client client; /* first: the broker gives it back */
    struct stream *stream;
    pn_connection_driver_t driver;
    uint64_t heard_ms;         /* when something has come last, or might have */
    struct amqp_frames frames; /* what has come */
    struct amqp_said told;     /* what has gone */
    size_t passed;             /* bytes of it that Proton may have next */
    struct span payload;       /* of a TRANSFER that is being dealt with, without Proton */
    uint32_t handled;          /* events of deliveries, in this turn */
    struct loop_timer rest;    /* after many of them: what comes next waits for another turn */
    uint32_t let_go;           /* deliveries that Proton has until that is said */
    enum amqp_state state;
    bool logged_in;
    bool turned_away; /* SASL has ended so */
    bool excess;      /* one connection too many: SASL or open is answered so */
    bool waits;       /* a login is under way: no event is looked at before it is done */
    bool paused;      /* no deliveries are taken: the broker has no room, or a queue is made */
    bool said;        /* something has been sent */
    bool stolen;      /* subscribers are, and are to be told */
    bool released;    /* subscribers have deliveries that are over */
    bool drains;      /* links may */
    struct amqp_login *login;
    struct amqp_exchange *exchange; /* of SASL messages; NULL: none */
    char *user;                     /* Proton borrows it */
    struct loop_task flush;
    struct loop_timer timer;
    struct list links, subscribers, transactions;
    uint64_t turn;                    /* amqp_unsettled_turn() */
    uint32_t lingering;               /* the stream has gone, and so many answers still matter */
    uint32_t session_count;           /* also what has ended, until that is said */
    uint32_t sessions_ended;          /* of these */
    uint32_t link_count, links_ended; /* likewise */
    uint32_t subscriber_count;
    uint64_t transaction_number;
    struct amqp_overdue *overdue; /* transactions that took too long; NULL: there were none */
    uint64_t looked, looked_ms; /* what queries of $management have cost in the turn of that time */
    uint32_t changes;           /* that requests of $management have asked for, and are under way */
    size_t changes_bytes;
    size_t partial_bytes;         /* of deliveries that have not come whole, all links */
    struct amqp_waiting *waiting; /* a ring */
    uint32_t waiting_capacity, waiting_first, waiting_count;
    uint32_t unsettled;                     /* of all links, as a link's */
    size_t sending_bytes;                   /* likewise, to be sent */
    uint32_t delivery_count, delivery_peak; /* of all links; the most that Proton ever had */
    uint64_t answered;                      /* token of the first that waits */
};

static inline struct amqp_connection *amqp_connection_of(struct client *client)
{
    return (struct amqp_connection *)client;
}
static inline struct loop *amqp_loop(const struct amqp_connection *connection)
{
    return broker_loop(connection->client.worker);
}

extern struct amqp_options amqp_settings;

/* connection.c */
void amqp_wake(struct amqp_connection *connection); /* events and output at the end of this turn */
/* No delivery is taken, of any link, and nothing more is read, until amqp_go_on(), which looks
 * whether all that it waited for is over. */
void amqp_pause(struct amqp_connection *connection);
void amqp_go_on(struct amqp_connection *connection);
/* Closes with the condition, once. */
void amqp_end(struct amqp_connection *connection, const char *condition, const char *text);
/* Says the condition at once, and reads no more: nothing can be made of what comes, or too much
 * does. */
void amqp_break_off(struct amqp_connection *connection, const char *condition, const char *text);
/* The same of what cannot be read, unless the connection ends already. */
void amqp_refuse_bytes(struct amqp_connection *connection, const char *condition, const char *text);
/* What is left to say goes out for a while, and no event matters any more. */
void amqp_go_down(struct amqp_connection *connection);
/* All is said: sessions and links that have ended are gone. */
void amqp_ends_said(struct amqp_connection *connection);
const char *amqp_condition_of(enum status status);
void amqp_count_refusal(enum status why);

/* events.c */
void amqp_handle_events(struct amqp_connection *connection);
/* After a login, of whatever kind: events go on, or the connection ends. */
void amqp_logged_in(struct amqp_connection *connection, enum status status);

/* echo.c */
/* A FLOW that asks for one has come. */
void amqp_echo(struct amqp_connection *connection);
/* One that drains has, and is looked at next. */
void amqp_drain(struct amqp_connection *connection);
/* All is said: drains are answered of which Proton says nothing, as they gave no credit back. True:
 * others have ended, and there is more to say. */
bool amqp_drains_end(struct amqp_connection *connection);

/* sasl.c */
void amqp_sasl_init(struct amqp_connection *connection);
void amqp_exchange_free(struct amqp_connection *connection);
void amqp_login_anonymous(struct amqp_connection *connection); /* of one that came without SASL */

/* link.c */
void amqp_session_opened(struct amqp_connection *connection, pn_session_t *session);
void amqp_session_closed(struct amqp_connection *connection, pn_session_t *session);
/* What has come on the channel ends its session, and nothing else. */
void amqp_session_fail(struct amqp_connection *connection, uint16_t channel, const char *condition,
                       const char *text);
void amqp_link_opened(struct amqp_connection *connection, pn_link_t *pn);
void amqp_link_closed(pn_link_t *pn, bool for_good);
/* What a close gave up is gone, or could not be; takes the reference of who made it wait. */
void amqp_link_given_up(struct amqp_link *link, enum status status);
/* Amid the close itself: its answer will say why it gives up nothing. */
void amqp_link_not_given_up(struct amqp_link *link, enum status status);
void amqp_links_close(struct amqp_connection *connection);
/* Around a walk over all links: one that has left may go when another one leaves. */
void amqp_links_hold(struct amqp_connection *connection);
void amqp_links_release(struct amqp_connection *connection);
void amqp_link_unref(struct amqp_link *link);
/* Answers the attach; refuse ends the link, attached or not, with a condition. */
void amqp_link_accept(struct amqp_link *link);
void amqp_link_refuse(struct amqp_link *link, const char *condition, const char *text);
void amqp_link_refuse_status(struct amqp_link *link, enum status status);
static inline struct amqp_link *amqp_link_of(pn_link_t *pn)
{
    return pn_link_get_context(pn);
}

/* Of what the source or target names by now. */
void amqp_attach(struct amqp_link *link);
/* What clients of the JMS kind say about an end: topic, shared, global. */
bool amqp_is_capable(pn_terminus_t *terminus, const char *name);
bool amqp_has_symbol(pn_data_t *symbols, const char *name); /* is it, or is among them */
/* It is to outlive its session, or its state the process. */
bool amqp_is_lasting(pn_terminus_t *terminus);

/* answer.c: of what the attach asked for the answer keeps what holds, for a link of that kind. */
void amqp_answer_truly(struct amqp_link *link);

/* address.c: is_topic: what the peer's capabilities say about an address without a prefix. */
bool amqp_address_parse(struct span text, bool is_topic, struct amqp_address *address);

/* dynamic.c */
/* Makes the node, then goes on with the attach. */
void amqp_dynamic_attach(struct amqp_link *link);
/* The link is one of that queue's. */
void amqp_queue_join(struct amqp_link *link, const struct queue *queue);
void amqp_dynamic_leave(struct amqp_link *link); /* it goes */
/* Of the properties that its node was asked to have those that it has. */
void amqp_dynamic_say(const struct amqp_link *link, pn_terminus_t *local);

/* filter.c: OK; INVALID with err for a filter that is none. What is not known, or does not apply,
 * is left out of the answer. */
enum status amqp_filter_read(pn_terminus_t *remote, pn_terminus_t *local,
                             struct amqp_filter *filter, struct err *err);
/* The same of a set as bytes; echo has room for them and AMQP_HEAD_MAX more. */
enum status amqp_filter_decode(struct span bytes, struct amqp_filter *filter,
                               struct amqp_writer *echo, struct err *err);
void amqp_filter_deinit(struct amqp_filter *filter);
/* The link property x-opt-lease (ms), where it is set: INVALID out of bounds. */
enum status amqp_lease_read(pn_data_t *properties, uint32_t *lease_ms);

/* target.c */
void amqp_target_open(struct amqp_link *link, const struct amqp_address *address);
void amqp_target_readable(struct amqp_link *link);
void amqp_target_close(struct amqp_link *link);
/* A delivery from a sender is over: settled, and its credit comes back, once. */
void amqp_let_go(struct amqp_link *link, pn_delivery_t *delivery);
/* Would a queue of that name be made for whoever names it (auto_create)? */
bool amqp_makes_queue(struct span name);
/* Makes a standard queue, then goes on with the attach, or with what the relay had to do. */
void amqp_queue_make(struct amqp_link *link, struct span name);
void amqp_answered(struct client *client, uint64_t token, enum status status, uint64_t partition,
                   uint64_t offset);
void amqp_waiting_free(struct amqp_connection *connection);
/* How many wait on links that may be resumed. */
uint32_t amqp_waiting_resumable(const struct amqp_connection *connection);
/* The sender has settled a delivery after its outcome. */
void amqp_target_settled(struct amqp_link *link, pn_delivery_t *delivery);

/* resume.c: links to targets that may be resumed; what is not one is fine with all of these. */
/* attach: as it came, from its descriptor on. */
void amqp_resumption_read(struct amqp_link *link, struct span attach);
/* False: the attach is answered later, or is refused. */
bool amqp_resumption_is_ready(struct amqp_link *link);
/* Opens Proton's link, and says with it what Proton does not. */
void amqp_attach_answer(struct amqp_link *link);
/* Everything that Proton has to say by now is said; false: nobody reads what is, the connection
 * ends. */
bool amqp_say_now(struct amqp_connection *connection);
/* Proton settles what is still unsettled on links that are freed, and says so; on those that are
 * only detached, or end with their session, it is not settled at all. What was done since
 * amqp_say_now() is said without that. */
void amqp_say_hushed(struct amqp_connection *connection);
enum amqp_come {
    AMQP_COME_NEW,
    AMQP_COME_AGAIN,   /* it has this outcome */
    AMQP_COME_IGNORED, /* it is said to come again, and has not been here */
    AMQP_COME_REFUSED  /* with its link */
};
enum amqp_come amqp_resumption_came(struct amqp_link *link, pn_delivery_t *delivery,
                                    struct span payload, enum status *outcome);
/* On its way as what is published: an answer comes. False: refused with its link. */
bool amqp_resumption_sent(struct amqp_link *link, pn_delivery_t *delivery, struct span payload,
                          struct publish *publish);
/* The oldest; settled: by its sender. */
void amqp_resumption_answered(struct amqp_link *link, enum status status, bool settled);
/* By its sender, or what has that tag is remembered in no way. */
void amqp_resumption_settled(struct amqp_link *link, pn_delivery_t *delivery);
void amqp_resumption_leave(struct amqp_link *link);
void amqp_resumption_free(struct amqp_link *link);

/* source.c */
void amqp_source_open(struct amqp_link *link, const struct amqp_address *address);
/* The queue is there: consumes from the group that the link's address names. */
void amqp_source_from(struct amqp_link *link, const struct queue *queue);
void amqp_source_flow(struct amqp_link *link);
void amqp_source_updated(struct amqp_link *link, pn_delivery_t *delivery);
void amqp_source_close(struct amqp_link *link);
/* The slot of a delivery's lease is kept with it. */
void amqp_slot_set(pn_delivery_t *delivery, uint32_t slot);
/* Memory for one message on its way out, of this thread: room for size bytes, or NULL; release
 * what was given. */
uint8_t *amqp_scratch(size_t size);
void amqp_scratch_release(uint8_t *scratch);
/* More than the receiver's attach takes in one message. */
bool amqp_is_too_large(const struct amqp_link *link, size_t size);
/* The record as the message it is shown as; NULL: there is no memory for it. */
struct blob *amqp_message_frame(const struct record *record, const struct amqp_shown *shown);

/* manage.c: OK: the request will be answered by a message. */
enum status amqp_manage(struct amqp_link *link, struct span bytes, struct err *err);

/* browse.c */
/* A stream under its plain address, which is read along whatever the link asks for. */
bool amqp_is_plain_stream(const struct amqp_link *link, const struct queue *queue);
/* A queue, or with NULL the topics that match filter; group: that of the source, NULL: there is
 * none (yet), which for dead letters cannot be. */
void amqp_browse_open(struct amqp_link *link, const struct queue *queue,
                      const struct group_spec *group, struct span filter);
void amqp_browse_flow(struct amqp_link *link, uint32_t credit, bool drain);
void amqp_browse_settled(struct amqp_link *link, pn_delivery_t *delivery);

/* Accepted, rejected, released, modified: whatever else a state is, it is none. */
static inline bool amqp_is_outcome(uint64_t state)
{
    return state == PN_ACCEPTED || state == PN_REJECTED || state == PN_RELEASED ||
           state == PN_MODIFIED;
}

/* A delivery of a topic that its receiver has settled. */
struct amqp_topic_delivery {
    uint32_t number; /* of a share its lease, of what is kept its flight; else 0 */
    bool again;      /* the receiver wants it again, or of what is shared somebody */
    bool failed;     /* and this time was a failure */
    bool placed;     /* of what is neither: it is in the log there, and has failed so often */
    uint64_t partition, offset;
    uint16_t failures;
};

/* transaction.c */
enum { AMQP_TRANSACTIONAL = 0x34 };
void amqp_coordinate(struct amqp_link *link, pn_delivery_t *delivery, struct span bytes);
void amqp_coordinator_close(struct amqp_link *link);
/* condition: of a refusal. */
enum status amqp_transaction_send(struct amqp_link *link, pn_delivery_t *delivery,
                                  const struct publish *publish, const char **condition,
                                  struct err *err);
/* A delivery is not taken: if it is within a transaction, that cannot be committed, because a
 * commit without it would be one that nobody has asked for. */
void amqp_transaction_fail(struct amqp_connection *connection, pn_delivery_t *delivery,
                           enum status why);
void amqp_transaction_settle(struct amqp_link *link, pn_delivery_t *delivery, uint32_t slot);
void amqp_transaction_settle_topic(struct amqp_link *link, pn_delivery_t *delivery,
                                   struct amqp_topic_delivery *topic);

/* topic.c */
void amqp_topic_open(struct amqp_link *link, struct span filter);
/* A source without an address: the kept subscription of the link's name. */
void amqp_topic_recover(struct amqp_link *link);
void amqp_topic_close(struct amqp_link *link);
void amqp_topic_flow(struct amqp_link *link, bool drain);
/* Does a drain end now, as no more may be unsettled? */
bool amqp_topic_drain_ends(struct amqp_link *link);
void amqp_topic_settled(struct amqp_link *link, pn_delivery_t *delivery);
/* What its receiver has made of it takes effect; with_commit: what is over was part of it. */
void amqp_topic_over(struct amqp_link *link, const struct amqp_topic_delivery *topic,
                     bool with_commit);
/* It was not settled after all, though its receiver does not have it any more; failed: which was a
 * failure. */
void amqp_topic_return(struct amqp_link *link, const struct amqp_topic_delivery *topic,
                       bool failed);
/* What the outcome, of that code or 0, says of it; failed and undeliverable: of modified. */
void amqp_topic_outcome(struct amqp_topic_delivery *topic, uint64_t outcome, bool failed,
                        bool undeliverable);
void amqp_number_set(pn_delivery_t *delivery, uint32_t number); /* as when it was sent */
/* The session or, NULL, the connection has gone, and what was to last as long goes too. */
void amqp_subscribers_end(struct amqp_connection *connection, const pn_session_t *session);
void amqp_subscribers_stolen(struct amqp_connection *connection);
void amqp_subscribers_drained(struct amqp_connection *connection);

/* durable.c: what a subscriber keeps when its link goes. */
/* What the source asks for; answered in local. INVALID: its name is too long; UNSUPPORTED: what is
 * shared has no end of its own. */
enum status amqp_kept_read(struct amqp_subscriber *subscriber, pn_terminus_t *local);
/* Its receiver waits for what we say to an outcome that ends the delivery: it comes when a crash
 * could not bring the delivery back, with amqp_subscribers_released(). */
void amqp_kept_take(struct amqp_subscriber *subscriber, pn_delivery_t *delivery, uint32_t number);
/* Of a shared one. False: nothing of it is kept, and it is over now. */
bool amqp_shared_take(struct amqp_subscriber *subscriber, pn_delivery_t *delivery, uint32_t lease);
void amqp_kept_release(struct client *client, uint32_t number); /* of client_ops */
void amqp_subscribers_released(struct amqp_connection *connection);
/* Finds what is kept under the name, or begins it; then amqp_subscriber_ready() or the refusal. */
void amqp_kept_attach(struct amqp_subscriber *subscriber);
/* The link goes. False: the subscriber stays, for as long as session or connection are there. */
bool amqp_kept_leave(struct amqp_subscriber *subscriber, struct amqp_link *link);
/* It is kept for so long, which is answered. */
void amqp_kept_granted(struct amqp_subscriber *subscriber, uint32_t expiry_s);
/* Likewise, to a source of which nothing was said: what it is. */
void amqp_kept_found(struct amqp_subscriber *subscriber, struct span filter, uint32_t expiry_s);

/* claim.c: what keeps a subscription that several links share, whether one is there or not. */
/* Makes it, or finds it; then amqp_subscriber_subscribe(), for one that looks
 * amqp_subscriber_ready(), or the refusal. */
void amqp_claim(struct amqp_subscriber *subscriber);
/* Whose session keeps it, where the close of the link ends that: of one that it made, or that was
 * looked for and has nobody else. NULL: it is others', too, or that is not known yet. */
struct client *amqp_claim_own(const struct amqp_subscriber *subscriber);
void amqp_claim_end(struct amqp_subscriber *subscriber); /* the subscriber goes; harmless twice */

/* topic.c, for durable.c and claim.c */
void amqp_subscriber_fork(struct amqp_subscriber *subscriber);
void amqp_subscriber_subscribe(struct amqp_subscriber *subscriber);
void amqp_subscriber_ready(struct amqp_subscriber *subscriber);
void amqp_subscriber_refuse(struct amqp_subscriber *subscriber, const char *condition,
                            const char *text, enum status status);
/* Another link has what it kept. */
void amqp_subscriber_refuse_stolen(struct amqp_subscriber *subscriber);
void amqp_subscriber_free(struct amqp_subscriber *subscriber);

/* connection.c: what came on links that may be resumed has been answered, or never will be. */
void amqp_linger_end(struct amqp_connection *connection);
/* Bytes that wait, of all of the connection. */
size_t amqp_queued(const struct amqp_connection *connection);

#endif
