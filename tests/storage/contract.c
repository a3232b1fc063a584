/* SPDX-License-Identifier: Apache-2.0 */
/* The storage contract: the same tests on every engine, and on top the damage that only a directory
 * has. */
#include "tests/storage/fixture.h"

#include <pthread.h>
#include <stdio.h>

#include "core/base/pack.h"
#include "core/net/loop.h"
#include "storage/envelope.h"
#include "storage/memory/memory.h"
#include "storage/rocksdb/rocksdb.h"

enum { OVERHEAD = ENVELOPE_SIZE + 61 };

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

static void reads_by_offset(void **state)
{
    struct fixture *fixture = *state;
    for (uint64_t i = 0; i < 30; i++)
        append_one(fixture, 1, 10, 1000, i);
    struct storage_read read;
    read_init(fixture, &read, 1, 155); /* in the middle of a batch */
    assert_int_equal(read_run(fixture, &read), STATUS_OK);
    assert_int_equal(read.count, 15);
    for (uint32_t i = 0; i < read.count; i++) {
        assert_int_equal(read.batches[i].base_offset, 150 + 10 * i);
        assert_int_equal(read.batches[i].record_count, 10);
        assert_int_equal(read.batches[i].cumulative_bytes, (16 + i) * (OVERHEAD + 1000));
        assert_true(batch_is(blob_span(read.batches[i].bytes), 10, 1000, 15 + i));
    }
    read_release(&read);
    read_init(fixture, &read, 1, 20);
    read.end = 45; /* the batch that begins at 40 still does */
    assert_int_equal(read_run(fixture, &read), STATUS_OK);
    assert_int_equal(read.count, 3);
    read_release(&read);
    read_init(fixture, &read, 1, 20);
    read.max_bytes = 1;
    assert_int_equal(read_run(fixture, &read), STATUS_OK);
    assert_int_equal(read.count, 1);
    read_release(&read);
    read_init(fixture, &read, 1, 0);
    read.max_bytes = 3 * 1061;
    assert_int_equal(read_run(fixture, &read), STATUS_OK);
    assert_int_equal(read.count, 3);
    read_release(&read);
    read_init(fixture, &read, 1, 300); /* the end */
    assert_int_equal(read_run(fixture, &read), STATUS_OK);
    assert_int_equal(read.count, 0);
    read_init(fixture, &read, 4711, 0); /* nobody knows it */
    assert_int_equal(read_run(fixture, &read), STATUS_OK);
    assert_int_equal(read.count, 0);
}

static void a_read_holds_at_most_its_array(void **state)
{
    struct fixture *fixture = *state;
    for (uint64_t i = 0; i < STORAGE_READ_MAX + 6; i++)
        append_one(fixture, 1, 1, 10, i);
    struct storage_read read;
    read_init(fixture, &read, 1, 0);
    assert_int_equal(read_run(fixture, &read), STATUS_OK);
    assert_int_equal(read.count, STORAGE_READ_MAX);
    read_release(&read);
    read_init(fixture, &read, 1, STORAGE_READ_MAX);
    assert_int_equal(read_run(fixture, &read), STATUS_OK);
    assert_int_equal(read.count, 6);
    read_release(&read);
}

static uint64_t first_by_time(struct fixture *fixture, int64_t time_ms, uint64_t offset)
{
    struct storage_read read;
    read_init(fixture, &read, 1, offset);
    read.by_time = true;
    read.time_ms = time_ms;
    assert_int_equal(read_run(fixture, &read), STATUS_OK);
    uint64_t base = read.count > 0 ? read.batches[0].base_offset : UINT64_MAX;
    read_release(&read);
    return base;
}

static void reads_by_time(void **state)
{
    struct fixture *fixture = *state;
    for (int64_t i = 0; i < 40; i++) {
        time_set(1000000 + i * 10);
        append_one(fixture, 1, 5, 300, (uint64_t)i);
    }
    assert_int_equal(first_by_time(fixture, 0, 0), 0);
    assert_int_equal(first_by_time(fixture, 1000000, 0), 0);
    assert_int_equal(first_by_time(fixture, 1000001, 0), 5);
    assert_int_equal(first_by_time(fixture, 1000200, 0), 100);
    assert_int_equal(first_by_time(fixture, 1000200, 150), 150);
    assert_int_equal(first_by_time(fixture, 1000391, 0), UINT64_MAX);
    time_set(5000); /* the clock went back: append time does not */
    append_one(fixture, 1, 5, 300, 40);
    assert_int_equal(first_by_time(fixture, 1000390, 0), 195);
    assert_int_equal(bounds_of(fixture, 1).first_time_ms, 1000000);
    assert_int_equal(bounds_of(fixture, 1).last_time_ms, 1000390);
    assert_int_equal(trim_run(fixture, 1, 50, false), STATUS_OK);
    assert_int_equal(first_by_time(fixture, 0, 0), 50);
}

static void trims_take_effect_at_once(void **state)
{
    struct fixture *fixture = *state;
    for (uint64_t i = 0; i < 10; i++)
        append_one(fixture, 1, 10, 200, i);
    assert_int_equal(trim_run(fixture, 1, 35, false), STATUS_OK);
    struct storage_read read;
    read_init(fixture, &read, 1, 34);
    assert_int_equal(read_run(fixture, &read), STATUS_OUT_OF_RANGE);
    assert_int_equal(read.count, 0);
    read_init(fixture, &read, 1, 35);
    assert_int_equal(read_run(fixture, &read), STATUS_OK);
    assert_int_equal(read.batches[0].base_offset, 30);
    read_release(&read);
    struct storage_bounds bounds = bounds_of(fixture, 1);
    assert_int_equal(bounds.start, 35);
    assert_int_equal(bounds.end, 100);
    assert_int_equal(bounds.bytes, 7 * (OVERHEAD + 200));
    assert_int_equal(bounds.cumulative_bytes, 10 * (OVERHEAD + 200));
    assert_int_equal(trim_run(fixture, 1, 20, false), STATUS_OK); /* never backwards */
    assert_int_equal(bounds_of(fixture, 1).start, 35);
    assert_int_equal(trim_run(fixture, 1, 1000, false), STATUS_OK); /* at most all */
    bounds = bounds_of(fixture, 1);
    assert_int_equal(bounds.start, 100);
    assert_int_equal(bounds.end, 100);
    assert_int_equal(bounds.bytes, 0);
    assert_int_equal(bounds.first_time_ms, 0);
    assert_int_equal(append_one(fixture, 1, 1, 200, 1), 100);
    assert_int_equal(bounds_of(fixture, 1).bytes, OVERHEAD + 200);
    assert_int_equal(trim_run(fixture, 4711, 5, false), STATUS_OK);
    assert_int_equal(bounds_of(fixture, 4711).end, 0);
}

static void a_removed_partition_is_gone(void **state)
{
    struct fixture *fixture = *state;
    append_one(fixture, 1, 10, 200, 1);
    append_one(fixture, 2, 10, 200, 2);
    assert_int_equal(trim_run(fixture, 1, 0, true), STATUS_OK);
    assert_int_equal(bounds_of(fixture, 1).end, 0);
    assert_int_equal(bounds_of(fixture, 2).end, 10);
    struct storage_read read;
    read_init(fixture, &read, 1, 0);
    assert_int_equal(read_run(fixture, &read), STATUS_OK);
    assert_int_equal(read.count, 0);
    if (fixture_keeps(fixture)) {
        fixture_reopen(fixture);
        assert_int_equal(bounds_of(fixture, 1).end, 0);
        assert_int_equal(bounds_of(fixture, 2).end, 10);
    }
}

static void floors(void **state)
{
    struct fixture *fixture = *state;
    const uint64_t size = OVERHEAD + 400;
    for (int64_t i = 0; i < 20; i++) {
        time_set(2000000 + i * 100);
        append_one(fixture, 1, 3, 400, (uint64_t)i);
    }
    assert_int_equal(floor_of(fixture, 1, 0, 0), 0);
    assert_int_equal(floor_of(fixture, 1, 2000000, 0), 0);
    assert_int_equal(floor_of(fixture, 1, 2000550, 0), 18);
    assert_int_equal(floor_of(fixture, 1, 9000000, 0), 60);
    assert_int_equal(floor_of(fixture, 1, 0, 20 * size), 0);
    assert_int_equal(floor_of(fixture, 1, 0, 20 * size - 1), 3);
    assert_int_equal(floor_of(fixture, 1, 0, 5 * size), 45);
    assert_int_equal(floor_of(fixture, 1, 0, 1), 60);
    assert_int_equal(floor_of(fixture, 1, 2000550, 5 * size), 45);
    assert_int_equal(floor_of(fixture, 1, 2001900, 5 * size), 57);
    assert_int_equal(trim_run(fixture, 1, 50, false), STATUS_OK);
    assert_int_equal(floor_of(fixture, 1, 2000550, 0), 50);
    assert_int_equal(floor_of(fixture, 4711, 1, 1), 0);
}

static void put_rows(struct fixture *fixture, char table, unsigned from, unsigned to)
{
    for (unsigned i = from; i < to;) {
        struct op *op = op_new(fixture);
        char keys[OP_MAX][8], values[OP_MAX][8];
        for (unsigned j = 0; j < OP_MAX && i < to; j++, i++) {
            snprintf(keys[j], sizeof keys[j], "%c%03u", table, i);
            snprintf(values[j], sizeof values[j], "v%u", i);
            op_put(op, keys[j], values[j]);
        }
        assert_int_equal(op_run(fixture, op), STATUS_OK);
        op_free(op);
    }
}

static void scans(void **state)
{
    struct fixture *fixture = *state;
    put_rows(fixture, 'b', 0, 20);
    put_rows(fixture, 'd', 0, 2);
    assert_string_equal(scan_text(fixture, "a", "b", 0), "");
    assert_string_equal(scan_text(fixture, "b000", "b003", 0), "b000=v0,b001=v1,b002=v2");
    assert_string_equal(scan_text(fixture, "b", "c", 2), "b000=v0,b001=v1+");
    assert_string_equal(scan_text(fixture, "b017", "c", 3), "b017=v17,b018=v18,b019=v19");
    assert_string_equal(scan_text(fixture, "b017", "z", 3), "b017=v17,b018=v18,b019=v19+");
    assert_string_equal(scan_text(fixture, "c", "z", 0), "d000=v0,d001=v1");
    assert_string_equal(scan_text(fixture, "z", "c", 0), "");
    assert_string_equal(scan_text(fixture, "b", "", 0), "");
}

static void rows_change(void **state)
{
    struct fixture *fixture = *state;
    put_rows(fixture, 'b', 0, 10);
    struct op *op = op_new(fixture);
    op_delete(op, "b001");
    op_delete(op, "b999");
    op_delete_range(op, "b003", "b007");
    op_put(op, "b004", "again"); /* changes of one append take effect in their order */
    op_put(op, "b000", "new");
    op_put(op, "b000", "newer");
    op_delete_range(op, "b009", "b002"); /* empty */
    assert_int_equal(op_run(fixture, op), STATUS_OK);
    op_free(op);
    assert_string_equal(scan_text(fixture, "b", "c", 0),
                        "b000=newer,b002=v2,b004=again,b007=v7,b008=v8,b009=v9");
}

/* What was started before counts, whether it is done or not. */
static void rows_go_when_they_are_what_was_seen(void **state)
{
    struct fixture *fixture = *state;
    struct op *puts = op_new(fixture), *op = op_new(fixture);
    op_put(puts, "w1", "1-old");
    op_put(puts, "w2", "2-old");
    op_put(puts, "w3", "3-old");
    op_put(puts, "w4", "4");
    assert_int_equal(op_run(fixture, puts), STATUS_OK);
    op_free(puts);
    puts = op_new(fixture);
    op_put(puts, "w2", "2-new");
    op_put(puts, "w5", "5-new");
    op_start(fixture, puts);
    op_delete_when(op, "w1", "1-");
    op_delete_when(op, "w2", "2-old");
    op_delete_when(op, "w3", "3-older");
    op_delete_when(op, "w4", "");
    op_delete_when(op, "w5", "5-new");
    op_delete_when(op, "w6", "");
    op_start(fixture, op);
    wait_all(fixture);
    assert_int_equal(op->append.request.status, STATUS_OK);
    assert_string_equal(scan_text(fixture, "w", "x", 0), "w2=2-new,w3=3-old");
    op_free(puts);
    op_free(op);
    op = op_new(fixture);
    op_delete_when(op, "w1", "1-");
    op_delete_when(op, "w2", "2-old");
    op_delete_when(op, "w3", "3-old");
    assert_int_equal(op_run(fixture, op), STATUS_OK);
    assert_int_equal(op->append.kept, 2);
    op_free(op);
    assert_string_equal(scan_text(fixture, "w", "x", 0), "w2=2-new");
}

static void a_reopen_keeps_everything(void **state)
{
    struct fixture *fixture = *state;
    if (!fixture_keeps(fixture))
        skip();
    for (uint64_t i = 0; i < 10; i++) {
        append_one(fixture, 1, 10, 500, i);
        append_one(fixture, 2, 1, 500, i);
    }
    put_rows(fixture, 'b', 0, 5);
    assert_int_equal(trim_run(fixture, 2, 4, false), STATUS_OK);
    append_one(fixture, 3, 5, 50, 0);
    assert_int_equal(trim_run(fixture, 3, 5, false), STATUS_OK); /* empty, but its end stays */
    struct storage_bounds before = bounds_of(fixture, 1);
    for (int turn = 0; turn < 3; turn++) {
        fixture_reopen(fixture);
        struct storage_bounds after = bounds_of(fixture, 1);
        assert_int_equal(after.end, 100);
        assert_int_equal(after.bytes, before.bytes);
        assert_int_equal(after.first_time_ms, before.first_time_ms);
        assert_int_equal(after.last_time_ms, before.last_time_ms);
        assert_int_equal(bounds_of(fixture, 2).start, 4);
        assert_int_equal(bounds_of(fixture, 2).bytes, (6 + turn) * (OVERHEAD + 500));
        assert_int_equal(bounds_of(fixture, 3).start, 5 + turn);
        assert_string_equal(scan_text(fixture, "b", "c", 0),
                            "b000=v0,b001=v1,b002=v2,b003=v3,b004=v4");
        struct storage_read read;
        read_init(fixture, &read, 1, 15);
        assert_int_equal(read_run(fixture, &read), STATUS_OK);
        assert_int_equal(read.count, 9);
        for (uint32_t i = 0; i < read.count; i++)
            assert_true(batch_is(blob_span(read.batches[i].bytes), 10, 500, 1 + i));
        read_release(&read);
        assert_int_equal(append_one(fixture, 2, 1, 500, 0), 10 + turn);
        assert_int_equal(append_one(fixture, 3, 1, 500, 0), 5 + turn);
        assert_int_equal(trim_run(fixture, 3, 6 + (uint64_t)turn, false), STATUS_OK);
    }
}

/* Small segments, so that reads, times, floors and trims cross them. */
static void many_segments(void **state)
{
    struct fixture *fixture = *state;
    const uint64_t size = OVERHEAD + 1000;
    fixture_close(fixture);
    fixture->options.segment_bytes = 20000;
    fixture->options.wal_bytes = 100000;
    fixture_open(fixture);
    for (int64_t i = 0; i < 200; i++) {
        time_set(1000 + i);
        append_one(fixture, (uint64_t)i % 4, 2, 1000, (uint64_t)i);
    }
    for (int turn = 0; turn < 2; turn++) {
        struct storage_read read;
        uint64_t offset = 1, wanted = 0;
        while (offset < 100) {
            read_init(fixture, &read, 3, offset);
            read.max_bytes = 7000;
            assert_int_equal(read_run(fixture, &read), STATUS_OK);
            assert_true(read.count > 0);
            for (uint32_t i = 0; i < read.count; i++, wanted += 2) {
                assert_int_equal(read.batches[i].base_offset, wanted);
                assert_true(batch_is(blob_span(read.batches[i].bytes), 2, 1000, wanted * 2 + 3));
            }
            offset = wanted;
            read_release(&read);
        }
        assert_int_equal(floor_of(fixture, 0, 1100, 0), 50);
        assert_int_equal(floor_of(fixture, 0, 1101, 0), 52);
        assert_int_equal(floor_of(fixture, 0, 0, 10 * size), 80);
        if (fixture_keeps(fixture))
            fixture_reopen(fixture);
    }
    for (uint64_t partition = 0; partition < 4; partition++)
        assert_int_equal(trim_run(fixture, partition, 61, false), STATUS_OK);
    append_one(fixture, 0, 1, 10, 0);
    for (int turn = 0; turn < 2; turn++) {
        struct storage_bounds bounds = bounds_of(fixture, 1);
        assert_int_equal(bounds.start, 61);
        assert_int_equal(bounds.bytes, 20 * size);
        assert_int_equal(bounds.first_time_ms, 1000 + 30 * 4 + 1);
        struct storage_read read;
        read_init(fixture, &read, 1, 61);
        assert_int_equal(read_run(fixture, &read), STATUS_OK);
        assert_int_equal(read.count, 20);
        assert_int_equal(read.batches[0].base_offset, 60);
        read_release(&read);
        if (fixture_keeps(fixture))
            fixture_reopen(fixture);
    }
}

static enum status sync_that_fails(void *context)
{
    unsigned *left = context;
    if (*left == 0)
        return STATUS_INTERNAL;
    --*left;
    return STATUS_OK;
}

static void a_failed_sync_is_final(void **state)
{
    struct fixture *fixture = *state;
    unsigned left = 20;
    fixture_close(fixture);
    fixture->options.sync_hook = sync_that_fails;
    fixture->options.sync_context = &left;
    fixture_open(fixture);
    unsigned good = 0;
    struct op *waiting = op_new(fixture);
    op_batch(waiting, 9, 1, 10, 0);
    waiting->append.unit = 1;
    waiting->append.part_count = 2;
    op_start(fixture, waiting);
    for (unsigned i = 0; i < 60; i++) {
        struct op *op = op_new(fixture);
        op_batch(op, 1, 1, 10, i);
        op_start(fixture, op);
        op_wait(fixture, op);
        enum status status = op->append.request.status;
        assert_true(status == STATUS_OK || status == STATUS_STORAGE_FAILED);
        assert_true(status != STATUS_OK || good == i); /* none after the first that failed */
        good += status == STATUS_OK;
        op_free(op);
    }
    wait_all(fixture); /* the waiting part has failed too */
    assert_int_equal(waiting->append.request.status, STATUS_STORAGE_FAILED);
    op_free(waiting);
    assert_true(good > 0 && good < 60);
    assert_int_equal(fixture->storage->ops->health(fixture->storage), STATUS_STORAGE_FAILED);
    assert_int_equal(trim_run(fixture, 1, 1, false), STATUS_STORAGE_FAILED);
    assert_int_equal(bounds_of(fixture, 1).end, good); /* reading goes on */
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

static void remember(void *context, const char *name, double value)
{
    assert_true(value >= 0);
    if (strstr(name, "storage_") == name)
        ++*(unsigned *)context;
}

static void health_and_metrics(void **state)
{
    struct fixture *fixture = *state;
    unsigned count = 0;
    append_one(fixture, 1, 1, 10, 0);
    assert_int_equal(fixture->storage->ops->health(fixture->storage), STATUS_OK);
    fixture->storage->ops->metrics(fixture->storage, remember, &count);
    assert_true(count >= 3);
    if (!fixture_keeps(fixture))
        return;
    double syncs = metric_of(fixture, "sync_seconds_count");
    assert_true(syncs >= 2); /* the open's and the append's */
    assert_true(metric_of(fixture, "sync_seconds_bucket{le=\"+Inf\"}") == syncs);
    assert_true(metric_of(fixture, "sync_seconds_bucket{le=\"5\"}") <= syncs);
    assert_true(metric_of(fixture, "sync_seconds_bucket{le=\"0.0001\"}") <=
                metric_of(fixture, "sync_seconds_bucket{le=\"0.25\"}"));
    assert_true(metric_of(fixture, "sync_seconds_sum") > 0);
}

static const struct CMUnitTest contract_tests[] = {
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
    cmocka_unit_test(reads_by_offset),
    cmocka_unit_test(a_read_holds_at_most_its_array),
    cmocka_unit_test(reads_by_time),
    cmocka_unit_test(trims_take_effect_at_once),
    cmocka_unit_test(a_removed_partition_is_gone),
    cmocka_unit_test(floors),
    cmocka_unit_test(scans),
    cmocka_unit_test(rows_change),
    cmocka_unit_test(rows_go_when_they_are_what_was_seen),
    cmocka_unit_test(a_reopen_keeps_everything),
    cmocka_unit_test(many_segments),
    cmocka_unit_test(a_failed_sync_is_final),
    cmocka_unit_test(interval_appends_are_read_at_once),
    cmocka_unit_test(several_owners_append_at_once),
    cmocka_unit_test(health_and_metrics),
};

static struct engine_case cases[] = {
    {"memory", &memory_storage_ops, PLACE_NONE},
    {"rocksdb", &rocksdb_storage_ops, PLACE_DIRECTORY},
    {"rocksdb in memory", &rocksdb_storage_ops, PLACE_MEMORY_ENVIRONMENT},
};

static struct CMUnitTest bind(struct CMUnitTest test, struct engine_case *engine)
{
    test.setup_func = fixture_setup;
    test.teardown_func = fixture_teardown;
    test.initial_state = engine;
    return test;
}

static int run_group(const char *name, const struct CMUnitTest *tests, size_t count,
                     struct engine_case *engine)
{
    struct CMUnitTest bound[64];
    assert_true(count <= 64);
    for (size_t i = 0; i < count; i++)
        bound[i] = bind(tests[i], engine);
    return _cmocka_run_group_tests(name, bound, count, NULL, NULL);
}

int main(int argc, char **argv)
{
    if (argc == 3)
        return crash_child(argv[1], argv[2]);
    if (argc == 2)
        cmocka_set_test_filter(argv[1]); /* a name, with wildcards */
    int failed = 0;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        failed += run_group(cases[i].name, contract_tests,
                            sizeof contract_tests / sizeof *contract_tests, &cases[i]);
        failed += run_group(cases[i].name, random_tests, random_test_count, &cases[i]);
    }
    failed += run_group("rocksdb, damaged", crash_tests, crash_test_count, &cases[1]);
    failed += run_group("rocksdb, checksums", checksum_tests, checksum_test_count, &cases[1]);
    failed += run_group("rocksdb, evacuation", evacuate_tests, evacuate_test_count, &cases[1]);
    return failed;
}
