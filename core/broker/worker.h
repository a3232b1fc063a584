/* SPDX-License-Identifier: Apache-2.0 */
/* The inside of the broker: one worker's part, and what the files of this folder share. Nobody
 * outside core/broker includes it. */
#ifndef CORE_BROKER_WORKER_H
#define CORE_BROKER_WORKER_H

#include "core/base/check.h"
#include "core/base/hash.h"
#include "core/base/limits.h"
#include "core/broker/broker.h"
#include "core/broker/metrics.h"
#include "core/broker/topic_trie.h"

/* What waits at one partition of the publishing worker until the turn ends: records and who is
 * answered. */
struct outbox {
    uint64_t partition;
    struct broker_worker *worker;
    struct batch_builder builder;
    struct answer *answers;
    uint32_t answer_count, answer_capacity;
    uint64_t bytes;
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

/* A group that lives here. */
struct home_group {
    uint64_t id, queue;
    struct group *group;
    struct link link;
};

struct notice;

struct broker_metrics {
    struct metric *dropped_slow, *dropped_retention, *dropped_encode, *live_records,
        *stored_records, *refused;
    struct metric_histogram *batch_records;
};

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
    uint64_t client_count;

    struct map outboxes;       /* partition -> struct outbox */
    struct list dirty;         /* outboxes that hold records */
    struct batch_builder live; /* records that are not stored */
    struct loop_task seal_task;
    int64_t wall_ms;     /* of this turn; 0: not read yet */
    uint64_t in_bytes;   /* submitted, not answered */
    uint64_t jobs;       /* appends in flight */
    struct list waiting; /* clients that wait for room to publish */

    struct topic_trie *trie;               /* of struct interest */
    struct map seen;                       /* partition -> struct seen */
    uint32_t unconfirmed;                  /* announcements that not all workers have confirmed */
    struct notice *pending[LIMIT_WORKERS]; /* notices being filled during one batch */

    struct map groups; /* id -> struct home_group */
    struct list home_groups;

    struct credential
        *credentials;          /* CREDENTIALS slots, allocated at the first login with a password */
    bool ending;               /* shutting down: no new work */
    uint64_t goodbye_until_ms; /* clients were told, and have until then to go; 0: not yet */
    struct request *ended;     /* waits until jobs is 0 */
    struct mail mail;          /* for start and shutdown */
    struct loop_timer timer;
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
    /* when_ready and shut_down */
    _Atomic unsigned ready_workers, ended_workers;
    struct request *ready, *down;
};

static inline struct broker_worker *broker_home(struct broker *broker, uint64_t id)
{
    return &broker->workers[hash_u64(id) % broker->worker_count];
}

/* publish.c */
void publish_deinit(struct broker_worker *worker);
void publish_close(struct client *client);
void publish_seal(struct broker_worker *worker);
void publish_catalog_changed(struct broker_worker *worker);

/* deliver.c */
log_observer deliver_committed;
/* Records that are not stored; takes the reference. */
void deliver_live(struct broker_worker *worker, struct batch *batch);
/* Delivers one record to one subscription if rights to it, credit and budget allow. False: it did
 * not fit now. */
struct delivery;
void deliver_deinit(struct broker_worker *worker);
uint64_t deliver_seen(struct broker_worker *worker, uint64_t partition);
bool deliver_is_expired(const struct record *record, int64_t now_ms);

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
/* FULL: credit or budget is used up; the caller decides what becomes of the record. */
enum deliver_result deliver_to(struct subscription *subscription, const struct record *record,
                               struct frame_cache *cache);

/* subscribe.c */
void subscribe_close(struct client *client);
void subscribe_recheck(struct client *client);

/* catch_up.c */
void catch_up_begin(struct client *client, uint64_t partition, uint64_t offset);
bool catch_up_lags(const struct client *client, uint64_t partition);
void catch_up_go_on(struct client *client);
void catch_up_close(struct client *client);
/* A new subscription of a client that lags must not see what was committed before it. */
void catch_up_floor(struct subscription *subscription);
void subscription_free(struct subscription *subscription);

/* groups.c */
void groups_open(struct broker_worker *worker, const struct queue *queue,
                 const struct group_spec *group);
void groups_close(struct broker_worker *worker, uint64_t id, bool remove);
void groups_close_all(struct broker_worker *worker);
void groups_notice(struct broker_worker *worker, uint64_t queue, uint64_t partition,
                   struct batch *batch);

/* administer.c */
enum status administer_load(struct broker *broker, struct err *err);
void administer_apply(struct broker_worker *worker, struct catalog *catalog);

#endif
