/* SPDX-License-Identifier: Apache-2.0 */
/* For tests of durable shares: a store some of whose calls are refused, wait or are answered late,
 * and members that have a session. */
#ifndef TESTS_UNIT_SHARE_RIG_H
#define TESTS_UNIT_SHARE_RIG_H

#include <pthread.h>

#include "core/base/pack.h"
#include "core/broker/share_rows.h"
#include "tests/unit/session_rig.h"

/* ------------------------------------------------ the store */

/* The memory engine, some of whose writes are refused or wait, and scans of one table as well. */
enum { WAITING_MAX = 8 };

typedef bool picks(const struct storage_append *append);

static struct {
    struct storage *inner;
    pthread_mutex_t lock;
    picks *refused, *held;
    uint8_t table_waits;
    bool reads_wait;
    struct storage_append *appends[WAITING_MAX];
    struct storage_scan *scans[WAITING_MAX];
    struct storage_read *reads[WAITING_MAX];
    uint32_t append_count, scan_count, read_count, refused_count;
    picks *late; /* one that is done, and not answered */
    struct storage_append *late_append;
    void (*late_done)(struct request *request, enum status status);
    uint32_t late_count, position_count;
    uint64_t state_bytes;             /* of rows of sessions that were written, keys too */
    uint32_t looks;                   /* at what is due of sessions */
    uint32_t looks_first, looks_last; /* before the first and the last look at rows of filters */
} store = {.lock = PTHREAD_MUTEX_INITIALIZER};

static inline bool has_row(const struct storage_append *append, enum storage_change change,
                           enum table table, uint8_t kind)
{
    for (uint32_t i = 0; i < append->row_count; i++) {
        const struct storage_row *row = &append->rows[i];
        if (row->change == change && row->key.data[0] == table &&
            (kind == 0 || row->key.data[9] == kind))
            return true;
    }
    return false;
}

/* Positions of sessions that answer for nothing: of the share. */
static inline bool is_position(const struct storage_append *append)
{
    return has_row(append, STORAGE_PUT, TABLE_SESSION_STATE, SESSION_KIND_POSITION) &&
           !has_row(append, STORAGE_PUT, TABLE_SHARE, SHARE_KIND_GONE);
}

static inline uint64_t state_bytes_of(const struct storage_append *append)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < append->row_count; i++)
        if (append->rows[i].key.data[0] == TABLE_SESSION_STATE)
            bytes += append->rows[i].key.size + append->rows[i].value.size;
    return bytes;
}

static inline void late_done(struct request *request, enum status status)
{
    (void)request;
    CHECK(status == STATUS_OK);
    pthread_mutex_lock(&store.lock);
    store.late_count++;
    pthread_mutex_unlock(&store.lock);
}

static inline void store_append(struct storage *storage, struct storage_append *append)
{
    (void)storage;
    pthread_mutex_lock(&store.lock);
    bool refused = store.refused != NULL && store.refused(append);
    bool held = !refused && store.held != NULL && store.held(append);
    store.refused_count += refused;
    store.position_count += !refused && is_position(append);
    store.state_bytes += refused ? 0 : state_bytes_of(append);
    if (!refused && store.late != NULL && store.late(append)) {
        CHECK(store.late_append == NULL);
        store.late_append = append;
        store.late_done = append->request.done;
        append->request.done = late_done;
    }
    if (held) {
        CHECK(store.append_count < WAITING_MAX);
        store.appends[store.append_count++] = append;
    }
    pthread_mutex_unlock(&store.lock);
    if (refused)
        request_complete(&append->request, STATUS_NO_SPACE);
    else if (!held)
        memory_storage_ops.append(store.inner, append);
}

static inline void store_scan(struct storage *storage, struct storage_scan *scan)
{
    (void)storage;
    pthread_mutex_lock(&store.lock);
    store.looks += scan->first.data[0] == TABLE_SESSION_DUE;
    if (scan->first.data[0] == TABLE_FILTER_INDEX && scan->first.size == FILTER_INDEX_KEY) {
        store.looks_last = store.looks;
        if (store.looks_first == 0)
            store.looks_first = store.looks;
    }
    bool held = store.table_waits != 0 && scan->first.data[0] == store.table_waits;
    if (held) {
        CHECK(store.scan_count < WAITING_MAX);
        store.scans[store.scan_count++] = scan;
    }
    pthread_mutex_unlock(&store.lock);
    if (!held)
        memory_storage_ops.scan(store.inner, scan);
}

static inline void store_read(struct storage *storage, struct storage_read *read)
{
    (void)storage;
    pthread_mutex_lock(&store.lock);
    bool held = store.reads_wait;
    if (held) {
        CHECK(store.read_count < WAITING_MAX);
        store.reads[store.read_count++] = read;
    }
    pthread_mutex_unlock(&store.lock);
    if (!held)
        memory_storage_ops.read(store.inner, read);
}

#define PASS_ON(name, type)                                                                        \
    static inline void pass_##name(struct storage *storage, struct type *call)                     \
    {                                                                                              \
        (void)storage;                                                                             \
        memory_storage_ops.name(store.inner, call);                                                \
    }
PASS_ON(trim, storage_trim)
PASS_ON(floor, storage_floor)
PASS_ON(bounds, storage_bounds)

static inline enum status pass_health(struct storage *storage)
{
    (void)storage;
    return memory_storage_ops.health(store.inner);
}

static inline void pass_close(struct storage *storage)
{
    (void)storage;
    memory_storage_ops.close(store.inner);
}

static const struct storage_ops store_ops = {
    .name = "refusing",
    .can = STORAGE_ATOMIC_ROWS,
    .append = store_append,
    .read = store_read,
    .scan = store_scan,
    .trim = pass_trim,
    .floor = pass_floor,
    .bounds = pass_bounds,
    .close = pass_close,
    .health = pass_health,
};
static struct storage refusing_storage = {.ops = &store_ops};

static inline void store_set(picks *refused, picks *held, uint8_t table_waits)
{
    pthread_mutex_lock(&store.lock);
    store.refused = refused;
    store.held = held;
    store.table_waits = table_waits;
    store.refused_count = 0;
    pthread_mutex_unlock(&store.lock);
}

static inline void store_goes_on(void)
{
    store_set(NULL, NULL, 0);
    for (uint32_t i = 0; i < store.append_count; i++)
        memory_storage_ops.append(store.inner, store.appends[i]);
    for (uint32_t i = 0; i < store.scan_count; i++)
        memory_storage_ops.scan(store.inner, store.scans[i]);
    store.append_count = store.scan_count = 0;
}

static inline void store_reads_wait(bool wait)
{
    pthread_mutex_lock(&store.lock);
    store.reads_wait = wait;
    pthread_mutex_unlock(&store.lock);
    for (uint32_t i = 0; i < store.read_count && !wait; i++)
        memory_storage_ops.read(store.inner, store.reads[i]);
    store.read_count = wait ? store.read_count : 0;
}

/* Scans that wait do, and such writes wait from now on. */
static inline void store_scans_go_on(picks *held)
{
    store_set(NULL, held, 0);
    for (uint32_t i = 0; i < store.scan_count; i++)
        memory_storage_ops.scan(store.inner, store.scans[i]);
    store.scan_count = 0;
}

/* They do, and those of another table wait from now on. */
static inline void store_scans_wait_next(uint8_t table)
{
    struct storage_scan *scans[WAITING_MAX];
    uint32_t count = store.scan_count;
    memcpy(scans, store.scans, sizeof scans);
    store.scan_count = 0;
    store_set(NULL, NULL, table);
    for (uint32_t i = 0; i < count; i++)
        memory_storage_ops.scan(store.inner, scans[i]);
}

/* The one that waits does, and others wait from now on. */
static inline void store_holds_next(picks *held)
{
    struct storage_append *append = store.appends[0];
    CHECK(store.append_count == 1);
    store.append_count = 0;
    store_set(NULL, held, 0);
    memory_storage_ops.append(store.inner, append);
}

static inline void store_refuses_waiting(enum status why)
{
    store_set(NULL, NULL, 0);
    for (uint32_t i = 0; i < store.append_count; i++)
        request_complete(&store.appends[i]->request, why);
    store.append_count = 0;
}

static inline uint32_t count_of(const uint32_t *count)
{
    pthread_mutex_lock(&store.lock);
    uint32_t found = *count;
    pthread_mutex_unlock(&store.lock);
    return found;
}

static inline void store_answers_late(picks *late)
{
    pthread_mutex_lock(&store.lock);
    store.late = late;
    store.late_count = 0;
    pthread_mutex_unlock(&store.lock);
}

static inline void answer_run(void *context)
{
    struct storage_append *append = context;
    append->request.done = store.late_done;
    append->request.done(&append->request, STATUS_OK);
}

static inline void store_answers(void)
{
    struct storage_append *append = store.late_append;
    store_answers_late(NULL);
    store.late_append = NULL;
    on(0, answer_run, append);
}

static inline void kept_rig_open(unsigned workers, uint32_t sweep_ms)
{
    clock_use(&moved_clock);
    rig_open(workers);
    broker_fall();
    broker_bury();
    store.inner = rig.storage;
    rig.storage = &refusing_storage;
    rig.options.sweep_ms = sweep_ms;
    broker_rise(workers);
}

static inline void kept_rig_close(void)
{
    rig_close();
    rig.options.sweep_ms = 0;
    clock_use(NULL);
}

static inline void change_row(enum storage_change change, struct span key)
{
    struct storage_row row = {
        .change = change, .key = key, .value = span_from_text("\1"), .offset_at = -1};
    struct write_call call = {.append = {.rows = &row, .row_count = 1}};
    request_init(&call.append.request, rig.loops[0], write_call_done);
    memory_storage_ops.append(store.inner, &call.append);
    rig_await(&call.done);
}

/* With what number the key of the first row begins. */
struct found_call {
    struct storage_scan scan;
    atomic_bool done;
    uint64_t number;
};

static inline void found_done(struct request *request, enum status status)
{
    struct found_call *call = container_of(request, struct found_call, scan.request);
    struct span key, value;
    size_t at = 0;
    CHECK(status == STATUS_OK && storage_scan_next(&call->scan, &at, &key, &value));
    call->number = load_u64(key.data + 1);
    blob_unref(call->scan.rows);
    atomic_store(&call->done, true);
}

static inline uint64_t first_number(enum table table)
{
    uint8_t first = (uint8_t)table, end = (uint8_t)(table + 1);
    struct found_call call = {.scan = {.first = span_of(&first, 1), .end = span_of(&end, 1)}};
    request_init(&call.scan.request, rig.loops[0], found_done);
    rig.storage->ops->scan(rig.storage, &call.scan);
    rig_await(&call.done);
    return call.number;
}

/* ------------------------------------------------ members */

static inline enum status join_named(struct peer *peer, const char *share)
{
    return peer_subscribe_item(peer, (struct subscribe_item){.filter = span_from_text("t"),
                                                             .share = span_from_text(share),
                                                             .guarantee = GUARANTEE_AT_LEAST_ONCE});
}

static inline enum status join_exactly(struct peer *peer)
{
    return peer_subscribe_item(peer, (struct subscribe_item){.filter = span_from_text("t"),
                                                             .share = span_from_text("g"),
                                                             .guarantee = GUARANTEE_EXACTLY_ONCE});
}

static inline enum status share_join(struct peer *peer)
{
    return join_named(peer, "g");
}

static inline void share_leave_run(void *context)
{
    struct peer *peer = context;
    CHECK(broker_unsubscribe_shared(&peer->client, span_from_text("g"), span_from_text("t")) ==
          STATUS_OK);
}

static inline void share_leave(struct peer *peer)
{
    on(peer->worker, share_leave_run, peer);
}

/* As adapters do it: it has its place before it begins. */
static inline struct peer *member(unsigned worker, const char *id)
{
    struct peer *peer = peer_new(worker, id);
    const struct broker_attach attach = {.expiry_s = UINT32_MAX};
    bool present;
    assert_int_equal(session_find(peer, attach, &present), STATUS_OK);
    assert_int_equal(share_join(peer), STATUS_OK);
    on(peer->worker, session_begin_run, peer);
    return peer;
}

static inline void end_run(void *context)
{
    broker_session_expiry(&((struct peer *)context)->client, 0);
}

static inline void session_over(struct peer *peer)
{
    on(peer->worker, end_run, peer);
    peer_close(peer);
}

#endif
