/* SPDX-License-Identifier: Apache-2.0 */
/* What adapters call: log in, publish, subscribe, take and settle; administer.h is the rest. Every
 * rule that all protocols share (rights, limits, routing, order of answers, credit) is behind this
 * page.
 *
 * A client lives on one worker; all calls about it are made on that worker's loop, and all
 * callbacks come there, never from inside a call. Requests are the caller's until done(). */
#ifndef CORE_BROKER_BROKER_H
#define CORE_BROKER_BROKER_H

#include "core/base/rate.h"
#include "core/broker/catalog.h"
#include "core/broker/token.h"
#include "core/queue/dedup.h"
#include "core/queue/delay.h"
#include "core/queue/group.h"
#include "core/queue/selector.h"

struct broker;
struct broker_worker;
struct protocol_figures;

struct broker_options {
    struct storage *storage;
    unsigned workers;
    struct loop *const *loops;   /* one per worker, not running yet */
    const char *built_in_queue;  /* home of every topic without a route */
    uint32_t retention_hours;    /* of new queues: 0 means the default of 72 */
    uint64_t retention_bytes;    /* of new queues; 0: no limit */
    uint32_t queue_limit;        /* per tenant; 0: LIMIT_QUEUES */
    uint32_t group_limit_dms;    /* groups per queue made through DMS calls; 0: 3 */
    uint32_t subscription_limit; /* per client; 0: LIMIT_SUBSCRIPTIONS */
    uint32_t dedup_key_limit;    /* ids remembered, per worker; 0: LIMIT_DEDUP_KEYS */
    uint32_t producer_limit;     /* with numbers, per worker; 0: LIMIT_PRODUCERS */
    uint32_t publish_rate;       /* per second and client; what is more is refused. 0: no limit */
    uint32_t topic_levels;       /* of a topic or filter; 0: LIMIT_TOPIC_LEVELS */
    /* Of a session that comes back, or of a durable share: deliveries per second of what was kept
     * for it, evenly, and how many of them and how many bytes at most, about; the oldest are
     * dropped. 0: no limit. */
    uint32_t resume_rate, session_records;
    uint64_t session_bytes;
    uint32_t session_expiry_s;   /* that a session outlives its client at most; 0: no limit */
    uint32_t share_members;      /* of one share, and connected; 0: LIMIT_SHARE_MEMBERS */
    const char *reserved_topics; /* topics that begin so are the gateway's to publish; NULL: none */
    const char *reserved_except; /* a filter: those of them that clients publish; NULL: none */
    uint32_t connection_rate;    /* broker_may_connect() per second; 0: no limit */
    uint32_t address_rate;       /* likewise, from one address */
    uint32_t sweep_ms;           /* how often what has expired is looked for; 0: 1000 */
    uint32_t transaction_ms;     /* from begin to commit; 0: LIMIT_TRANSACTION_MS */
};

/* Loads the catalog (blocking, before the loops run; a store of its own format that cannot be read
 * is refused with err), makes tenant, built-in queue and workers' parts. */
struct broker *broker_open(const struct broker_options *options, struct err *err);
struct broker_worker *broker_worker(struct broker *broker, unsigned index);
/* Completes when all partitions of all workers are open (ready to serve). Any thread. */
void broker_when_ready(struct broker *broker, struct request *request);
bool broker_is_ready(const struct broker *broker); /* and storage takes writes */
/* Begins a graceful end: new calls end with SHUTTING_DOWN, waiting takes come back, groups store
 * what was settled, and when all answers in flight are out every client gets end(). done() when the
 * clients have gone (after 8 s at the latest). Any thread. A broker_when_ready() that has not
 * completed ends with SHUTTING_DOWN. */
void broker_shut_down(struct broker *broker, struct request *request);
/* After broker_shut_down() is done, the loops have stopped and storage is closed; before the loops
 * are freed. */
void broker_free(struct broker *broker);

uint32_t broker_queue_limit(const struct broker *broker); /* queues a tenant may have */

struct loop *broker_loop(const struct broker_worker *worker);
unsigned broker_worker_index(const struct broker_worker *worker);
/* The worker's snapshot: borrowed until the current callback returns; take a reference to keep it.
 */
const struct catalog *broker_catalog(const struct broker_worker *worker);
enum status broker_storage_health(const struct broker_worker *worker);
/* Everything /metrics shows. Any worker. */
enum status broker_metrics(struct broker_worker *worker, struct buf *to);

/* ---------------------------------------------------------------- clients */

struct client;
struct session;
struct subscription;

/* A delivery of a kept session, on its way to the client. */
struct kept_delivery {
    uint32_t number;            /* until it is settled, also across clients of the session */
    bool again;                 /* it may have been sent before */
    uint64_t partition, offset; /* of the record */
};

/* What a protocol supplies. All calls on the client's loop. variant(), encode(), deliver() and
 * queued() come while subscribers are walked: they close no client and change no subscription. */
struct client_ops {
    const char *protocol; /* label in metrics and traces */
    /* The answer to a publish that asked for one, in the order of the publishes. offset is set for
     * OK on a stored record: of a duplicate that of the original, or DEDUP_OFFSET_UNKNOWN. */
    void (*answered)(struct client *client, uint64_t token, enum status status, uint64_t partition,
                     uint64_t offset);
    /* Just before answered(OK) for a delayed record: what cancels it. offset is its number then.
     * NULL: the protocol cannot cancel. */
    void (*delayed)(struct client *client, uint64_t token, const struct delay_id *id);
    /* What frame this record needs for this subscription: everything encode() depends on. Frames of
     * equal variants of one record are encoded once and shared. */
    uint32_t (*variant)(struct client *client, const struct subscription *subscription,
                        const struct record *record);
    struct blob *(*encode)(
        uint32_t variant,
        const struct record *record); /* NULL: cannot be shown; skipped, counted */
    /* One delivery. Credit has been taken when the effective guarantee is not at most once. frame
     * is borrowed. False: it is too large for the client, which therefore never gets it; its credit
     * is there again, and the lease of a shared subscription is over. */
    bool (*deliver)(struct client *client, struct subscription *subscription, struct blob *frame,
                    uint32_t variant, const struct record *record);
    /* For clients that attach to sessions: a delivery that broker_settled() gives back. False: as
     * above. */
    bool (*deliver_kept)(struct client *client, struct blob *frame,
                         const struct kept_delivery *kept);
    /* A delivery that broker_taken() was called for may be forgotten by the client; also when it is
     * not known what the client knows. Settled by broker_settled(). Or one that
     * broker_share_taken() was called for. */
    void (*release)(struct client *client, uint32_t number);
    void (*forgotten)(struct client *client, uint32_t number); /* after broker_forget() */
    size_t (*queued)(struct client *client);                   /* bytes that wait in its stream */
    void (*resume)(struct client *client); /* broker_may_publish() is true again */
    /* Kept deliveries that were too large have given their credit back, a while after they took it:
     * what the adapter itself makes of credit goes on. May be NULL. */
    void (*refunded)(struct client *client);
    /* client_is_behind() was true and is no more, or client_drain() was called. Calls nothing about
     * the client but client_allow(), with no credit. May be NULL. */
    void (*caught_up)(struct client *client);
    void (*end)(struct client *client,
                enum status why); /* say goodbye and close: SHUTTING_DOWN, DENIED, ... */
};

/* Embedded in the adapter's session. Fields are the broker's; adapters may read the first group. */
struct client {
    struct broker_worker *worker;
    const struct client_ops *ops;
    struct protocol_figures *figures; /* touched at each delivery, as ops is */
    uint64_t tenant;
    struct principal *principal; /* NULL in protected mode */
    struct span id;              /* protocol's client id; bytes are the broker's copy */
    const char *peer;            /* of a connection, as client_set_peer() was told; else NULL */
    uint64_t number;             /* on its worker, from 1 on */
    int64_t since_ms;            /* made then, wall clock */

    struct link link;
    struct link waiting;             /* for room to publish */
    struct answer_ring *ring;        /* unanswered publishes; outlives the client */
    struct list units;               /* of those, what is published behind might overtake them */
    struct address_cache *addresses; /* topics resolved and allowed */
    struct list subscriptions;
    uint32_t subscription_count;
    struct list seats; /* shared subscriptions */
    uint32_t seat_count;
    uint32_t asking; /* of these, shares that have not said whether something waits */
    uint32_t credit; /* deliveries that may still go out unsettled */
    uint32_t credit_max;
    uint64_t subscription_number; /* of the last one made */
    struct link selecting;        /* while its selectors wait for another turn: selection.h */
    uint32_t selector_steps;      /* that the last one of them took */
    struct list lags;             /* partitions it must catch up on */
    struct list returned;         /* what it has given back */
    struct recall *recall;        /* the first of that is read */
    struct list consumers;        /* of groups: consume.h */
    struct list lease_takers;     /* of these, who waits for room: lease_room.h */
    uint32_t lease_count;         /* leases of all of them, and what they have asked for */
    struct list walks;            /* through retained records */
    struct session *session;      /* NULL: not attached */
    struct rate publishes;
    char *publisher; /* header value */
    uint32_t publisher_size;
    struct name_claim *own_id;  /* of client_own_id(); NULL: none */
    struct broker_login *login; /* running */
    struct client_pass *pass;   /* it came with a token; NULL: it did not */
    struct list transactions;   /* not over */
    uint32_t transaction_count;
    size_t transaction_bytes;    /* of what is kept for them */
    struct temporary *temporary; /* nodes of its own: temporary.h; NULL: none */
    struct list followers;       /* readers without leases: follow.h */
    uint32_t follower_count;
    uint32_t follow_unsettled; /* shown to those whose client settles */
    struct catch_up *catch_up; /* read in flight */
    bool open;
    bool gone;       /* its user or its token is no more: it ends, and may do nothing */
    bool last_words; /* may publish while the broker ends */
};

/* After accept: the client exists but may do nothing before login. */
void client_init(struct client *client, struct broker_worker *worker, const struct client_ops *ops);
/* It is a connection of its own, which an operator sees and may end (connections.h). peer, such as
 * "127.0.0.1:4711", is borrowed until the client is closed or this is called again; NULL: it is one
 * no more. */
void client_set_peer(struct client *client, const char *peer);
/* A second client of one that has logged in, with the same rights: for what needs credit of its
 * own. credit: deliveries until client_settled() gives more. It may outlive the first one. */
void client_fork(struct client *client, const struct client_ops *ops, const struct client *of,
                 uint32_t credit);
/* No callbacks after it; outstanding publishes are still stored. Subscriptions end. Harmless twice.
 */
void client_close(struct client *client);
/* For protocols that learn it after the login, and before the first publish: id as %c in grants and
 * in the publisher of records; at most LIMIT_CLIENT_ID_BYTES. */
void client_set_id(struct client *client, struct span id);
/* No other client of the same user that asks for this has that id, on whatever worker, until
 * client_share_id() or client_close(). EXISTS: another one has it. Once per client, with its id. */
enum status client_own_id(struct client *client);
void client_share_id(struct client *client); /* harmless without, and twice */
/* One credit for a delivery that the adapter makes by itself, from a consumer; false: there is none
 * now. */
bool client_spend(struct client *client);
/* Settled deliveries give their credit back, and a client that lags reads on. */
void client_settled(struct client *client, uint32_t count);
void client_set_credit(struct client *client, uint32_t credit_max); /* before the first subscribe */
/* For protocols whose clients say how many deliveries they want: so many from now on, at most
 * credit_max, whatever was allowed before. What is settled brings nothing back then. */
void client_allow(struct client *client, uint32_t credit);
/* Something that its subscriptions match is not on its way yet, or may be: ops->caught_up follows.
 * Retained records are not meant. */
bool client_is_behind(const struct client *client);
/* ops->caught_up comes, perhaps at once, when all that waits for the client, in its shares too, has
 * come or has not been allowed. */
void client_drain(struct client *client);
uint32_t client_subscription_limit(const struct client *client);
/* Output has drained: a client that lags reads on. */
void client_drained(struct client *client);

/* Asked once for each connection that a listener accepts, before anything is made for it. peer as
 * stream_peer() says it: of IPv6 a network of 64 bits counts as one address. REFUSED: there are too
 * many at the moment, and the client is told so in its protocol's words; CLOSED: also too many to
 * be told. Both are counted. */
enum entry { ENTRY_FREE, ENTRY_REFUSED, ENTRY_CLOSED };
enum entry broker_may_connect(struct broker_worker *worker, const char *protocol, const char *peer);

/* Login. user and password are borrowed until done(). In protected mode anything passes. A token
 * stands as the password, of its user or of none named; the client ends when it expires, or when
 * the password behind it is another one.
 * certificate_subject: of a verified client certificate, used when user and password are empty; may
 * be NULL. Ends with OK, UNAUTHENTICATED, SHUTTING_DOWN, BUSY. */
struct broker_login {
    struct request request;
    struct client *client;
    struct span user, password, client_id;
    const char *certificate_subject;
    const struct principal *proven; /* has shown by other means who it is (scram.h); or NULL */
    /* Below: the broker's. */
    struct broker_worker *worker;
    struct offload offload;
    struct principal *principal;
    uint64_t credential[2];
};
void broker_login(struct broker_login *login);
/* Would the subject of its certificate let that client in? NULL: it has none. */
bool client_may_be(const struct client *client, const char *certificate_subject);
/* A token of the client's own user for so many seconds. OUT_OF_RANGE: more than LIMIT_TOKEN_S, or
 * none; DENIED: it came with a token itself; UNSUPPORTED: there are no users. */
enum status broker_make_token(const struct client *client, uint64_t seconds, char token[TOKEN_TEXT],
                              int64_t *expires_ms);
/* Whether there is anybody who may publish there: INVALID when it is no topic, or has too many
 * levels, DENIED when it is the gateway's own. */
enum status broker_topic_status(const struct broker_worker *worker, struct span topic);
/* Is this allowed? For calls that name an address themselves (REST). Cached rights are the broker's
 * business. */
enum status broker_check(const struct client *client, enum action action, bool is_topic,
                         struct span address);
/* May it know of the queue, which is who may do anything at all with it; and of its groups, who may
 * consume or manage. */
bool broker_may_see(const struct client *client, const struct queue *queue);
bool broker_may_see_groups(const struct client *client, const struct queue *queue);

/* ---------------------------------------------------------------- sessions */

struct publish;
struct broker_will;

/* Gives the client, which has logged in, a name for itself: whoever holds it ends with
 * STALE. What the name subscribed to, and what it was not shown or has not settled, outlives its
 * client for expiry_s seconds, durably; deliveries of it then come through ops->deliver_kept, those
 * of at most once through ops->deliver. Once per client, before the first subscribe. */
struct broker_attach {
    struct request request;
    struct client *client;
    struct span name; /* borrowed for the call; of another kind than client ids where it begins with
                       * a zero byte; empty: client->id */
    bool clean;       /* nothing of an earlier session */
    bool
        only_present; /* an earlier session goes on, with its own expiry; without one none begins */
    bool
        yields; /* EXISTS, and nothing is disturbed, where a client that does not yield has begun */
    uint32_t expiry_s;              /* asked for. 0: it ends with the client; UINT32_MAX: never */
    const struct broker_will *will; /* copied; NULL: none */
    /* Out. CANCELED: the client was closed, or lost the name; SHUTTING_DOWN, STORAGE_FAILED and the
     * like: the session is as it was. */
    bool present;       /* an earlier session goes on */
    uint32_t earlier_s; /* its expiry until now */
    uint32_t granted_s; /* as expiry_s: what holds, at most options.session_expiry_s */
    uint32_t *received; /* its numbers of publishes that were not forgotten: the caller frees it */
    uint32_t received_count;
    struct buf notes; /* broker_note_next() reads them; likewise */
};
void broker_attach(struct broker_attach *attach);
/* After it is done and the client knows: what waits for the client comes now. Shares in which it
 * does not take part again by now are left. Nothing happens where the name was lost meanwhile. What
 * was new, and whose client goes before this, leaves nothing behind. */
void broker_session_begin(struct client *client);
bool broker_session_is_kept(const struct client *client);             /* it outlives the client */
void broker_session_expiry(struct client *client, uint32_t expiry_s); /* as attach; if kept */
/* What is kept under the client's name does not end while it is held, as if that were a client: by
 * those who use it without a session, as members of the share that it takes part in. Its time runs
 * from the last release on, which may come when the client has gone. NULL: it ends at no time. */
struct broker_hold;
struct broker_hold *broker_session_hold(struct client *client);
void broker_session_release(struct broker_hold *hold); /* on the client's loop; NULL is fine */
/* What is kept goes with the client, which is closed next; completes when nothing of it is left,
 * also after a crash. On an error it is as it was. Once per client. */
struct broker_give_up {
    struct request request;
    struct client *client;
};
void broker_give_up(struct broker_give_up *give_up);
void broker_will_drop(struct client *client); /* it says goodbye: no will */
/* A delivery with a number is over; its credit comes back with client_settled(). */
void broker_settled(struct client *client, uint32_t number);
/* The client wants it once more, soon: it is sent again, in the order of sending, and takes credit
 * again; failed: that was a failure, which its next delivery counts. Not of exactly once. */
void broker_again(struct client *client, uint32_t number, bool failed);
/* The client has taken a delivery, and waits: ops->release follows when that is durable. */
void broker_taken(struct client *client, uint32_t number);
/* For publish.number: ops->forgotten follows when that is durable. */
void broker_forget(struct client *client, uint32_t number);
/* What an adapter wants to find again with a kept session: a value under a key, durable when done.
 * Nothing happens where no session is kept. */
struct broker_note {
    struct request request;
    struct client *client;
    struct span key, value; /* borrowed for the call; together at most LIMIT_NOTE_BYTES */
};
void broker_note(struct broker_note *note);
void broker_note_forget(struct client *client, struct span key); /* broker_flush() waits for it */
/* Takes the next off what attaching found; false at the end. */
bool broker_note_next(struct span *notes, struct span *key, struct span *value);
/* Completes when what the client unsubscribed from is forgotten for ever. */
struct broker_flush {
    struct request request;
    struct client *client;
    /* Below: the broker's. */
    struct link link;
    uint64_t until; /* the writes that were under way */
    uint32_t left;
    enum status status;
};
void broker_flush(struct broker_flush *flush);

/* ---------------------------------------------------------------- publishing */

enum { PUBLISH_NOTE_BYTES = 64 }; /* key and value */

/* One message. All spans borrowed for the call. Exactly one of topic and queue. */
struct publish {
    struct span topic;
    const struct queue *queue; /* by name; NULL: by topic */
    struct span key, body;
    const struct header *headers; /* standard and user headers, without topic and publisher */
    uint32_t header_count;
    enum guarantee guarantee;
    bool retain; /* INVALID below a topic that a client has made for itself, unless it is empty */
    bool not_durable; /* kept with the record (JMS: NON_PERSISTENT); it is stored as any other */
    int64_t expires_at_ms; /* 0: never; adapters also put the header expires-at */
    uint64_t delay_ms; /* 0: none; up to LIMIT_DELAY_MS. Not on stream queues (INVALID). Stored, and
                        * answered, at once; OK means that it waits */
    /* The same message again is not stored again, but answered as the first was, when that is
     * stored. data NULL: none; at most one of the two, of LIMIT_DEDUP_ID bytes (INVALID,
     * TOO_LARGE). A record without a key goes to the partition of this id. */
    struct span dedup_id; /* within the queue's window (dedup_ms); OVER_QUOTA: too many */
    uint32_t dedup_part;  /* which of several messages that share the id */
    /* Who numbers what it publishes, to one topic or one queue, without a gap (OUT_OF_RANGE): a
     * number that was there already is a duplicate. A new epoch begins at 0; an older one is STALE.
     * Not with a key for a queue of several partitions, not with delay_ms (INVALID). */
    struct span producer;
    int32_t producer_epoch, sequence; /* 0 to 32767; 0 to INT32_MAX, then 0 again */
    uint32_t number; /* not 0, of a kept session: stored with the record until broker_forget() */
    /* Instead of a number, of one with an answer and no id: a note of that client's kept session,
     * as broker_note() says, that is stored with the record. It is on the same worker; key and
     * value have at most PUBLISH_NOTE_BYTES. NULL: none. */
    const struct client *keeper;
    struct span note_key, note_value;
    bool answer; /* answered() will come exactly once, in order; else refusals are only counted */
    uint64_t token; /* given back in answered() */
};
/* What is published when the client, from broker_session_begin() on, goes without
 * broker_will_drop(): at once, or after a delay, unless the session goes on before that; at the
 * latest when it ends. That of a session that is kept is durable, so that it is published, or not,
 * also after a restart; any other one is stored soon after. Rights are looked at when it is
 * published. */
struct broker_will {
    struct publish publish; /* without queue, answer, number and expires_at_ms */
    struct span queue;      /* instead of a topic: name or id, looked up when it is published */
    uint64_t expiry_ms;     /* from its publication on; 0: never */
    uint32_t delay_s;
};
/* Is what publish asks for by dedup_id or producer possible? As broker_publish() would answer, and
 * in words. */
enum status broker_check_id(const struct publish *publish, struct err *err);
/* Answered with BUSY when the worker has too much in flight, which who asks broker_may_publish()
 * before each publish does not meet. */
void broker_publish(struct client *client, const struct publish *publish);
/* Several messages that are stored together, or none of them, and nothing is seen of them before
 * they are durable. All of it happens in one turn: new, each message, then publish or free. What is
 * published behind them might be stored first where they go to several workers' partitions: who
 * asks broker_may_publish() waits. */
struct broker_unit;
struct broker_unit *broker_unit_new(struct client *client);
/* As broker_publish(), but for answer, token and note; always stored; no producer and no number.
 * Else than OK: it is refused, and with it all there are, which is to be freed. TOO_LARGE: also
 * with more than LIMIT_UNIT_MESSAGES. BUSY, of the publish as a whole: an id of it is on its way.
 */
enum status broker_unit_add(struct broker_unit *unit, const struct publish *publish);
/* Of how only answer, token and the note count: they are all messages'. The note is not stored
 * where each has an id. At least one message was added. */
void broker_unit_publish(struct broker_unit *unit, const struct publish *how);
void broker_unit_free(struct broker_unit *unit); /* instead of publish */
/* For a publish that the adapter refuses by itself: its answer, in order. */
void broker_refuse(struct client *client, uint64_t token, enum status status);
/* For a publish that asks something else of the gateway than to be stored: answered() comes in
 * order, with the status of broker_give(), which must follow once, from the loop, also when the
 * client has gone. */
struct owed_answer {
    struct answer_ring *ring;
    uint32_t number;
};
struct owed_answer broker_owe(struct client *client, uint64_t token);
void broker_give(struct owed_answer owed, enum status status);
/* What the gateway itself says to whoever has subscribed, once and unstored. On the worker's loop.
 */
void broker_announce(struct broker_worker *worker, struct span topic, struct span body);
/* Records kept in all queues, and their bytes. */
uint64_t broker_stored(const struct broker_worker *worker, uint64_t *bytes);
/* False: too much in flight, or what comes would overtake a unit; stop taking input that publishes
 * until ops->resume. */
bool broker_may_publish(struct client *client);

/* A delayed record of that queue never fires: OK; NOT_FOUND: it has, or there is none; DENIED: it
 * is another's, which takes the right to manage the queue. queue and id are borrowed for the call.
 */
void broker_cancel_delayed(struct client *client, const struct queue *queue,
                           const struct delay_id *id, struct request *request);

/* ---------------------------------------------------------------- live subscriptions to topics */

struct subscription {
    struct client *client;
    struct topic_entry *entry; /* its filter */
    enum guarantee guarantee;  /* at most this */
    uint32_t identifier;       /* adapter's own (for example a subscription identifier) */
    bool no_local;             /* not what this client published itself */
    bool retain_as_published;
    uint64_t shown_partition, shown_offset; /* the last stored record it was served; deliver(): this
                                             * one, if it is stored and not RECORD_RECALLED */
    bool
        shared; /* deliver(): unless at most once, lease says what broker_share_settled() is told */
    struct selector *selector; /* NULL: all that the filter matches */
    /* Below: the broker's. */
    struct link of_entry; /* this and the next line: at each delivery */
    struct link of_client;
    struct subscription_floor *floors;
    uint64_t number; /* of this client; never used again */
    uint32_t lease;
    uint16_t failures; /* variant(): of this record, of what comes again; else 0 */
    uint64_t asleep;   /* workers, by bit, at which it does not hold yet */
    struct link of_subscribe;
    struct retained_walk *walk;
    uint64_t index; /* of a session: filter id of its index rows; 0: none are kept */
    uint64_t since; /* it holds behind this commit sequence; 0: it is not known yet */
};

/* Which subscribers get the retained records that match. */
enum retained_wish { RETAINED_ALWAYS, RETAINED_WHEN_NEW, RETAINED_NEVER };

struct subscribe_item {
    struct span filter; /* borrowed until done() */
    struct span share;  /* likewise; not empty: of those who subscribed with this name and filter,
                         * each record goes to one; no_local is not looked at */
    enum guarantee guarantee;
    uint32_t identifier;
    bool no_local, retain_as_published;
    struct selector *selector; /* a reference is taken; NULL: all. Of a share: EXISTS when those who
                                * take part have another */
    enum retained_wish retained;
    /* Out: */
    enum status status; /* OK, INVALID, DENIED, OVER_QUOTA, EXISTS */
    bool existed;       /* replaced a subscription of the same filter */
    uint32_t members;   /* of a share that it was not in: connected ones, with this */
    /* Below: the broker's. */
    bool comes_back; /* to a share that its session is in: never OVER_QUOTA */
};
/* Takes effect everywhere before done(): whatever is committed later is delivered. Retained records
 * of before follow as the client has room, each topic once, with RECORD_RECALLED set. */
struct broker_subscribe {
    struct request request;
    struct client *client;
    struct subscribe_item *items;
    uint32_t count;
    /* Below: the broker's. */
    uint32_t confirms;
    struct list waking; /* subscriptions that do not hold everywhere yet */
    struct list walks;  /* that begin then */
};
void broker_subscribe(struct broker_subscribe *subscribe);
/* The first that the client has (not of a share), which for one that attached may be of an earlier
 * session; NULL: none. Both are borrowed until the current callback returns. */
const struct subscription *broker_subscription(const struct client *client, struct span *filter);
enum status broker_unsubscribe(struct client *client,
                               struct span filter); /* NOT_FOUND; ends at once */
/* What the client has not settled stays with it until it settles it or closes. */
enum status broker_unsubscribe_shared(struct client *client, struct span share, struct span filter);
/* A delivery of a shared subscription is over, however the client took it: nobody else gets it.
 * What is not settled when the client closes goes to another member, unless it was exactly once.
 * Its credit comes back with client_settled(), as always, which must follow. */
void broker_share_settled(struct subscription *subscription, uint32_t lease);
/* The client has taken it, and waits until it is certain that nobody gets it again, also after a
 * crash: then comes ops->release() with the lease, which broker_share_settled() ends as always, or
 * ops->end() if the store fails for good. False: nothing is kept of this one, and nothing follows.
 * Once for each lease; not of a client that has a session, nor of exactly once. */
bool broker_share_taken(struct subscription *subscription, uint32_t lease);
/* Likewise, but it goes to a member again, before anything else, and counts a failure if that was
 * one. Not of exactly once. */
void broker_share_again(struct subscription *subscription, uint32_t lease, bool failed);

/* For a client whose subscriptions are not shared, and that has no session: the record at that
 * place, which one of them was shown and which was not RECORD_RECALLED, comes again, through
 * deliver() to the first that matches: before anything else, in the order of these calls, and takes
 * credit again. It had failed so often by then, and subscription->failures says how often by now;
 * failed: this time too. It does not come when it has expired, or may not be read any more; what
 * can never be read again is counted as lost. */
void broker_give_back(struct client *client, uint64_t partition, uint64_t offset, uint16_t failures,
                      bool failed);

/* The retained records that match filter, behind that of topic after: show() comes for each, in no
 * particular but always the same order, until it answers false; then done(). The client must stay.
 * Ends with OK, INVALID, DENIED, SHUTTING_DOWN, STORAGE_FAILED. */
struct broker_retained {
    struct request request; /* home: the client's loop */
    struct client *client;
    struct span filter, after; /* borrowed until done(); after may be empty */
    bool (*show)(struct broker_retained *list, struct span topic, const struct record *record);
};
void broker_list_retained(struct broker_retained *list);

/* ---------------------------------------------------------------- groups */

/* request.home of a take or settlement must be the client's loop; rights are checked here, those of
 * a take once more when it comes back: what was taken goes to others then. UNAUTHENTICATED, DENIED
 * and NOT_FOUND come through done(). The client stays until done(), or until the take is canceled.
 */
/* Of a broadcast group take->consumer says who asks: a valid group's name, INVALID otherwise. It
 * begins where the group does, or at its first take if that is the end. Settlements of one call are
 * of one consumer; those of others are STALE. */
void broker_take(struct client *client, const struct group_spec *group, struct group_take *take);
/* Is it a receipt of this group, or of one of its consumers? */
bool broker_is_receipt(const struct client *client, const struct group_spec *group,
                       const struct receipt *receipt);
void broker_take_cancel(struct client *client, const struct group_spec *group,
                        struct group_take *take);
void broker_settle(struct client *client, const struct group_spec *group,
                   struct group_settle *settle);
/* Carried to the group likewise; group.h says what they do. seek and redrive need ACTION_MANAGE on
 * the queue, explain ACTION_CONSUME, or for the progress of a redrive one of the two. UNSUPPORTED:
 * a broadcast group; its consumers have all that. */
void broker_seek(struct client *client, const struct group_spec *group, struct group_seek *seek);
void broker_redrive(struct client *client, const struct group_spec *group,
                    struct group_redrive *redrive);
void broker_explain(struct client *client, const struct group_spec *group,
                    struct group_explain *explain);
/* The same for ACTION_CONSUME. */
void broker_survey(struct client *client, const struct group_spec *group,
                   struct group_survey *survey);
/* Records of one partition from offset or time on, checked for ACTION_CONSUME on the queue. */
void broker_read(struct client *client, const struct queue *queue, struct log_read *read);

/* ---------------------------------------------------------------- transactions */

/* What is published and settled within one takes effect together when it is committed, whoever owns
 * the partitions and groups: in one write, or not at all. Nothing is seen of it before that is
 * durable. Until the commit leases run on; while it is under way they are held.
 *
 * done() comes once: with how the commit has ended, also when the client has gone meanwhile; with
 * TIMED_OUT when none comes in time. Never after broker_roll_back(), nor when the client is closed
 * before the commit, which rolls back. */
struct broker_transaction {
    struct request request; /* home: the client's loop */
    struct client *client;
    /* Below: the broker's. */
    struct broker_worker *worker;
    struct link of_client;
    struct loop_timer timer;
    struct list messages;
    struct unit_settlement *settlements;
    uint32_t message_count, settlement_count, settlement_capacity;
    struct kept_settlement *kept;
    uint32_t kept_count, kept_capacity;
    uint32_t part_count; /* that the adapter keeps */
    size_t bytes;
    enum status failure; /* OK, or why it cannot be committed any more */
    bool committing;
};
/* OVER_QUOTA: the client has LIMIT_TRANSACTIONS. */
enum status broker_begin(struct broker_transaction *transaction);
/* As broker_publish(), but for answer, token and number, which are not looked at; always stored.
 * What is refused here ends the transaction's hope: so will the commit be. Rights, routes and
 * limits of queues are looked at by the commit. delay_ms runs from this call on; what is due before
 * the commit is due then. UNSUPPORTED: a producer. OVER_QUOTA: LIMIT_TRANSACTION_PARTS, or
 * LIMIT_CLIENT_IN_BYTES in all transactions of the client, LIMIT_WORKER_IN_BYTES in those of all
 * clients of its worker. */
enum status broker_publish_within(struct broker_transaction *transaction,
                                  const struct publish *publish);
/* For a publish that the adapter refuses by itself. */
void broker_refuse_within(struct broker_transaction *transaction, enum status status);
/* Of a receipt; takes references. OVER_QUOTA as above. */
enum status broker_settle_within(struct broker_transaction *transaction,
                                 const struct unit_settlement *settlement);
/* A part that the adapter keeps, in so many bytes: it counts as the others do. */
enum status broker_part_within(struct broker_transaction *transaction, size_t bytes);
/* In the turn of the commit, after a part was counted for it: a delivery of a kept session of that
 * client, on the same worker, is over with the commit, as by broker_settled(). */
void broker_settle_kept_within(struct broker_transaction *transaction, const struct client *client,
                               uint32_t number);
/* Likewise of a shared subscription, as by broker_share_settled(); not of exactly once, nor of a
 * client whose session is kept. When the client closes before the end, who gets it is as the commit
 * ends. */
void broker_settle_shared_within(struct broker_transaction *transaction,
                                 struct subscription *subscription, uint32_t lease);
/* Ends with OK: all of it is durable. STALE: a lease had run out, a session has another client.
 * Else with what stands against one part, as it would be answered outside of a transaction; BUSY:
 * also where a part would have to wait for another transaction, unless both settle deliveries of
 * one kept session, which happens one after the other, for LIMIT_SESSION_UNITS of them. Then
 * nothing was done, and the leases are as they were. STORAGE_FAILED: nobody knows, and what was
 * settled of shares is nobody's until the next start. Who waits for another commit of its session
 * keeps nobody waiting: what the client publishes or commits meanwhile may be stored before it. */
void broker_commit(struct broker_transaction *transaction);
void broker_roll_back(struct broker_transaction *transaction); /* before the commit */

#endif
