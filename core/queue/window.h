/* SPDX-License-Identifier: Apache-2.0 */
/* The delivery state of one (group, partition): which offsets are available, leased, done or
 * parked, who must bring them back by when, and how often they failed. Pure state, no I/O, no
 * clock: O(1) per take and settle at 100 000 in flight, checked by a model test.
 *
 *              take                  done
 *   available ------> leased(d) -----------> done --> (base moves over it)
 *     ^  ^  ^            |  |                  ^
 *     |  |  +------------+  | failure (nack,   | window_moved
 *     |  |     release      | deadline), delay | (dead letter, redrive)
 *     |  |                  v                  |
 *     |  +--------------- parked --> spent ----+
 *     |   stored, and due              ^ too many failures, or rejected
 *     +--------------- claimed --------+
 *
 * What stays behind while LIMIT_WINDOW offsets after it were handed out is set aside: base moves
 * over it, and it is kept, delivered and stored one by one. */
#ifndef CORE_QUEUE_WINDOW_H
#define CORE_QUEUE_WINDOW_H

#include "core/base/buf.h"
#include "core/base/list.h"

enum window_outcome {
    WINDOW_DONE,
    WINDOW_FAILED,
    WINDOW_RELEASED,
    WINDOW_REJECTED, /* spent now; returned where the window has no failure limit */
};
#define WINDOW_NO_LIMIT (UINT32_MAX >> 1) /* of failures: only what is rejected is spent */

struct window;

/* What windows of one loop may know together of offsets that were given back. */
struct released_budget {
    uint64_t count, max;
};

struct window *window_new(uint64_t base, uint32_t in_flight_max);
void window_free(struct window *window); /* NULL is fine */
/* A window that knows of none yet counts there, too; borrowed until it is freed. */
void window_share_released(struct window *window, struct released_budget *budget);
/* Begins anew at base: all from there on is available, all below is done. Leases end, their
 * delivery numbers are not used again. */
void window_restart(struct window *window, uint64_t base);
/* What failed that often (at least once) is spent instead of coming back; 0: nothing ever is. What
 * is known of by now is looked at again. */
void window_limit_failures(struct window *window, uint32_t failures_max);

uint64_t window_base(const struct window *window); /* first offset not done, but for those aside */
uint64_t window_oldest(const struct window *window); /* first offset not done */
uint64_t window_next(const struct window *window);   /* next offset that was never handed out */
uint64_t window_end(const struct window *window);    /* first offset not known to be committed */
uint32_t window_in_flight(const struct window *window);
uint64_t window_backlog(const struct window *window); /* offsets below end that are not done */
/* Leases that ended as done since the group was made: part of the durable state. */
uint64_t window_acknowledged(const struct window *window);
/* Failures of an offset that is not done; rejected (may be NULL): it was rejected. */
uint32_t window_failures(const struct window *window, uint64_t offset, bool *rejected);
/* Whether an offset that is not done was handed out before, since the window was made or restored;
 * a failure that is stored says so too. Of those given back without one LIMIT_RELEASED are known,
 * and as many as its budget has room for; of more it may say that they were not. */
bool window_was_taken(const struct window *window, uint64_t offset);
enum window_state { WINDOW_IS_AVAILABLE, WINDOW_IS_LEASED, WINDOW_IS_DONE, WINDOW_IS_PARKED };
/* until_ms: LEASED: as now_ms of window_take; PARKED: the wall clock where it waits for that, else
 * 0. */
enum window_state window_look_at(const struct window *window, uint64_t offset, uint64_t *until_ms);
uint32_t window_aside(const struct window *window); /* offsets that were set aside */

/* Offsets up to end are committed now. Offsets that do not exist (gaps) are settled as done by
 * whoever reads. */
void window_extend(struct window *window, uint64_t end);
/* Retention has removed everything below start: done, whatever it was. Returns how many were not
 * done. */
uint64_t window_skip_to(struct window *window, uint64_t start);
/* Offsets in [from, to) that turned out to hold no record, or none that may be handed out: done,
 * but for those that are leased. What lies beyond the span limit stays, and is asked for again
 * later. */
void window_gap(struct window *window, uint64_t from, uint64_t to);

/* The available ones in [from, to) are done; beyond the span limit as above. */
void window_drop_available(struct window *window, uint64_t from, uint64_t to);

/* The next offset to hand out: redeliveries first (oldest return first), else the next new one.
 * False: none, or the in-flight limit or the span limit (LIMIT_WINDOW, with LIMIT_ASIDE set aside)
 * is reached. Only looks. */
bool window_peek(const struct window *window, uint64_t *offset);
/* Takes an available offset below end (as a rule the one that window_peek showed), until
 * now_ms + lease_ms (a little later when more than 64 lease lengths are in use at once). now_ms
 * never falls. Gives the delivery number for the receipt (rises at every hand-out since the window
 * was made) and the failures so far. */
void window_take(struct window *window, uint64_t offset, uint64_t now_ms, uint32_t lease_ms,
                 uint32_t *delivery, uint32_t *failures);

/* Settles a lease. STALE when that hand-out of the offset is not leased any more (expired, settled,
 * unknown). A failed offset is parked until window_committed. */
enum status window_settle(struct window *window, uint64_t offset, uint32_t delivery,
                          enum window_outcome outcome);
/* The same for FAILED and RELEASED, and the offset is not available before due_ms of the wall
 * clock. */
enum status window_delay(struct window *window, uint64_t offset, uint32_t delivery,
                         enum window_outcome outcome, int64_t due_ms);
/* Gives a live lease lease_ms from now_ms. STALE as above. */
enum status window_renew(struct window *window, uint64_t offset, uint32_t delivery, uint64_t now_ms,
                         uint32_t lease_ms);

/* A live lease that is about to be settled together with something else: until window_unhold() it
 * does not run out, and is STALE for everybody. STALE as above, also when it is held already. BUSY:
 * a row of its own that says what became of it could not be understood yet. */
enum status window_hold(struct window *window, uint64_t offset, uint32_t delivery);
/* It is a lease as before, with its old deadline. True: it was RELEASED meanwhile, which remains to
 * be done. */
bool window_unhold(struct window *window, uint64_t offset, uint32_t delivery, uint64_t now_ms);

/* Earliest deadline, 0 when nothing is leased; expires one lease that is due (counts as FAILED):
 * false when none. */
uint64_t window_deadline(const struct window *window);
bool window_expire(struct window *window, uint64_t now_ms, uint64_t *offset);
/* The earliest time of the wall clock that a delayed offset waits for, 0 when there is none; makes
 * one that is due available: false when none. */
int64_t window_due(const struct window *window);
bool window_wake(struct window *window, int64_t wall_ms);

/* The first spent offsets, in the order in which they became so: whoever moves their records away
 * says window_moved when that is stored, in a row of its own that window_apply_moved is told of
 * after a restart. Returns how many, at most max; what is too far above the base that is stored
 * comes later, or cannot be claimed. */
uint32_t window_spent(const struct window *window, uint64_t *offsets, uint32_t max);
/* Takes an available offset out of delivery, without a lease, until window_moved or
 * window_unclaim. False: it is not available. */
bool window_claim(struct window *window, uint64_t offset);
void window_unclaim(struct window *window, uint64_t offset);
/* A spent or claimed offset (others: nothing happens) is done; it does not count as acknowledged.
 */
void window_moved(struct window *window, uint64_t offset);
/* The first available offset at or after from and below end; end when there is none. */
uint64_t window_next_available(const struct window *window, uint64_t from);

/* The first offset at or after from and below end that is not done, whatever it is; end when there
 * is none. */
uint64_t window_next_undone(const struct window *window, uint64_t from);
/* Whether an available offset may be handed out now: the limits of window_peek. with_room: what
 * keeps it from that is set aside if it may be; available offsets too, which then are returned
 * ones. */
bool window_may_take(struct window *window, uint64_t offset, bool with_room);

/* Who wants to know what offsets become, besides asking: told from inside of the call that does it,
 * and must not call the window from there. */
struct window_watch {
    void (*returned)(struct window_watch *watch, uint64_t offset); /* is available again */
    void (*resolved)(struct window_watch *watch, uint64_t from, uint64_t to); /* are done now */
    void (*restarted)(struct window_watch *watch); /* window_restart: nothing is as it was */
};
void window_set_watch(struct window *window, struct window_watch *watch); /* NULL: no more */

/* Durable state. window_changes writes what changed since the last call as run-length deltas
 * (appended to row): base, done ranges above it, failure counts, delays; leases are not stored. Its
 * changes count as being written until window_committed says that they are stored, which makes the
 * failed offsets among them available again, or spent; one such row at a time. snapshot writes
 * everything. apply restores either onto a fresh window, snapshot first, then deltas in order;
 * MALFORMED leaves it undefined, UNSUPPORTED is a newer version. */
bool window_has_changes(const struct window *window);
bool window_waits_for_row(const struct window *window); /* failed offsets are among them */
enum status window_changes(struct window *window, struct buf *row);
void window_committed(struct window *window);
enum status window_snapshot(const struct window *window, struct buf *row);
enum status window_apply(struct window *window, struct span row);
/* After the rows: an offset that a row of its own says is done. */
void window_apply_moved(struct window *window, uint64_t offset);
/* Likewise: what was settled in a way that the rows may say or not. failures are all it has had,
 * in the form of window_failures_stored(); due_ms 0: it waits for nothing. */
void window_apply_done(struct window *window, uint64_t offset);
void window_apply_failed(struct window *window, uint64_t offset, uint32_t failures, int64_t due_ms);
/* What window_settle() of a leased offset will make of its failures. */
uint32_t window_failures_stored(const struct window *window, uint64_t offset,
                                enum window_outcome outcome);

#endif
