/* SPDX-License-Identifier: Apache-2.0 */
/* Appends on every engine: offsets, epochs, rows that go with them, units of several parts, and
 * several owners at once. */
#include "tests/storage/fixture.h"

#include <pthread.h>

#include "core/base/pack.h"
#include "core/net/loop.h"

static void offsets_are_contiguous(void **state)
{
    struct fixture *fixture = *state;
    uint64_t next = 0;
    for (uint32_t i = 1; i <= 20; i++) {
        assert_int_equal(append_one(fixture, 7, i, 100, i), next);
        next += i;
    }
    assert_int_equal(append_one(fixture, 8, 1, 100, 0), 0);
    struct storage_bounds bounds = bounds_of(fixture, 7);
    assert_int_equal(bounds.start, 0);
    assert_int_equal(bounds.end, next);
    assert_int_equal(bounds.bytes, 20 * (OVERHEAD + 100));
    assert_int_equal(bounds.cumulative_bytes, bounds.bytes);
    assert_true(bounds.first_time_ms > 0 && bounds.first_time_ms <= bounds.last_time_ms);
    assert_int_equal(bounds_of(fixture, 99).end, 0);
}

static void appends_complete_in_order(void **state)
{
    struct fixture *fixture = *state;
    struct op *ops[300];
    for (unsigned i = 0; i < 300; i++) {
        ops[i] = op_new(fixture);
        op_batch(ops[i], i % 3, 2, 50, i);
        if (i % 5 == 0)
            ops[i]->batches[0].durability = DURABLE_INTERVAL;
    }
    for (unsigned i = 0; i < 300; i++)
        op_start(fixture, ops[i]);
    wait_all(fixture);
    for (unsigned i = 0; i < 300; i++) {
        assert_int_equal(ops[i]->append.request.status, STATUS_OK);
        assert_int_equal(ops[i]->batches[0].base_offset, i / 3 * 2);
        if (i >= 3) {
            assert_true(ops[i]->finished > ops[i - 3]->finished);
            assert_true(ops[i]->append.commit > ops[i - 3]->append.commit);
        }
    }
    for (unsigned i = 0; i < 300; i++)
        op_free(ops[i]);
}

static void the_engine_writes_offset_and_epoch(void **state)
{
    struct fixture *fixture = *state;
    append_one(fixture, 1, 41, 10, 1);
    struct op *op = op_new(fixture);
    op_batch(op, 1, 2, 10, 2);
    memset(op->batches[0].bytes->bytes, 0xee, 8);
    memset(op->batches[0].bytes->bytes + 12, 0xee, 4);
    assert_int_equal(op_run(fixture, op), STATUS_OK);
    assert_int_equal(load_u64(op->batches[0].bytes->bytes), 41);
    assert_int_equal(load_u32(op->batches[0].bytes->bytes + 12), 0);
    assert_true(batch_is(blob_span(op->batches[0].bytes), 2, 10, 2));
    op_free(op);
    struct storage_read read;
    read_init(fixture, &read, 1, 42);
    assert_int_equal(read_run(fixture, &read), STATUS_OK);
    assert_int_equal(read.count, 1);
    assert_int_equal(load_u64(read.batches[0].bytes->bytes), 41);
    assert_int_equal(read.batches[0].principal, 2);
    assert_int_equal(read.batches[0].flags, STORAGE_BATCH_OURS);
    read_release(&read);
}

static void footers_come_back(void **state)
{
    struct fixture *fixture = *state;
    static const uint8_t footer[] = {1, 2, 0, 0xff, 7};
    struct op *op = op_new(fixture);
    op_batch(op, 1, 2, 10, 1);
    op_batch(op, 1, 1, 10, 2);
    op->batches[0].footer = span_of(footer, sizeof footer);
    op->batches[1].flags |= STORAGE_BATCH_UNLABELLED;
    assert_int_equal(op_run(fixture, op), STATUS_OK);
    op_free(op);
    assert_int_equal(bounds_of(fixture, 1).bytes, 2 * (OVERHEAD + 10) + sizeof footer);
    if (fixture_keeps(fixture))
        fixture_reopen(fixture);
    struct storage_read read;
    read_init(fixture, &read, 1, 0);
    assert_int_equal(read_run(fixture, &read), STATUS_OK);
    assert_int_equal(read.count, 2);
    assert_true(batch_is(blob_span(read.batches[0].bytes), 2, 10, 1));
    assert_true(span_equal(read.batches[0].footer, span_of(footer, sizeof footer)));
    assert_true(read.batches[0].footer.data ==
                read.batches[0].bytes->bytes + read.batches[0].bytes->size);
    assert_int_equal(read.batches[0].flags, STORAGE_BATCH_OURS);
    assert_int_equal(read.batches[1].footer.size, 0);
    assert_int_equal(read.batches[1].flags, STORAGE_BATCH_OURS | STORAGE_BATCH_UNLABELLED);
    read_release(&read);
}

static void rows_and_batches_go_together(void **state)
{
    struct fixture *fixture = *state;
    append_one(fixture, 1, 5, 10, 1);
    struct op *op = op_new(fixture);
    op_batch(op, 1, 3, 10, 1);
    op_batch(op, 2, 4, 10, 2);
    op_put(op, "a1", "first");
    op_put(op, "a2", "12345678");
    op->rows[1].offset_at = 0;
    op->rows[1].patch_batch = 0;
    op->rows[1].patch_record = 2;
    op_put(op, "a3", "xx12345678yy");
    op->rows[2].offset_at = 2;
    op->rows[2].patch_batch = 1;
    op->rows[2].patch_record = 3;
    assert_int_equal(op_run(fixture, op), STATUS_OK);
    assert_int_equal(op->batches[0].base_offset, 5);
    assert_int_equal(op->batches[1].base_offset, 0);
    op_free(op);
    assert_string_equal(scan_text(fixture, "a", "b", 0),
                        "a1=first,a2=\\00\\00\\00\\00\\00\\00\\00\\07,"
                        "a3=xx\\00\\00\\00\\00\\00\\00\\00\\03yy");
}

static void rows_carry_the_commit_sequence(void **state)
{
    struct fixture *fixture = *state;
    uint64_t last = 0;
    for (unsigned i = 0; i < 3; i++) {
        struct op *op = op_new(fixture);
        op_batch(op, 1, 2, 10, i);
        op_put(op, "c12345678", "v12345678");
        op->rows[0].commit_in_key = op->rows[0].commit_in_value = 1;
        op_put(op, "c2", "x12345678"); /* with an offset in another row of it */
        op->rows[1].offset_at = 1;
        assert_int_equal(op_run(fixture, op), STATUS_OK);
        assert_true(op->append.commit > last);
        last = op->append.commit;
        op_free(op);
        if (fixture_keeps(fixture))
            fixture_reopen(fixture);
    }
    /* Three rows, as their keys differ, and the last is that of the last append. */
    struct storage_scan scan = {.first = span_from_text("c"), .end = span_from_text("c1")};
    scan_run(fixture, &scan);
    assert_int_equal(scan.count, 3);
    size_t at = 0;
    struct span key, value;
    uint64_t before = 0;
    while (storage_scan_next(&scan, &at, &key, &value)) {
        assert_int_equal(key.size, 9);
        assert_memory_equal(key.data + 1, value.data + 1, 8);
        assert_true(load_u64(key.data + 1) > before);
        before = load_u64(key.data + 1);
    }
    assert_true(before == last);
    blob_unref(scan.rows);
}

static void units_are_all_or_nothing(void **state)
{
    struct fixture *fixture = *state;
    struct op *parts[3], *other = op_new(fixture);
    for (unsigned i = 0; i < 3; i++) {
        parts[i] = op_new(fixture);
        op_batch(parts[i], 10 + i, 1, 10, i);
        parts[i]->append.unit = 77;
        parts[i]->append.part_count = 3;
    }
    op_put(parts[0], "u0", "x");
    op_put(parts[2], "u2", "y");
    op_start(fixture, parts[0]);
    op_start(fixture, parts[1]);
    op_batch(other, 20, 1, 10, 0);
    op_start(fixture, other);
    op_wait(fixture, other); /* the two parts wait; a later append of others does not */
    assert_int_equal(parts[0]->finished, 0);
    assert_int_equal(parts[1]->finished, 0);
    op_start(fixture, parts[2]);
    wait_all(fixture);
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(parts[i]->append.request.status, STATUS_OK);
        assert_int_equal(bounds_of(fixture, 10 + i).end, 1);
        op_free(parts[i]);
    }
    op_free(other);
    assert_string_equal(scan_text(fixture, "u", "v", 0), "u0=x,u2=y");
}

/* Their parts in every order, between each other. */
static void many_units_at_once(void **state)
{
    enum { UNITS = 50, PARTS = 3 };
    struct fixture *fixture = *state;
    struct op *parts[UNITS][PARTS];
    for (unsigned k = 0; k < PARTS; k++)
        for (unsigned i = 0; i < UNITS; i++) {
            struct op *part = parts[i][(i + k) % PARTS] = op_new(fixture);
            op_batch(part, 40 + (i + k) % PARTS, 1, 10, i);
            part->append.unit = 1000 + i;
            part->append.part_count = PARTS;
            op_start(fixture, part);
            if (k + 1 < PARTS)
                continue;
            op_wait(fixture, part);
            assert_true(i + 1 == UNITS || parts[i + 1][(i + 1) % PARTS]->finished == 0);
        }
    wait_all(fixture);
    for (unsigned i = 0; i < UNITS; i++)
        for (unsigned k = 0; k < PARTS; k++) {
            assert_int_equal(parts[i][k]->append.request.status, STATUS_OK);
            assert_int_equal(parts[i][k]->batches[0].base_offset,
                             i); /* that of the last part counts */
            op_free(parts[i][k]);
        }
}

static void an_empty_append_and_a_refused_unit(void **state)
{
    struct fixture *fixture = *state;
    struct op *empty = op_new(fixture);
    assert_int_equal(op_run(fixture, empty), STATUS_OK);
    op_free(empty);
    append_one(fixture, 1, 1, 10, 1);
    assert_int_equal(trim_run(fixture, 1, 0, true), STATUS_OK);
    struct op *parts[2];
    for (unsigned i = 0; i < 2; i++) {
        parts[i] = op_new(fixture);
        op_batch(parts[i], 1 + i, 1, 10, i);
        parts[i]->append.unit = 5;
        parts[i]->append.part_count = 2;
        op_start(fixture, parts[i]);
    }
    wait_all(fixture);
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(parts[i]->append.request.status, STATUS_NOT_FOUND);
        op_free(parts[i]);
    }
    assert_int_equal(bounds_of(fixture, 2).end, 0);
}

/* Whichever part refuses, and whenever it comes. */
static void a_part_may_refuse(void **state)
{
    struct fixture *fixture = *state;
    for (unsigned which = 0; which < 3; which++) {
        struct op *parts[3];
        for (unsigned i = 0; i < 3; i++) {
            parts[i] = op_new(fixture);
            if (i == which) {
                parts[i]->append.refused = STATUS_DENIED;
            } else {
                op_batch(parts[i], 30 + i, 1, 10, i);
                op_put(parts[i], i == 0 ? "r0" : i == 1 ? "r1" : "r2", "x");
            }
            parts[i]->append.unit = 90 + which;
            parts[i]->append.part_count = 3;
            op_start(fixture, parts[i]);
        }
        wait_all(fixture);
        for (unsigned i = 0; i < 3; i++) {
            assert_int_equal(parts[i]->append.request.status, STATUS_DENIED);
            assert_int_equal(bounds_of(fixture, 30 + i).end, 0);
            op_free(parts[i]);
        }
        assert_string_equal(scan_text(fixture, "r", "s", 0), "");
    }
    append_one(fixture, 30, 1, 10, 0); /* what comes later begins where nothing was */
    assert_int_equal(bounds_of(fixture, 30).end, 1);
}

static void interval_appends_are_read_at_once(void **state)
{
    struct fixture *fixture = *state;
    for (uint64_t i = 0; i < 200; i++) {
        struct op *op = op_new(fixture);
        op_batch(op, 1, 100, 20, i);
        op->batches[0].durability = DURABLE_INTERVAL;
        assert_int_equal(op_run(fixture, op), STATUS_OK);
        assert_int_equal(op->batches[0].base_offset, i * 100);
        op_free(op);
    }
    assert_int_equal(bounds_of(fixture, 1).end, 20000);
    if (!fixture_keeps(fixture))
        return;
    fixture_reopen(fixture); /* a clean close needs no gap */
    assert_int_equal(bounds_of(fixture, 1).end, 20000);
    assert_int_equal(append_one(fixture, 1, 1, 10, 0), 20000);
}

/* Several owners at once, each on a thread and a loop of its own. */

enum { OWNERS = 3, OWNER_APPENDS = 400, OWNER_WINDOW = 16, SHARED = 100 };

struct owner {
    struct fixture *fixture;
    struct loop *loop;
    unsigned number, started, finished;
    uint64_t last_own, last_shared, last_commit;
};

struct owner_append {
    struct storage_append append;
    struct storage_batch batches[2];
    struct owner *owner;
};

static void owner_start(struct owner *owner);

static void owner_done(struct request *request, enum status status)
{
    struct owner_append *append = container_of(request, struct owner_append, append.request);
    struct owner *owner = append->owner;
    bool first = owner->finished++ == 0;
    assert_int_equal(status, STATUS_OK);
    assert_int_equal(append->batches[0].base_offset, first ? 0 : owner->last_own + 2);
    assert_true(first || append->batches[1].base_offset > owner->last_shared);
    assert_true(append->append.commit > owner->last_commit);
    owner->last_own = append->batches[0].base_offset;
    owner->last_shared = append->batches[1].base_offset;
    owner->last_commit = append->append.commit;
    blob_unref(append->batches[0].bytes);
    blob_unref(append->batches[1].bytes);
    free(append);
    if (owner->started < OWNER_APPENDS)
        owner_start(owner);
    else if (owner->finished == OWNER_APPENDS)
        loop_stop(owner->loop);
}

static void owner_start(struct owner *owner)
{
    struct owner_append *append = calloc(1, sizeof *append);
    append->owner = owner;
    append->append.batches = append->batches;
    append->append.batch_count = 2;
    for (unsigned i = 0; i < 2; i++)
        append->batches[i] = (struct storage_batch){
            .partition = i == 0 ? owner->number : SHARED,
            .class = STORAGE_3_DAYS,
            .record_count = i == 0 ? 2 : 1,
            .bytes = batch_make(i == 0 ? 2 : 1, 200, owner->started),
        };
    owner->started++;
    request_init(&append->append.request, owner->loop, owner_done);
    owner->fixture->storage->ops->append(owner->fixture->storage, &append->append);
}

static void *owner_run(void *context)
{
    struct owner *owner = context;
    for (unsigned i = 0; i < OWNER_WINDOW; i++)
        owner_start(owner);
    loop_run(owner->loop);
    return NULL;
}

static void several_owners_append_at_once(void **state)
{
    struct fixture *fixture = *state;
    struct owner owners[OWNERS];
    pthread_t threads[OWNERS];
    for (unsigned i = 0; i < OWNERS; i++) {
        owners[i] = (struct owner){.fixture = fixture, .loop = loop_new(), .number = i};
        assert_int_equal(pthread_create(&threads[i], NULL, owner_run, &owners[i]), 0);
    }
    for (unsigned reads = 0; reads < 200; reads++) { /* readers go on beside them */
        struct storage_read read;
        read_init(fixture, &read, SHARED, 0);
        assert_int_equal(read_run(fixture, &read), STATUS_OK);
        for (uint32_t i = 0; i < read.count; i++)
            assert_int_equal(read.batches[i].base_offset, i);
        read_release(&read);
        bounds_of(fixture, SHARED);
    }
    for (unsigned i = 0; i < OWNERS; i++) {
        pthread_join(threads[i], NULL);
        loop_free(owners[i].loop);
        assert_int_equal(bounds_of(fixture, i).end, 2 * OWNER_APPENDS);
    }
    assert_int_equal(bounds_of(fixture, SHARED).end, OWNERS * OWNER_APPENDS);
}

const struct CMUnitTest append_tests[] = {
    cmocka_unit_test(offsets_are_contiguous),
    cmocka_unit_test(appends_complete_in_order),
    cmocka_unit_test(the_engine_writes_offset_and_epoch),
    cmocka_unit_test(footers_come_back),
    cmocka_unit_test(rows_and_batches_go_together),
    cmocka_unit_test(rows_carry_the_commit_sequence),
    cmocka_unit_test(units_are_all_or_nothing),
    cmocka_unit_test(many_units_at_once),
    cmocka_unit_test(an_empty_append_and_a_refused_unit),
    cmocka_unit_test(a_part_may_refuse),
    cmocka_unit_test(interval_appends_are_read_at_once),
    cmocka_unit_test(several_owners_append_at_once),
};
const size_t append_test_count = sizeof append_tests / sizeof *append_tests;
