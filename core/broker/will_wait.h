/* SPDX-License-Identifier: Apache-2.0 */
/* Wills that are no part of a session that is kept, as rows of TABLE_WILL:
 *
 *   'h', run, number -> of a client that is there and of which nothing else is kept. Written soon
 *                       after the attach and deleted soon after its end, without a sync of its own,
 *                       several at once: one that comes and goes quickly costs no row. What a crash
 *                       leaves behind is of another run, and published at the next start.
 *   'w', due, number -> refused for a while: tried again then, some times.
 *
 * A will that was published less than HOLD_MS before a crash may be published once more, and one
 * that was handed in so shortly before it may be lost. Internal to core/broker. */
#ifndef CORE_BROKER_WILL_WAIT_H
#define CORE_BROKER_WILL_WAIT_H

#include "core/base/list.h"
#include "core/broker/will.h"
#include "core/net/loop.h"

struct broker;
struct broker_worker;
struct held_will;
struct will_later;

/* One worker's part. */
struct wills {
    struct list fresh; /* held, not written yet */
    uint64_t *over;    /* numbers of those whose rows are to go */
    uint32_t over_count, over_capacity;
    uint64_t number; /* of the last one held here */
    struct loop_timer timer;
};

void wills_init(struct broker_worker *worker);
void wills_deinit(struct broker_worker *worker);
bool wills_are_busy(const struct broker_worker *worker);

/* client_id and row are borrowed for the call. */
struct held_will *will_hold(struct broker_worker *worker, uint64_t tenant, struct span client_id,
                            struct span row);
void will_let_go(struct broker_worker *worker, struct held_will *held); /* NULL is fine */

/* Makes it a row that is due a little later; say->request completes when that is durable, or
 * refused. Then the caller frees what it gave back. */
struct will_later *will_later(struct will_say *say);
void will_later_free(struct will_later *later);
void will_drop(struct broker_worker *worker, struct span client_id, const char *why);
void will_drop_late(struct broker_worker *worker, struct span client_id); /* its client is back */

/* will_sweep.c, on worker 0: wills of other runs once, those that are due now and then. */
void will_sweep_start(struct broker_worker *worker); /* when it is ready */
void will_sweep_stop(struct broker_worker *worker);
void will_sweep_free(struct broker *broker);
/* How long one waits that has been refused so often: 1 s, 2 s, 4 s...; 0: it has had its chances.
 */
uint64_t will_patience_ms(uint32_t tries);

#endif
