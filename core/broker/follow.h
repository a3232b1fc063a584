/* SPDX-License-Identifier: Apache-2.0 */
/* A reader that follows a queue, or the homes of a topic filter, from a position on: first what is
 * there, then what comes. It takes no leases and settles nothing. Nobody polls: the owner of a
 * partition tells the workers on which it is followed of each batch, and who is at the end is shown
 * that very batch; who is not, for want of credit or room, keeps an offset and reads the log.
 *
 * All calls on the client's loop; callbacks come there, never from inside a call. */
#ifndef CORE_BROKER_FOLLOW_H
#define CORE_BROKER_FOLLOW_H

#include "core/broker/broker.h"

struct follower;

/* Where a record lies. */
struct follow_place {
    const struct queue *queue;
    uint32_t partition; /* number within the queue */
};

struct follow_ops {
    /* What encode() depends on, apart from the record; NULL: nothing. */
    uint32_t (*variant)(struct follower *follower);
    /* The frame of a record, made once for all followers of equal ops and variant who are shown it
     * together. NULL: it cannot be shown; skipped. */
    struct blob *(*encode)(uint32_t variant, const struct follow_place *place,
                           const struct record *record);
    /* One record, in order within its partition; takes one credit. frame is borrowed. Comes while
     * followers are walked: closes no follower and no client. */
    void (*deliver)(struct follower *follower, struct blob *frame, const struct follow_place *place,
                    const struct record *record);
    /* All that is committed has been shown or skipped; again after each time it fell behind. May be
     * NULL. */
    void (*caught_up)(struct follower *follower);
    /* So many records were removed, or cannot be read, before they could be shown. Closes nothing
     * either. May be NULL. */
    void (*lost)(struct follower *follower, const struct follow_place *place, uint64_t records);
    /* Nothing will come any more: NOT_FOUND (the queue or the group has gone), DENIED, OVER_QUOTA
     * (too many homes), SHUTTING_DOWN. follower_close() remains to be called. */
    void (*ended)(struct follower *follower, enum status why);
};

enum { FOLLOW_ALL_PARTITIONS = -1 };

/* Everything is borrowed for the call. */
struct follow_options {
    const struct queue *queue; /* NULL: all homes of topics that match filter, also later ones */
    struct span filter;        /* with a queue: empty, or only records of such topics */
    int32_t partition;         /* of queue; or FOLLOW_ALL_PARTITIONS */
    enum seek_to from;         /* OFFSET: of that partition, or of each; beyond its end: the end */
    bool no_local;             /* not what this client published itself */
    bool last; /* LATEST, and before that of each partition the last record that is wanted */
    uint64_t offset;
    int64_t time_ms; /* the first record appended at or after it */
    /* What follower_position() said before: goes on behind it, whatever from says. Partitions it
     * does not name are new and begin at their start. Not valid: from counts. With more partitions
     * than a follower may have it is INVALID. */
    struct span position;
    struct label_filter labels;
    struct selector *selector; /* a reference is taken; NULL: all */
    /* With a queue, a group of it. dead_of: the group's dead letters instead of the records of the
     * queue. undone_by: only what the group wants and had not done when it was looked at (with
     * its labels of then); of a broadcast group, whose consumers are groups of their own, all. */
    const struct group_spec *dead_of, *undone_by;
    /* What is shown counts until follower_settled(): who reads along and never settles must not
     * make the protocol remember without end. */
    bool settled_later;
};

/* INVALID (a filter, partition or position that cannot be), DENIED, OVER_QUOTA
 * (LIMIT_FOLLOW_PARTITIONS, LIMIT_FOLLOWERS), UNSUPPORTED (a group without dead letters),
 * SHUTTING_DOWN; else OK and *follower, without credit. context is the caller's. */
enum status follower_open(struct client *client, const struct follow_ops *ops, void *context,
                          const struct follow_options *options, struct follower **follower);
/* No callbacks after it. NULL is fine. client_close() closes those that are left. */
void follower_close(struct follower *follower);
void *follower_context(const struct follower *follower);
struct client *follower_client(const struct follower *follower);

/* So many records may be shown from now on, whatever was allowed before. By itself a follower also
 * stops where its client's output is over budget, until client_drained(). */
void follower_credit(struct follower *follower, uint32_t credit);
/* The same holds where LIMIT_FOLLOW_UNSETTLED of the client's are unsettled, until one is. */
void follower_settled(struct follower *follower); /* one of a follower that is settled_later */
uint32_t follower_credit_left(const struct follower *follower);
bool follower_may_be_shown(const struct follower *follower); /* as far as both of these go */
/* There is something that it has not shown yet, or may be: caught_up() will come. */
bool follower_is_behind(const struct follower *follower);
/* Appends where it is, as text without blanks, quotes and line ends: of all partitions, behind the
 * last record shown. */
enum status follower_position(struct follower *follower, struct buf *to);
/* Whether that is to be said with the record that is being shown. Of many partitions the text is
 * long, and said when as much has been shown since it was said last; who goes on from that one is
 * shown again what came since. */
bool follower_says_position(const struct follower *follower);

/* The broker's. */
void followers_close(struct client *client);
void followers_go_on(struct client *client);

#endif
