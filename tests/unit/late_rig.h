/* SPDX-License-Identifier: Apache-2.0 */
/* A broker over a store whose answers come late, or are refusals: for tests of sessions. */
#ifndef TESTS_UNIT_LATE_RIG_H
#define TESTS_UNIT_LATE_RIG_H

#include <pthread.h>

#include "tests/unit/session_rig.h"

/* What is kept waiting: reads of records, scans of one table, appends of records; or the latter are
 * refused, and so many reads. */
enum { WAITING_MAX = 64, NO_SWEEP_MS = 1000000 };

static struct {
    struct storage *inner;
    pthread_mutex_t lock;
    bool reads_wait;
    uint8_t table_waits;
    struct storage_read *reads[WAITING_MAX];
    struct storage_scan *scans[WAITING_MAX];
    struct storage_append *appends[WAITING_MAX];
    uint32_t read_count, scan_count, append_count;
    bool appends_wait, rows_wait;          /* of records; of rows alone */
    uint32_t read_refusals, refused_reads; /* to come; so far */
    enum status read_refused;
    enum status refused;      /* OK: they are not */
    enum status rows_refused; /* appends of rows alone */
    atomic_uint row_writes, record_writes;
} late = {.lock = PTHREAD_MUTEX_INITIALIZER};

static inline void late_read(struct storage *storage, struct storage_read *read)
{
    (void)storage;
    pthread_mutex_lock(&late.lock);
    bool waits = late.reads_wait;
    bool refused = late.read_refusals > 0;
    late.read_refusals -= refused;
    late.refused_reads += refused;
    if (waits) {
        CHECK(late.read_count < WAITING_MAX);
        late.reads[late.read_count++] = read;
    }
    pthread_mutex_unlock(&late.lock);
    if (refused)
        request_complete(&read->request, late.read_refused);
    else if (!waits)
        memory_storage_ops.read(late.inner, read);
}

static inline void late_scan(struct storage *storage, struct storage_scan *scan)
{
    (void)storage;
    pthread_mutex_lock(&late.lock);
    bool waits = late.table_waits != 0 && scan->first.data[0] == late.table_waits;
    if (waits) {
        CHECK(late.scan_count < WAITING_MAX);
        late.scans[late.scan_count++] = scan;
    }
    pthread_mutex_unlock(&late.lock);
    if (!waits)
        memory_storage_ops.scan(late.inner, scan);
}

static inline void late_append(struct storage *storage, struct storage_append *append)
{
    (void)storage;
    pthread_mutex_lock(&late.lock);
    bool records = append->batch_count > 0;
    bool waits = records ? late.appends_wait : late.rows_wait;
    enum status refused = records ? late.refused : late.rows_refused;
    if (waits) {
        CHECK(late.append_count < WAITING_MAX);
        late.appends[late.append_count++] = append;
    }
    pthread_mutex_unlock(&late.lock);
    atomic_fetch_add(records ? &late.record_writes : &late.row_writes, 1);
    if (refused != STATUS_OK)
        request_complete(&append->request, refused);
    else if (!waits)
        memory_storage_ops.append(late.inner, append);
}

static inline void let_appends_wait(void)
{
    pthread_mutex_lock(&late.lock);
    late.appends_wait = true;
    pthread_mutex_unlock(&late.lock);
}

static inline void appends_go_on(void)
{
    pthread_mutex_lock(&late.lock);
    late.appends_wait = false;
    for (uint32_t i = 0; i < late.append_count; i++)
        memory_storage_ops.append(late.inner, late.appends[i]);
    late.append_count = 0;
    pthread_mutex_unlock(&late.lock);
}

static inline void let_rows_wait(void)
{
    pthread_mutex_lock(&late.lock);
    late.rows_wait = true;
    pthread_mutex_unlock(&late.lock);
}

/* What waits is stored or, unless OK, refused. */
static inline void rows_go_on(enum status status)
{
    pthread_mutex_lock(&late.lock);
    late.rows_wait = false;
    for (uint32_t i = 0; i < late.append_count && status == STATUS_OK; i++)
        memory_storage_ops.append(late.inner, late.appends[i]);
    for (uint32_t i = 0; i < late.append_count && status != STATUS_OK; i++)
        request_complete(&late.appends[i]->request, status);
    late.append_count = 0;
    pthread_mutex_unlock(&late.lock);
}

static inline void refuse_appends(enum status status)
{
    pthread_mutex_lock(&late.lock);
    late.refused = status;
    pthread_mutex_unlock(&late.lock);
}

static inline void refuse_rows(enum status status)
{
    pthread_mutex_lock(&late.lock);
    late.rows_refused = status;
    pthread_mutex_unlock(&late.lock);
}

static inline void let_reads_wait(void)
{
    pthread_mutex_lock(&late.lock);
    late.reads_wait = true;
    pthread_mutex_unlock(&late.lock);
}

static inline void refuse_reads(enum status status, uint32_t count)
{
    pthread_mutex_lock(&late.lock);
    late.read_refused = status;
    late.read_refusals = count;
    late.refused_reads = 0;
    pthread_mutex_unlock(&late.lock);
}

static inline void let_scans_wait(enum table table)
{
    pthread_mutex_lock(&late.lock);
    late.table_waits = (uint8_t)table;
    pthread_mutex_unlock(&late.lock);
}

static inline void reads_go_on(void)
{
    pthread_mutex_lock(&late.lock);
    late.reads_wait = false;
    for (uint32_t i = 0; i < late.read_count; i++)
        memory_storage_ops.read(late.inner, late.reads[i]);
    late.read_count = 0;
    pthread_mutex_unlock(&late.lock);
}

static inline void scans_go_on(void)
{
    pthread_mutex_lock(&late.lock);
    late.table_waits = 0;
    for (uint32_t i = 0; i < late.scan_count; i++)
        memory_storage_ops.scan(late.inner, late.scans[i]);
    late.scan_count = 0;
    pthread_mutex_unlock(&late.lock);
}

static inline uint32_t waiting(const uint32_t *count)
{
    pthread_mutex_lock(&late.lock);
    uint32_t found = *count;
    pthread_mutex_unlock(&late.lock);
    return found;
}

#define PASS_ON(name, type)                                                                        \
    static void pass_##name(struct storage *storage, struct type *call)                            \
    {                                                                                              \
        (void)storage;                                                                             \
        memory_storage_ops.name(late.inner, call);                                                 \
    }
PASS_ON(trim, storage_trim)
PASS_ON(floor, storage_floor)
PASS_ON(bounds, storage_bounds)

static inline enum status pass_health(struct storage *storage)
{
    (void)storage;
    return memory_storage_ops.health(late.inner);
}

static inline void pass_close(struct storage *storage)
{
    (void)storage;
    memory_storage_ops.close(late.inner);
}

static const struct storage_ops late_ops = {
    .name = "late",
    .can = STORAGE_ATOMIC_ROWS,
    .append = late_append,
    .read = late_read,
    .scan = late_scan,
    .trim = pass_trim,
    .floor = pass_floor,
    .bounds = pass_bounds,
    .close = pass_close,
    .health = pass_health,
};
static struct storage late_storage = {.ops = &late_ops};

static inline void restart(uint32_t sweep_ms)
{
    broker_fall();
    broker_bury();
    rig.options.sweep_ms = sweep_ms;
    broker_rise(rig.count);
}

static inline void late_rig_open(unsigned workers)
{
    clock_use(&moved_clock);
    rig_open(workers);
    broker_fall();
    broker_bury();
    late.inner = rig.storage;
    rig.storage = &late_storage;
    broker_rise(workers);
}

static inline void late_rig_close(void)
{
    rig_close();
    clock_use(NULL);
}

#endif
