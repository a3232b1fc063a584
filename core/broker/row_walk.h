/* SPDX-License-Identifier: Apache-2.0 */
/* Which partitions have rows in a table whose keys begin with one (table, partition): looked up at
 * start, so that what waits there is taken up, and what a deleted queue has left goes. Internal to
 * core/broker. */
#ifndef CORE_BROKER_ROW_WALK_H
#define CORE_BROKER_ROW_WALK_H

#include "core/log/log.h"
#include "core/log/table.h"

struct broker_worker;

struct row_walk {
    enum table table;
    void (*found)(struct broker_worker *worker, uint64_t partition); /* in order, each once */
    void (*end)(struct broker_worker *worker); /* after the last; NULL: nothing to do */
    bool running;
    /* Below: its own. */
    struct broker_worker *worker;
    struct storage_scan scan;
    uint8_t scan_first[9], scan_end[1];
};

/* Fields of the first group are set. Ends early when the worker does. */
void row_walk_start(struct row_walk *walk, struct broker_worker *worker);

#endif
