/* SPDX-License-Identifier: Apache-2.0 */
/* The sweep's part that removes filters' index rows which nobody can need any more: those of
 * records that are gone, and of filters that no session holds. A second at a time. */
#include "core/broker/session_sweep.h"

#include "core/base/pack.h"
#include "core/log/table.h"

enum { CLEAN_ROUNDS = 600, PAGE = 256 }; /* of due sessions; of rows */

static void next_filter(struct session_sweep *sweep);

void sweep_clean_rest(struct session_sweep *sweep)
{
    sweep->cleaning = false;
    sweep->clean_ms =
        loop_now_ms(sweep->worker->loop) + CLEAN_ROUNDS * broker_sweep_ms(sweep->worker->broker);
}

/* Can no reader find it any more? A batch is as long as LIMIT_BATCH_RECORDS at most. */
static bool is_dead(const struct broker_worker *worker, const struct filter_row *row)
{
    const struct queue *queue = catalog_queue_of_partition(worker->catalog, row->partition);
    if (queue == NULL)
        return true;
    const struct partition_stat *stat =
        &queue->stat->partitions[row->partition - queue->first_partition];
    uint64_t start = atomic_load(&stat->start);
    return row->base + LIMIT_BATCH_RECORDS <= start ||
           (row->base < start && start == atomic_load(&stat->end));
}

static void filter_cleaned(struct sweep_hand *own, enum status status)
{
    struct session_sweep *sweep = own->sweep;
    if (status != STATUS_OK)
        sweep_pause(sweep);
    else
        next_filter(sweep);
}

/* Everything of the filter up to there: rows that come later belong to whoever came later. */
static void clean_upto(struct session_sweep *sweep, uint64_t commit)
{
    struct sweep_hand *own = &sweep->own;
    filter_index_key(sweep->filter, 0, own->keys[0]);
    filter_index_key(sweep->filter, commit + 1, own->keys[1]);
    own->rows[0] = sweep_row(STORAGE_DELETE_RANGE, span_of(own->keys[0], FILTER_INDEX_KEY),
                             span_of(own->keys[1], FILTER_INDEX_KEY));
    sweep_write(own, 1, filter_cleaned);
}

static void holder_scanned(struct sweep_hand *own, enum status status)
{
    struct session_sweep *sweep = own->sweep;
    bool held = status != STATUS_OK || own->scan.count > 0;
    if (status == STATUS_OK)
        blob_unref(own->scan.rows);
    if (held) {
        sweep->finished = true;
        next_filter(sweep);
    } else {
        sweep->finished = false;
        clean_upto(sweep, sweep->upto);
    }
}

static void filter_scanned(struct sweep_hand *own, enum status status)
{
    struct session_sweep *sweep = own->sweep;
    struct span key, value;
    struct filter_row row;
    uint64_t dead = 0;
    size_t at = 0;
    bool any = false, alive = false;
    while (status == STATUS_OK && !alive && storage_scan_next(&own->scan, &at, &key, &value)) {
        uint64_t filter = key.size == FILTER_INDEX_KEY ? load_u64(key.data + 1) : 0;
        if (any && filter != sweep->filter)
            break;
        any = true;
        sweep->filter = filter;
        sweep->upto = load_u64(key.data + 9);
        if (filter_row_decode(key, value, &row) && is_dead(sweep->worker, &row))
            dead = row.commit;
        else
            alive = true;
    }
    if (status == STATUS_OK)
        blob_unref(own->scan.rows);
    if (status != STATUS_OK || !any || sweep->closed) {
        sweep_clean_rest(sweep);
        sweep_pause(sweep);
    } else if (dead != 0) {
        sweep->finished = alive;
        clean_upto(sweep, dead);
    } else {
        filter_holder_key(sweep->filter, 0, own->first);
        filter_holder_key(sweep->filter, UINT64_MAX, own->end);
        sweep_scan(own, FILTER_HOLDER_KEY, FILTER_HOLDER_KEY, 1, holder_scanned);
    }
}

/* In the turn after this one: the clean goes on behind it. */
static void look_at_due(struct session_sweep *sweep)
{
    if (!sweep->closed)
        loop_timer_start(sweep->worker->loop, &sweep->timer, 0);
}

/* The one in hand once more, or the next that has rows. */
static void next_filter(struct session_sweep *sweep)
{
    if (sweep->finished && sweep->filter == UINT64_MAX) {
        sweep_clean_rest(sweep);
        sweep_pause(sweep);
        return;
    }
    if (sweep->closed || loop_now_ms(sweep->worker->loop) >= sweep->yields_ms) {
        look_at_due(sweep);
        return;
    }
    struct sweep_hand *own = &sweep->own;
    filter_index_key(sweep->filter + sweep->finished, 0, own->first);
    sweep->finished = false;
    own->end[0] = TABLE_FILTER_INDEX + 1;
    sweep_scan(own, FILTER_INDEX_KEY, 1, PAGE, filter_scanned);
}

void sweep_clean_when_due(struct session_sweep *sweep)
{
    if (sweep->cleaning || loop_now_ms(sweep->worker->loop) < sweep->clean_ms)
        return;
    sweep->cleaning = true;
    sweep->filter = 0;
    sweep->finished = false;
}

void sweep_clean_some(struct session_sweep *sweep)
{
    sweep->yields_ms = loop_now_ms(sweep->worker->loop) + broker_sweep_ms(sweep->worker->broker);
    next_filter(sweep);
}
