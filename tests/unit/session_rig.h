/* SPDX-License-Identifier: Apache-2.0 */
/* For tests of stored sessions: a wall clock that can be moved, rows, and the way to a session. */
#ifndef TESTS_UNIT_SESSION_RIG_H
#define TESTS_UNIT_SESSION_RIG_H

#include <time.h>

#include "core/base/clock.h"
#include "core/broker/session_rows.h"
#include "core/log/table.h"
#include "tests/unit/broker_rig.h"

static _Atomic int64_t clock_ahead_ms; /* of the wall clock */

static inline uint64_t real_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static inline int64_t moved_ms(void)
{
    return 1700000000000 + (int64_t)(real_ns() / 1000000) + atomic_load(&clock_ahead_ms);
}

static const struct clock_source moved_clock = {real_ns, moved_ms};

/* ------------------------------------------------ the store */

struct rows_call {
    struct storage_scan scan;
    atomic_bool done;
};

static inline void rows_call_done(struct request *request, enum status status)
{
    struct rows_call *call = container_of(request, struct rows_call, scan.request);
    CHECK(status == STATUS_OK);
    blob_unref(call->scan.rows);
    atomic_store(&call->done, true);
}

static inline uint32_t rows_of(enum table table)
{
    uint8_t first = (uint8_t)table, end = (uint8_t)(table + 1);
    struct rows_call call = {.scan = {.first = span_of(&first, 1), .end = span_of(&end, 1)}};
    request_init(&call.scan.request, rig.loops[0], rows_call_done);
    rig.storage->ops->scan(rig.storage, &call.scan);
    rig_await(&call.done);
    return call.scan.count;
}

struct write_call {
    struct storage_append append;
    atomic_bool done;
};

static inline void write_call_done(struct request *request, enum status status)
{
    struct write_call *call = container_of(request, struct write_call, append.request);
    CHECK(status == STATUS_OK);
    atomic_store(&call->done, true);
}

static inline void put_row(struct span key, struct span value)
{
    struct storage_row row = {.change = STORAGE_PUT, .key = key, .value = value, .offset_at = -1};
    struct write_call call = {.append = {.rows = &row, .row_count = 1}};
    request_init(&call.append.request, rig.loops[0], write_call_done);
    rig.storage->ops->append(rig.storage, &call.append);
    rig_await(&call.done);
}

/* ------------------------------------------------ sessions */

static inline void put_session(const char *name, const struct session_name_row *row)
{
    uint8_t key[SESSION_KEY], shapes[2] = {TABLE_FILTER_META, 'k'}, hash[16] = {1};
    struct session_name of = session_name_of(TENANT_DEFAULT, span_from_text(name));
    struct session_name_row named = *row;
    struct buf value;
    buf_init(&value, 4096);
    named.name = span_from_text(name);
    assert_int_equal(session_name_encode(&named, &value), STATUS_OK);
    session_key(&of, key);
    put_row(span_of(key, sizeof key), buf_span(&value));
    put_row(span_of(shapes, sizeof shapes), span_of(hash, sizeof hash)); /* there are sessions */
    buf_deinit(&value);
}

#endif
