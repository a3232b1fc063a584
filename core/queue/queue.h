/* SPDX-License-Identifier: Apache-2.0 */
/* A queue as everybody sees it: an immutable, reference-counted description that the catalog
 * replaces as a whole, plus counters that live as long as the queue. Groups likewise. */
#ifndef CORE_QUEUE_QUEUE_H
#define CORE_QUEUE_QUEUE_H

#include <stdatomic.h>

#include "core/base/buf.h"
#include "core/log/log.h"
#include "core/queue/selector.h"

enum overflow { OVERFLOW_DROP_OLDEST, OVERFLOW_REFUSE };
enum queue_type { QUEUE_STANDARD, QUEUE_FIFO, QUEUE_STREAM };

/* Living counters of a queue, shared by all descriptions of it. */
struct queue_stat {
    atomic_uint refs;
    uint32_t partition_count;
    _Atomic uint64_t delayed; /* records that wait for their time */
    atomic_uint links;        /* of a temporary one: of all clients (core/broker/temporary.h) */
    struct partition_stat partitions[];
};

struct queue {
    atomic_uint refs;
    uint64_t tenant;
    uint64_t id; /* never reused */
    char uuid[37];
    char *name;
    char *description; /* NULL: none */
    uint64_t owner;    /* of a temporary one: whose it is; 0: nobody's. Not stored. */
    enum queue_type type;
    enum durability durability;
    enum storage_class class;
    uint64_t retention_ms;    /* 0: no limit */
    uint64_t retention_bytes; /* of all partitions together; 0: no limit */
    uint64_t first_partition; /* partition i has id first_partition + i */
    uint32_t partition_count;
    bool built_in; /* cannot be deleted, counts in no quota */
    int64_t created_ms;
    /* Dead-letter policy: a record that failed max_consume_count times moves to its group's dead
     * letters. */
    bool redrive;
    uint32_t max_consume_count;
    enum overflow overflow;
    uint64_t max_records;   /* of all partitions together; 0: no limit but retention_bytes */
    uint64_t protect_bytes; /* retention spares what a group has not done, up to this much; 0: it
                               does not */
    uint64_t dedup_ms;      /* window of keyed dedup; 0: DEDUP_WINDOW_MS (dedup.h) */
    uint32_t lease_ms;      /* of those that ask for none; 0: QUEUE_LEASE_MS */
    struct queue_stat *stat;
};
enum { QUEUE_LEASE_MS = 30000 };

/* The partition of a group's dead letters follows from the group's id, which is never used again.
 */
#define DEAD_PARTITIONS (UINT64_C(1) << 62)
static inline uint64_t dead_partition_of(uint64_t group)
{
    return DEAD_PARTITIONS | group;
}
/* The group whose dead letters lie in partition; 0: it is one of a queue. */
static inline uint64_t dead_partition_group(uint64_t partition)
{
    return (partition & DEAD_PARTITIONS) == 0 ? 0 : partition & ~DEAD_PARTITIONS;
}
enum { DEAD_RETENTION_HOURS = 72 };

enum group_start { GROUP_EARLIEST, GROUP_LATEST };
/* Broadcast: every consumer gets every record. Each is a group of its own then, made when its name
 * is first heard; the broadcast group itself holds no state. */
enum group_mode { GROUP_SHARED, GROUP_BROADCAST };
#define CONSUMER_IDLE_MS (UINT64_C(7) * 24 * 60 * 60 * 1000)

struct group_stat {
    atomic_uint refs;
    _Atomic uint64_t acknowledged; /* records done by this group since it was made */
    _Atomic uint64_t in_flight;
    _Atomic uint64_t backlog;       /* committed and not done */
    _Atomic int64_t oldest_ms;      /* append time of the oldest record not done; 0: none */
    _Atomic uint64_t expired;       /* skipped: their expires-at had passed (since start) */
    _Atomic uint64_t dead;          /* dead letters now */
    _Atomic uint64_t dead_produced; /* dead letters ever */
    _Atomic uint64_t held_bytes;    /* bytes of the log from its oldest undone record on */
    _Atomic uint64_t lost; /* skipped: removed by retention or not readable (since start) */
    /* Of a broadcast group's consumer: */
    _Atomic int64_t taken_ms;           /* when it took, or waited, last; 0: not known yet */
    atomic_bool overtaken;              /* since then retention has removed what it had not done */
    struct partition_stat dead_letters; /* bounds of their partition */
    uint32_t partition_count;
    _Atomic uint64_t undone[]; /* per partition: the first offset not done; 0 until it is known */
};

struct group_spec { /* "spec": the description; the living group is struct group */
    atomic_uint refs;
    uint64_t tenant, queue, id;
    uint64_t parent; /* of a consumer of a broadcast group: that group; 0: of nobody */
    char uuid[39];   /* "g-" + uuid */
    char *name;      /* of a consumer: GROUP/CONSUMER */
    enum group_start start;
    enum group_mode mode;
    bool counts;             /* made through a DMS call: counts in the limit per queue */
    uint64_t dead_partition; /* of its dead letters; 0: it keeps none (broadcast) */
    int64_t created_ms;
    /* What it wants, besides its labels; NULL: every record. Consumers of a broadcast group have
     * none of their own: the group's holds for them. */
    struct selector *selector;
    uint64_t
        consumer_idle_ms; /* of a broadcast group: consumers that have not taken anything for so
                           * long, and were overtaken by retention, go; 0: CONSUMER_IDLE_MS */
    struct group_stat *stat;
};

struct queue *queue_ref(const struct queue *queue);
void queue_unref(struct queue *queue); /* NULL is fine */
struct group_spec *group_spec_ref(const struct group_spec *group);
void group_spec_unref(struct group_spec *group);
/* One reference, the same stat; for a description that replaces this one. */
struct queue *queue_copy(const struct queue *queue);
struct group_spec *group_spec_copy(const struct group_spec *group); /* likewise */
struct queue_stat *queue_stat_new(uint32_t partitions);
struct group_stat *group_stat_new(uint32_t partitions);

/* Stored rows, version first; decode makes one with one reference, without stat. */
enum status queue_encode(const struct queue *queue, struct buf *to);
enum status queue_decode(struct span row, struct queue **queue);
enum status group_spec_encode(const struct group_spec *group, struct buf *to);
enum status group_spec_decode(struct span row, struct group_spec **group);

const char *queue_type_name(enum queue_type type); /* "standard" "fifo" "stream" */
/* 1-64 (limit) of A-Z a-z 0-9 - _ . */
bool queue_name_is_valid(struct span name, size_t limit);
/* Of a queue that a client has made for itself (core/broker/temporary.h), and only of such: this,
 * then as above. */
#define QUEUE_TEMPORARY "$reply."
bool queue_name_is_temporary(struct span name);
/* How long a lease of its records lasts; asked_ms 0: as the queue says. */
uint32_t queue_lease_ms(const struct queue *queue, uint32_t asked_ms);
/* That many failures make a dead letter of a record of the group; 0: the queue keeps none. */
uint32_t queue_failures_max(const struct queue *queue, const struct group_spec *group);
/* Of a queue with OVERFLOW_REFUSE: lets one record of about so many bytes in, on its way to
 * partition, or says that the queue is full. Counts what is on its way, so that a queue never holds
 * more than one batch too much, however many publish; what was let in goes with the append
 * (log_append.pending_*), or is taken back. */
bool queue_admit(const struct queue *queue, uint64_t partition, uint64_t bytes);
void queue_take_back(const struct queue *queue, uint64_t partition, uint32_t records,
                     uint64_t bytes);
/* The partition a key belongs to, for ever. */
uint64_t queue_partition_of_key(const struct queue *queue, struct span key);

#endif
