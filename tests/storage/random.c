/* SPDX-License-Identifier: Apache-2.0 */
/* Random operations on small segments against a naive model of arrays; a failure prints the seed.
 * In some runs most of what is written is trimmed soon, so that the rest of it is evacuated. */
#include "tests/storage/fixture.h"

#include <stdio.h>
#include <unistd.h>

#include "core/base/span.h"
#include "storage/envelope.h"

enum { PARTITIONS = 4, BATCHES = 2000, KEYS = 40, STEPS = 600, HEADER = 61 };

struct model_batch {
    uint64_t base, seed, bytes_before, size;
    uint32_t records;
    size_t payload;
    int64_t time_ms;
};

struct model_partition {
    struct model_batch batches[BATCHES];
    unsigned count;
    uint64_t start, end, bytes;
};

struct model {
    struct fixture *fixture;
    uint64_t random;
    struct model_partition partitions[PARTITIONS];
    char rows[KEYS][16];
    int64_t wall_ms;
    bool evacuating;
    double evacuated; /* bytes, of the lives of the store that are over */
};

static uint64_t draw(struct model *model, uint64_t below)
{
    model->random ^= model->random << 13;
    model->random ^= model->random >> 7;
    model->random ^= model->random << 17;
    return (model->random >> 11) % below;
}

static void key_text(char text[8], uint64_t key)
{
    snprintf(text, 8, "k%02u", (unsigned)key);
}

/* Appends */

static void model_append(struct model *model, const struct storage_batch *batch, size_t payload)
{
    struct model_partition *partition = &model->partitions[batch->partition];
    assert_true(partition->count < BATCHES);
    assert_int_equal(batch->base_offset, partition->end);
    assert_int_equal(batch->append_time_ms, model->wall_ms);
    uint64_t size = ENVELOPE_SIZE + HEADER + payload;
    partition->batches[partition->count++] = (struct model_batch){
        .base = partition->end,
        .seed = batch->principal,
        .bytes_before = partition->bytes,
        .size = size,
        .records = batch->record_count,
        .payload = payload,
        .time_ms = model->wall_ms,
    };
    partition->end += batch->record_count;
    partition->bytes += size;
}

static void change_rows(struct model *model, struct op *op, char keys[][8], char values[][16])
{
    unsigned count = (unsigned)draw(model, 4);
    for (unsigned i = 0; i < count; i++) {
        uint64_t key = draw(model, KEYS), end = draw(model, KEYS);
        key_text(keys[2 * i], key);
        key_text(keys[2 * i + 1], end);
        snprintf(values[i], 16, "%llu", (unsigned long long)draw(model, 1000000));
        switch (draw(model, 6)) {
        case 0:
            op_delete_range(op, keys[2 * i], keys[2 * i + 1]);
            for (uint64_t gone = key; gone < end; gone++)
                model->rows[gone][0] = 0;
            break;
        case 1:
            op_delete(op, keys[2 * i]);
            model->rows[key][0] = 0;
            break;
        default:
            op_put(op, keys[2 * i], values[i]);
            memcpy(model->rows[key], values[i], 16);
        }
    }
}

static void step_append(struct model *model)
{
    struct op *op = op_new(model->fixture);
    size_t payloads[3];
    char keys[8][8], values[4][16];
    unsigned count = (unsigned)draw(model, 4);
    for (unsigned i = 0; i < count; i++) {
        payloads[i % 3] = draw(model, 10) == 0 ? draw(model, 40000) : draw(model, 900);
        if (i == 3)
            break;
        uint64_t partition = draw(model, PARTITIONS);
        if (model->evacuating && partition == 3)
            payloads[i] %= 100;
        op_batch(op, partition, 1 + (uint32_t)draw(model, 20), payloads[i], draw(model, 1u << 30));
        if (op->batches[i].partition == 3)
            op->batches[i].durability = DURABLE_INTERVAL;
    }
    change_rows(model, op, keys, values);
    assert_int_equal(op_run(model->fixture, op), STATUS_OK);
    for (uint32_t i = 0; i < op->append.batch_count; i++)
        model_append(model, &op->batches[i], payloads[i]);
    op_free(op);
}

static void step_trim(struct model *model)
{
    uint64_t which = draw(model, PARTITIONS);
    struct model_partition *partition = &model->partitions[which];
    uint64_t start = partition->start + draw(model, partition->end - partition->start + 3);
    if (draw(model, 4) != 0)
        start = partition->start + (partition->end - partition->start) / 4;
    if (model->evacuating && which != 3 && draw(model, 3) != 0)
        start = partition->end;
    if (model->evacuating && which == 3)
        return;
    assert_int_equal(trim_run(model->fixture, which, start, false), STATUS_OK);
    start = start > partition->end ? partition->end : start;
    partition->start = start > partition->start ? start : partition->start;
}

/* Checks */

static void check_read(struct model *model)
{
    uint64_t which = draw(model, PARTITIONS);
    const struct model_partition *partition = &model->partitions[which];
    struct storage_read read;
    read_init(model->fixture, &read, which, draw(model, partition->end + 3));
    read.max_bytes = 1 + (uint32_t)draw(model, 20000);
    if (draw(model, 3) == 0)
        read.end = read.offset + draw(model, 200);
    read.by_time = draw(model, 4) == 0;
    read.time_ms = 1000 + (int64_t)draw(model, (uint64_t)model->wall_ms);
    enum status status = read_run(model->fixture, &read);
    uint64_t from = read.offset > partition->start ? read.offset : partition->start, bytes = 0;
    if (!read.by_time && read.offset < partition->start) {
        assert_int_equal(status, STATUS_OUT_OF_RANGE);
        return;
    }
    assert_int_equal(status, STATUS_OK);
    uint32_t count = 0;
    for (unsigned i = 0; i < partition->count && count < STORAGE_READ_MAX && from < read.end; i++) {
        const struct model_batch *batch = &partition->batches[i];
        if (batch->base + batch->records <= from ||
            (count == 0 && read.by_time && batch->time_ms < read.time_ms))
            continue;
        bytes += HEADER + batch->payload;
        if (batch->base >= read.end || (count > 0 && bytes > read.max_bytes))
            break;
        assert_true(count < read.count);
        const struct storage_read_batch *got = &read.batches[count++];
        assert_int_equal(got->base_offset, batch->base);
        assert_int_equal(got->append_time_ms, batch->time_ms);
        assert_int_equal(got->cumulative_bytes, batch->bytes_before + batch->size);
        assert_true(batch_is(blob_span(got->bytes), batch->records, batch->payload, batch->seed));
    }
    assert_int_equal(count, read.count);
    read_release(&read);
}

static unsigned first_kept(const struct model_partition *partition)
{
    unsigned first = 0;
    while (first < partition->count &&
           partition->batches[first].base + partition->batches[first].records <= partition->start)
        first++;
    return first;
}

static void check_bounds(struct model *model)
{
    uint64_t which = draw(model, PARTITIONS);
    const struct model_partition *partition = &model->partitions[which];
    struct storage_bounds bounds = bounds_of(model->fixture, which);
    unsigned first = first_kept(partition);
    bool empty = first == partition->count;
    assert_int_equal(bounds.start, partition->start);
    assert_int_equal(bounds.end, partition->end);
    assert_int_equal(bounds.cumulative_bytes, partition->bytes);
    assert_int_equal(bounds.bytes,
                     empty ? 0 : partition->bytes - partition->batches[first].bytes_before);
    assert_int_equal(bounds.first_time_ms, empty ? 0 : partition->batches[first].time_ms);
}

static void check_floor(struct model *model)
{
    uint64_t which = draw(model, PARTITIONS);
    const struct model_partition *partition = &model->partitions[which];
    int64_t time_ms = draw(model, 2) == 0 ? 0 : 1 + (int64_t)draw(model, (uint64_t)model->wall_ms);
    uint64_t keep = draw(model, 2) == 0 ? 0 : 1 + draw(model, partition->bytes + 10);
    uint64_t wanted = partition->start;
    for (unsigned i = 0; i < partition->count; i++) {
        const struct model_batch *batch = &partition->batches[i];
        bool old = time_ms != 0 && batch->time_ms < time_ms;
        bool many = keep != 0 && partition->bytes - batch->bytes_before > keep;
        if ((old || many) && batch->base + batch->records > wanted)
            wanted = batch->base + batch->records;
    }
    assert_int_equal(floor_of(model->fixture, which, time_ms, keep), wanted);
}

static void check_scan(struct model *model)
{
    char first[8], end[8], wanted[4096];
    uint64_t from = draw(model, KEYS), to = draw(model, KEYS + 1);
    uint32_t limit = 1 + (uint32_t)draw(model, KEYS), count = 0;
    size_t size = 0;
    key_text(first, from);
    key_text(end, to);
    wanted[0] = 0;
    for (uint64_t key = from; key < to; key++) {
        char text[8];
        key_text(text, key);
        if (model->rows[key][0] == 0)
            continue;
        if (count++ == limit) {
            snprintf(wanted + size, sizeof wanted - size, "+");
            break;
        }
        size += (size_t)snprintf(wanted + size, sizeof wanted - size, "%s%s=%s",
                                 count == 1 ? "" : ",", text, model->rows[key]);
    }
    assert_string_equal(scan_text(model->fixture, first, end, limit), wanted);
}

static void step(struct model *model)
{
    model->wall_ms += (int64_t)draw(model, 3);
    time_set(model->wall_ms);
    switch (draw(model, 12)) {
    case 0:
        step_trim(model);
        break;
    case 1:
    case 2:
    case 3:
        check_read(model);
        break;
    case 4:
        check_bounds(model);
        break;
    case 5:
        check_floor(model);
        break;
    case 6:
        check_scan(model);
        break;
    case 7:
        if (fixture_keeps(model->fixture) && draw(model, 10) == 0) {
            model->evacuated += metric_of(model->fixture, "storage_evacuated_bytes_total");
            fixture_reopen(model->fixture);
        }
        break;
    default:
        step_append(model);
    }
}

static void random_operations(struct fixture *fixture, uint64_t seed, bool evacuating)
{
    struct model *model = test_calloc(1, sizeof *model);
    model->fixture = fixture;
    model->random = seed * 0x9e3779b97f4a7c15u + 1;
    model->wall_ms = 1000;
    model->evacuating = evacuating;
    print_message("seed %llu\n", (unsigned long long)seed);
    fixture_close(fixture);
    fixture->options.segment_bytes = evacuating ? 60000 : 30000;
    fixture->options.evacuate_bytes = (uint64_t)1 << 30;
    fixture->options.readers = evacuating ? 2 : 1;
    fixture->options.wal_bytes = 200000;
    fixture_open(fixture);
    for (unsigned i = 0; i < (evacuating ? 3 : 1) * STEPS; i++) {
        step(model);
        if (evacuating && fixture_keeps(fixture) && i % 16 == 0)
            usleep(20000); /* looks for what is to drop are 100 ms apart */
    }
    if (evacuating && fixture_keeps(fixture))
        assert_true(model->evacuated + metric_of(fixture, "storage_evacuated_bytes_total") > 0);
    test_free(model);
}

static void random_operations_1(void **state)
{
    random_operations(*state, 1, false);
}

static void random_operations_2(void **state)
{
    random_operations(*state, 2, false);
}

static void random_operations_of_the_day(void **state)
{
    const char *seed = getenv("POLYLOG_SEED");
    random_operations(*state, seed != NULL ? strtoull(seed, NULL, 10) : 3, false);
}

static void random_operations_while_segments_are_evacuated(void **state)
{
    const char *seed = getenv("POLYLOG_SEED");
    random_operations(*state, seed != NULL ? strtoull(seed, NULL, 10) : 4, true);
}

const struct CMUnitTest random_tests[] = {
    cmocka_unit_test(random_operations_1),
    cmocka_unit_test(random_operations_2),
    cmocka_unit_test(random_operations_of_the_day),
    cmocka_unit_test(random_operations_while_segments_are_evacuated),
};
const size_t random_test_count = sizeof random_tests / sizeof *random_tests;
