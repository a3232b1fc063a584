/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of followers share; nobody else includes it.
 *
 * A follower has a lane per partition. A lane is LIVE when all that its worker has been told of has
 * been shown; then it is shown each batch as the notice of it comes. Else it is behind and reads:
 *
 *   wait for the watch --confirmed--> behind --read of nothing--> live --no credit, no room-->
 * behind
 *
 * A watch is a worker's interest in a partition. It is confirmed before anything is read, so that
 * what a read has not seen comes as a notice. Its mail goes to the partition's owner and back. */
#ifndef CORE_BROKER_FOLLOW_IMPL_H
#define CORE_BROKER_FOLLOW_IMPL_H

#include "core/broker/follow.h"
#include "core/broker/follow_position.h"
#include "core/broker/worker.h"

struct watch {
    uint64_t partition;
    struct broker_worker *worker, *owner;
    struct list live, behind; /* lanes; a record is shown to those that are live */
    struct mail mail;
    bool travels; /* the mail is on its way */
    bool wanted;  /* what the owner was told last */
    bool confirmed;
    uint64_t end; /* of the last notice */
};

struct lane {
    struct follower *follower;
    struct queue *queue; /* a reference */
    uint32_t number;
    const struct partition_stat *bounds;
    uint64_t partition, next;
    bool by_time; /* next is not known yet: the first record appended at or after time_ms */
    int64_t time_ms;
    /* Looks through [next, back_to) for the last record that is wanted; last: that of those looked
     * at, else the end as it was when it began. */
    bool looks_back;
    uint64_t back_from, back_to, back_width, last;
    bool live;
    struct watch *watch;
    struct link of_watch;
};

struct follower {
    struct client *client;
    struct broker_worker *worker;
    const struct follow_ops *ops;
    void *context;
    struct link of_client, of_worker;
    struct loop_task work;
    struct loop_timer look; /* for room, and after a failure */
    uint32_t look_ms;
    bool failed; /* the last read; nothing is read before look */

    struct span filter; /* bytes of its own */
    bool by_topic;      /* rights and homes are those of filter */
    int64_t time_ms, opened_ms;
    struct selector *selector;
    struct label_filter labels;
    uint8_t *label_text;
    bool no_local;
    struct group_spec *dead_of, *undone_by; /* references */
    struct selector *group_selector;        /* of undone_by, as it is now */
    struct label_choice group_labels;       /* likewise, as they were when it was looked at last */

    struct lane **lanes;
    uint32_t lane_count, turn, behind; /* behind: lanes that are not live */
    uint32_t credit, unsettled;
    bool settled_later;
    size_t unsaid, position_size; /* shown since the last position; that one's length */
    struct follow_read *read;
    enum status over; /* OK: it goes on */
    bool told_over, told_caught_up;
};

static inline void follower_wake(struct follower *follower)
{
    loop_defer(follower->worker->loop, &follower->work, LOOP_WORK);
}
/* ended() will tell. */
static inline void follower_end(struct follower *follower, enum status why)
{
    if (follower->over == STATUS_OK)
        follower->over = why;
    follower_wake(follower);
}

static inline bool watch_has_lanes(const struct watch *watch)
{
    return !list_is_empty(&watch->live) || !list_is_empty(&watch->behind);
}

static inline struct span key_of(const uint64_t *partition)
{
    return span_of(partition, sizeof *partition);
}

/* follow.c */
bool follower_wants(const struct follower *follower, const struct record *record);

/* follow_back.c */
void lane_look_back(struct lane *lane, uint64_t end);
/* While it does: what was read from next on, or that there is nothing before start. */
void lane_took_back(struct lane *lane, const struct log_read *read);
void lane_skipped_back(struct lane *lane, uint64_t start);

/* follow_watch.c */
struct watch *watch_of(struct broker_worker *worker, uint64_t partition);
void watch_go_on(struct watch *watch); /* after its lanes have changed */

/* follow_home.c */
/* Lanes of queue: count partitions from first on, each like model. False: too many. */
bool lanes_add(struct follower *follower, const struct queue *queue, uint32_t first, uint32_t count,
               const struct lane *model);
/* The lane of the dead letters of follower->dead_of. */
void lane_add_dead(struct follower *follower, const struct queue *queue, const struct lane *model);
/* What the group that it looks at wants now; dead letters were wanted once. */
void follower_choose(struct follower *follower);
/* Lanes of every queue in which matching topics may lie and that is not followed yet. */
bool lanes_add_homes(struct follower *follower, const struct lane *model);
void lane_remove(struct follower *follower, uint32_t index);

#endif
