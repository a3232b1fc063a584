/* SPDX-License-Identifier: Apache-2.0 */
/* The inside of the broker: one worker's part, and what the files of this folder share. Nobody
 * outside core/broker includes it. */
#ifndef CORE_BROKER_WORKER_H
#define CORE_BROKER_WORKER_H

#include "core/base/check.h"
#include "core/base/clock.h"
#include "core/base/hash.h"
#include "core/base/limits.h"
#include "core/broker/administer.h"
#include "core/broker/answer.h"
#include "core/broker/broker.h"
#include "core/broker/deduped.h"
#include "core/broker/delayed.h"
#include "core/broker/entry.h"
#include "core/broker/filter_index.h"
#include "core/broker/metrics.h"
#include "core/broker/retained.h"
#include "core/broker/selection.h"
#include "core/broker/session_names.h"
#include "core/broker/topic_trie.h"
#include "core/broker/will_wait.h"

/* What waits at one partition of the publishing worker until the turn ends: records and who is
 * answered. */
struct outbox {
    uint64_t partition;
    struct broker_worker *worker;
    struct batch_builder builder;
    struct answers answers;
    struct deduped_items items; /* from the first record with an id on; empty: there is none */
    uint32_t deduping;          /* batches that have not come back from being deduplicated */
    struct buf notes;           /* keys of rows that go with records: see batch.notes */
    uint64_t bytes;
    uint32_t pending_records; /* let in by queue_admit() */
    uint64_t pending_bytes;
    struct link dirty;
};

/* Interest in one filter: who subscribed here, and which other workers have somebody (by bit). */
struct interest {
    struct topic_entry entry; /* first: the trie allocates it */
    uint64_t workers;
    struct list subscriptions;
    uint32_t count;
};

/* How far this worker has processed commit notices of a partition. */
struct seen {
    uint64_t partition;
    uint64_t end;
};

/* The groups of one queue that live here; as long as there are any. */
struct queue_groups {
    uint64_t queue;
    struct list homes; /* of struct home_group */
};

/* A group that lives here. */
struct home_group {
    uint64_t id;
    struct queue_groups *siblings; /* itself among them */
    struct group *group;
    struct link link;
    struct request closed, expired;
    struct broker_worker *worker;
};

struct notice;

struct broker_metrics {
    struct metric *dropped_slow, *dropped_retention, *dropped_encode, *dropped_storage,
        *dropped_denied, *dropped_session, *dropped_bytes, *dropped_will, *dropped_too_large,
        *subscriptions, *live_records, *stored_records, *duplicates, *retained_expired;
    struct metric_histogram *batch_records, *delay_lateness;
};

/* What one worker counts of one protocol: plain numbers, so that workers do not fight for cache
 * lines at every record, which figures_flush() adds to the shared cells. */
struct protocol_figures {
    const char *protocol;
    struct metric *received, *delivered;
    struct metric *refused[STATUS_COUNT]; /* NULL until the first */
    struct metric *refused_entry;         /* likewise */
    int64_t received_now, delivered_now;
};
enum { PROTOCOLS = 16 };

enum { CREDENTIALS = 1024 };
struct credential {
    uint64_t hash[2];
    struct principal *principal;
    uint64_t until_ms;
};

struct broker_worker {
    struct broker *broker;
    unsigned index;
    struct loop *loop;
    struct log_worker *log;
    struct catalog *catalog;
    struct list clients;
    uint64_t client_count, clients_made;

    struct map outboxes; /* partition -> struct outbox */
    struct list dirty;   /* outboxes that hold records */
    struct delayed delayed;
    struct deduped deduped;
    struct retained retained;
    struct wills wills;
    struct batch_builder live; /* records that are not stored */
    struct list live_full;     /* batches of them, by in_tail */
    struct loop_task seal_task;
    int64_t wall_ms; /* at turn_ms */
    uint64_t turn_ms;
    uint64_t in_bytes;             /* submitted, not answered */
    uint64_t transaction_bytes;    /* kept for transactions that are open */
    uint64_t jobs;                 /* appends in flight, held ones included */
    uint64_t epoch;                /* rises when routes change */
    uint64_t flying, flying_epoch; /* appends in flight are all of one epoch */
    struct list held;              /* trips that wait until those of an older one are back */
    uint64_t units;                /* begun here */
    uint64_t calls;                /* takes, settlements, logins, changes in flight */
    uint64_t reads;                /* of clients that catch up, in flight */
    uint64_t closing;              /* groups that are not closed yet */
    struct list waiting;           /* clients that wait for room to publish */
    struct loop_timer wake_timer;
    _Atomic uint64_t notice_bytes; /* of notices on their way here */

    struct topic_trie *trie;               /* of struct interest */
    struct map seen;                       /* partition -> struct seen */
    uint32_t unconfirmed;                  /* announcements that not all workers have confirmed */
    struct notice *pending[LIMIT_WORKERS]; /* notices being filled during one batch */
    bool delivering;                       /* subscribers are being walked */
    struct batch *shown;                   /* the batch that they are shown records of */
    bool shown_stored;
    struct loop_timer retry_timer; /* reads that failed */

    struct map shares;                           /* key -> struct share; those whose home this is */
    struct share_parcel *parcels[LIMIT_WORKERS]; /* records for members there, in this turn */
    struct loop_task parcel_task;
    uint64_t share_members, share_seats; /* that live here */
    struct share_taken *taken;           /* of shares: share_taken.c */
    struct filter_index filters;
    uint64_t synced;            /* commit sequence of the last sync that this worker has heard of */
    uint64_t handled;           /* up to here every notice for this worker has been processed */
    struct worker_fence *fence; /* under way */

    struct map followed; /* partition -> who follows it; of those owned here: follow_watch.c */
    struct map watches;  /* partition -> struct watch: those followed here */
    struct list followers;
    struct selection selection;

    struct map groups; /* id -> struct home_group */
    struct map
        queue_groups; /* queue -> struct queue_groups: a batch is looked up, not all groups */
    struct group_budget budget;

    struct credential
        *credentials;          /* CREDENTIALS slots, allocated at the first login with a password */
    bool ending;               /* shutting down: no new work */
    uint64_t goodbye_until_ms; /* clients were told, and have until then to go; 0: not yet */
    bool left;                 /* its clients have gone, or their time is over */
    struct mail start, stop;   /* from broker_when_ready() and broker_shut_down() */
    struct loop_timer timer;
    struct protocol_figures figures[PROTOCOLS];
    unsigned figure_count;
    int64_t stored_now, live_now, slow_now; /* as in protocol_figures */
};

struct broker {
    struct storage *storage;
    struct log *log;
    unsigned worker_count;
    struct broker_options options;
    struct broker_worker *workers; /* array */
    struct list changes;           /* worker 0: administration that waits its turn */
    bool changing;
    uint64_t next_id, next_partition; /* worker 0 */
    struct broker_metrics metrics;
    struct filter_shapes shapes;
    struct filter_forget *forget; /* worker 0 */
    struct session_names names;
    struct session_names own_ids; /* of clients (client_own_id) */
    struct entry_desk desk;
    uint64_t run;                    /* of this process: another number each time */
    struct will_sweep *will_sweep;   /* worker 0 */
    _Atomic bool sessions_kept;      /* there may be stored ones */
    struct session_sweep *sweep;     /* worker 0 */
    _Atomic bool ends_missing;       /* of some sessions; for the sweep */
    _Atomic bool retained_any;       /* somebody has ever retained something */
    _Atomic int64_t retained_due_ms; /* some retained record may expire then; 0: not known yet */
    struct retained_sweep *retained_sweep; /* worker 0 */
    _Atomic unsigned crowded; /* workers with more than LIMIT_NOTICE_BYTES on their way to them */
    /* when_ready and shut_down */
    _Atomic unsigned ready_workers, answered_workers, left_workers, ended_workers;
    struct request *ready, *down;
};

static inline struct broker_worker *broker_home(struct broker *broker, uint64_t id)
{
    return &broker->workers[hash_u64(id) % broker->worker_count];
}

static inline uint32_t broker_topic_levels(const struct broker *broker)
{
    return broker->options.topic_levels == 0 ? LIMIT_TOPIC_LEVELS : broker->options.topic_levels;
}

/* How often what is over is looked for. */
static inline uint64_t broker_sweep_ms(const struct broker *broker)
{
    return broker->options.sweep_ms == 0 ? 1000 : broker->options.sweep_ms;
}

/* The wall clock, read once in a turn or millisecond. */
static inline int64_t worker_wall_ms(struct broker_worker *worker)
{
    uint64_t now_ms = loop_now_ms(worker->loop);
    if (worker->turn_ms != now_ms || worker->wall_ms == 0) {
        worker->turn_ms = now_ms;
        worker->wall_ms = clock_wall_ms();
    }
    return worker->wall_ms;
}

static inline void client_caught_up(struct client *client)
{
    if (client->ops->caught_up != NULL && !client_is_behind(client))
        client->ops->caught_up(client);
}

/* figures.c */
struct protocol_figures *figures_of(struct broker_worker *worker, const char *protocol);
void figures_refused(struct protocol_figures *figures, enum status why);
void figures_refused_entry(struct protocol_figures *figures);
void figures_flush(struct broker_worker *worker);

/* client.c: its user, or its token, is no more: it ends. */
void client_put_out(struct client *client);
/* One that publishes for somebody who has gone. */
void client_speak_for(struct client *client, uint64_t tenant, const struct principal *principal,
                      struct span client_id);

/* Something that goes to partitions: what was published under older routes comes back before it
 * starts. */
struct trip {
    struct link held;
    uint64_t epoch;
    void (*start)(struct trip *trip);
};
/* Where a publish goes, and as what. */
struct aim {
    struct outbox *outbox;
    const struct queue *queue; /* borrowed from the catalog */
    size_t size;
    bool unstored; /* at most once it stays in memory */
    struct record_input record;
    struct header standard[2]; /* record's */
};

/* publish.c */
void publish_depart(struct broker_worker *worker, struct trip *trip,
                    void (*start)(struct trip *trip));
/* Of what was let in: no log has taken it off. */
void publish_take_back(const struct broker_worker *worker, uint64_t partition, uint32_t records,
                       uint64_t bytes);
void publish_back(struct broker_worker *worker); /* for each that has started, at its end */
/* What stands against a publish before its address is looked at. */
enum status publish_may_begin(struct client *client);
/* What stands against it whatever its address is; size: about what it takes. */
enum status publish_check(const struct client *client, const struct publish *publish, size_t *size);
/* aim is valid until the publish's own memory goes, or the current callback returns. */
enum status publish_aim(struct client *client, const struct publish *publish, struct aim *aim);
/* A delayed record counts when it is due: OK does not promise that it has room then, but a queue
 * that is full now (OVER_QUOTA) takes none. */
enum status publish_may_wait(const struct aim *aim);
/* What will be stored of this turn so far goes on its way; nobody is called back. */
void publish_submit(struct broker_worker *worker);
void publish_init(struct broker_worker *worker);
void publish_deinit(struct broker_worker *worker);
void publish_close(struct client *client);
void publish_seal(struct broker_worker *worker);
void publish_wake(struct broker_worker *worker); /* there may be room to publish again */
/* Before a snapshot with other routes: what was published under the old ones is committed before
 * anything goes where the new ones lead, so that a topic that moves keeps its order. */
void publish_reroute(struct broker_worker *worker);
/* The queue has been deleted: nothing more goes to its partitions. */
void publish_forget(struct broker_worker *worker, const struct queue *queue);

/* deliver.c */
log_observer deliver_committed;
/* Records that are not stored; takes the reference. */
void deliver_live(struct broker_worker *worker, struct batch *batch);
void deliver_deinit(struct broker_worker *worker);
/* Where the last notice that this worker has processed ends. */
uint64_t deliver_seen(struct broker_worker *worker, uint64_t partition);
void deliver_forget(struct broker_worker *worker, const struct queue *queue);
/* False: the record has no topic or has expired, and is shown to no subscription. */
bool deliver_topic(const struct record *record, int64_t now_ms, struct span *topic);

enum deliver_result { DELIVERED, DELIVER_SKIPPED, DELIVER_FULL };
struct frame_cache {
    struct {
        const struct client_ops *ops;
        uint32_t variant;
        struct blob *frame;
    } slots[8];
    unsigned count;
};
void frame_cache_clear(struct frame_cache *cache);
/* The frame for a variant, borrowed from the cache; NULL: the record cannot be shown. */
struct blob *deliver_frame(struct frame_cache *cache, const struct client_ops *ops,
                           uint32_t variant, const struct record *record);
/* The client has published it. */
bool deliver_is_own(const struct client *client, const struct record *record);
/* Of a record whose topic matches: not by no_local or the selector. */
bool deliver_is_wanted(const struct subscription *subscription, const struct record *record);
/* False: for its selector there is none left in this turn; the client goes on in another one. */
bool deliver_has_time(const struct subscription *subscription);
/* FULL: credit, budget or time is used up; the caller decides what becomes of the record. */
enum deliver_result deliver_to(struct subscription *subscription, const struct record *record,
                               struct frame_cache *cache);
/* Likewise, of a record that the client has given back: others wait for those. */
enum deliver_result deliver_again(struct subscription *subscription, const struct record *record,
                                  struct frame_cache *cache);
/* A stored record: as deliver_to(), and the subscription remembers that it was served it, or
 * skipped. */
enum deliver_result deliver_stored(struct subscription *subscription, uint64_t partition,
                                   const struct record *record, struct frame_cache *cache);

/* In ms since 1970; INT64_MAX: never. */
int64_t deliver_expiry(const struct record *record);
/* No topic is asked for. */
bool deliver_has_expired(const struct record *record, int64_t now_ms);

/* follow.c, follow_watch.c, follow_home.c */
uint64_t follow_workers(struct broker_worker *owner, uint64_t partition);
/* A batch of a partition that is followed on this worker. */
void follow_notice(struct broker_worker *worker, uint64_t partition, struct batch *batch);
void follow_init(struct broker_worker *worker);
/* The catalog is another one, with other users, groups or, if so, routes. */
void follow_recheck(struct broker_worker *worker, bool routes);
void follow_forget(struct broker_worker *worker, const struct queue *queue);
void follow_deinit(struct broker_worker *worker);

/* barrier.c: a commit up to which nothing is on its way to this worker any more. */
void worker_synced(struct broker_worker *worker, uint64_t commit); /* a sync write is done */
void worker_barrier(struct broker_worker *worker); /* handled moves up to what is synced now */
/* done() when no notice of what was committed before this call is on its way to this worker; with
 * one worker at once. */
void worker_after_notices(struct broker_worker *worker, void (*done)(void *context), void *context);

/* recall.c */
void recall_go_on(struct client *client);
void recall_close(struct client *client);

/* subscribe.c */
/* One of those that a subscribe waits for has come: at the last one it is done. */
void subscribe_confirmed(struct broker_subscribe *subscribe);
/* What holds as long as the client is there. */
void subscribe_live(struct broker_subscribe *subscribe);
bool subscribe_wants_retained(const struct subscribe_item *item); /* after it was added */
enum status subscribe_check(struct client *client, const struct subscribe_item *item);
struct subscription *subscription_of(const struct client *client, struct span filter);
void subscribe_close(struct client *client);
void subscribe_recheck(struct client *client);

/* catch_up.c */
void catch_up_init(struct broker_worker *worker);
void catch_up_begin(struct client *client, uint64_t partition, uint64_t offset);
bool catch_up_lags(const struct client *client, uint64_t partition);
void catch_up_go_on(struct client *client);
void catch_up_close(struct client *client);
/* What is committed from now on comes another way. */
void catch_up_until(struct client *client);
/* A new subscription of a client that lags must not see what was committed before it. */
void catch_up_floor(struct subscription *subscription);
/* Nor one that holds at an owner only now what was committed there before. */
void catch_up_awake(struct subscription *subscription, unsigned owner);
void subscription_free(struct subscription *subscription);

/* groups.c */
void groups_open(struct broker_worker *worker, const struct queue *queue,
                 const struct group_spec *group);
void groups_close(struct broker_worker *worker, uint64_t id, bool remove);
/* The description of a queue was replaced: of the same partitions, with other limits. */
void groups_change(struct broker_worker *worker, const struct queue *queue);
/* Likewise of a group; of a broadcast group it says what its consumers want. */
void groups_describe(struct broker_worker *worker, const struct group_spec *group);
void groups_close_all(struct broker_worker *worker);
void groups_notice(struct broker_worker *worker, uint64_t queue, uint64_t partition,
                   struct batch *batch);
/* At home, for who has found the group in a catalog of that generation. NULL with OK: the snapshot
 * with it is on its way here, and mail comes once more; else NOT_FOUND or SHUTTING_DOWN. */
enum status groups_find(struct broker_worker *home, uint64_t id, uint64_t generation,
                        struct mail *mail, struct group **group);
/* broker_settle() by one who was allowed to take: rights are not looked at again. */
void groups_settle(struct broker_worker *worker, const struct group_spec *group,
                   struct group_settle *settle);
/* The queue was purged. */
void groups_look(struct broker_worker *worker, uint64_t queue);
log_undone groups_undone;

/* administer.c: a change that the broker makes by itself, whose rights are not asked for. */
void administer_self(struct broker_worker *worker, struct broker_admin *admin);
/* Likewise one that only deletes; done(), on the worker's loop, may not keep admin. */
void administer_self_delete(struct broker_worker *worker, const struct broker_admin *admin,
                            void (*done)(struct broker_admin *admin, void *context,
                                         enum status status),
                            void *context);

/* broadcast.c */
/* Of a broadcast group's consumer: how long it may stay away; again: and that home->expired, which
 * is not under way, comes when it has. */
void broadcast_expire(struct broker_worker *worker, struct home_group *home, bool again);
/* Nobody has taken for it for long, and retention has removed what it had not done. */
bool broadcast_is_expired(const struct catalog *catalog, const struct group_spec *consumer);
/* On the client's worker, rights are checked. */
/* Whose consumer a client is: its id, or where that is no name one made of it, which begins with
 * "id.", is no other client's and always the same. */
void broadcast_name(struct span id, char name[LIMIT_GROUP_NAME + 1]);
void broadcast_take(struct client *client, const struct group_spec *group, struct group_take *take);
void broadcast_cancel(struct group_take *take);
/* Whose receipts these are; NULL: no consumer's of that group. */
const struct group_spec *broadcast_settled(const struct broker_worker *worker,
                                           const struct group_spec *group,
                                           const struct group_settle *settle);

/* administer.c */
void administer_apply(struct broker_worker *worker, struct catalog *catalog);

/* load.c: at start, blocking. */
enum status administer_load(struct broker *broker, struct err *err);

#endif
