/* SPDX-License-Identifier: Apache-2.0 */
/* The first key of a partition says that it has rows; the next scan begins behind them all. */
#include "core/broker/row_walk.h"

#include "core/base/pack.h"
#include "core/broker/worker.h"

static void next(struct row_walk *walk, uint64_t partition);

static void scanned(struct request *request, enum status status)
{
    struct row_walk *walk = container_of(request, struct row_walk, scan.request);
    struct broker_worker *worker = walk->worker;
    size_t position = 0;
    struct span key, value;
    bool found = status == STATUS_OK && storage_scan_next(&walk->scan, &position, &key, &value) &&
                 key.size >= sizeof walk->scan_first;
    uint64_t partition = found ? load_u64(key.data + 1) : 0;
    if (status == STATUS_OK)
        blob_unref(walk->scan.rows);
    if (found && !worker->ending)
        walk->found(worker, partition);
    if (found && !worker->ending && partition < UINT64_MAX) {
        next(walk, partition + 1);
        return;
    }
    walk->running = false;
    if (walk->end != NULL)
        walk->end(worker);
}

static void next(struct row_walk *walk, uint64_t partition)
{
    walk->scan_first[0] = (uint8_t)walk->table;
    store_u64(walk->scan_first + 1, partition);
    walk->scan_end[0] = (uint8_t)(walk->table + 1);
    walk->scan = (struct storage_scan){
        .first = span_of(walk->scan_first, sizeof walk->scan_first),
        .end = span_of(walk->scan_end, sizeof walk->scan_end),
        .limit = 1,
    };
    request_init(&walk->scan.request, walk->worker->loop, scanned);
    log_rows_scan(walk->worker->broker->log, &walk->scan);
}

void row_walk_start(struct row_walk *walk, struct broker_worker *worker)
{
    walk->worker = worker;
    walk->running = true;
    next(walk, 0);
}
