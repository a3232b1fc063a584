/* SPDX-License-Identifier: Apache-2.0 */
/* Looking at records. A search goes on from read to read until it has found enough, has reached the
 * end, or has taken long enough: the answer says where to go on. */
#include "adapters/rest/look.h"

#include "adapters/rest/call.h"
#include "adapters/rest/position.h"
#include "adapters/rest/wanted.h"
#include "adapters/rest/view.h"
#include "core/base/clock.h"
#include "core/base/limits.h"

enum {
    ANSWER_BYTES = 1024 * 1024, /* an answer ends with the record that passes it */
    SEARCH_MS = 2000,
    SLICE_NS = 5000000, /* of one turn; looked at every so many records: */
    SLICE_RECORDS = 64,
    CODE_QUERY = 10540014
};

struct look {
    struct call call;
    struct wanted wanted;
    struct log_read read;
    struct loop_timer again;
    struct group_spec *group;     /* a reference: its dead letters; NULL: a queue's records */
    struct group_explain explain; /* of one of them */
    uint64_t index;               /* of the partition */
    uint64_t offset, limit;
    uint64_t ends_ms;
    uint32_t count;
    uint32_t batch; /* of the read */
    bool exact;     /* the caller named the offset */
};

static struct look *look_of(struct call *call)
{
    return container_of(call, struct look, call);
}

static void drop_batches(struct look *look)
{
    for (uint32_t i = 0; i < look->read.count; i++)
        batch_unref(look->read.batches[i]);
    look->read.count = 0;
}

/* ---------------------------------------------------------------- answer */

static void write_record(struct look *look, const struct record *record)
{
    struct buf *to = call_out(&look->call);
    json_put(to, look->count > 0 ? ",{\"offset\":" : "{\"records\":[{\"offset\":");
    json_put_number(to, (int64_t)record->offset);
    json_put(to, ",\"time\":");
    json_put_number(to, record->append_time_ms);
    json_put(to, ",\"publish_time\":");
    json_put_number(to, record->timestamp_ms);
    json_put(to, ",");
    view_write(record, true, to);
    if (look->group != NULL) {
        json_put(to, ",\"fate\":\"");
        json_put(to, fate_text(look->explain.fate));
        json_put(to, "\"");
    }
    json_put(to, "}");
    look->count++;
}

static void answer(struct look *look)
{
    struct buf *to = call_out(&look->call);
    json_put(to, look->count > 0 ? "],\"partition\":" : "{\"records\":[],\"partition\":");
    json_put_number(to, (int64_t)look->index);
    json_put(to, ",\"next\":");
    json_put_number(to, (int64_t)look->offset);
    json_put(to, ",\"start\":");
    json_put_number(to, (int64_t)look->read.start);
    json_put(to, ",\"end\":");
    json_put_number(to, (int64_t)look->read.end);
    json_put(to, "}");
    call_answer(&look->call, 200);
}

/* ---------------------------------------------------------------- search */

static void read_on(struct look *look);
static void search(struct look *look);

static bool is_full(struct look *look)
{
    return look->count >= look->limit || call_out(&look->call)->size >= ANSWER_BYTES;
}

/* Dead letters that were settled or redriven are in the log until retention takes them. */
static bool is_there(enum record_fate fate)
{
    return fate == RECORD_AVAILABLE || fate == RECORD_LEASED || fate == RECORD_DELAYED ||
           fate == RECORD_PARKED || fate == RECORD_BLOCKED || fate == RECORD_FILTERED;
}

static void explained(struct request *request, enum status status)
{
    struct group_explain *explain = container_of(request, struct group_explain, request);
    struct look *look = container_of(explain, struct look, explain);
    const struct batch *batch = look->read.batches[look->batch];
    struct record record;
    batch_record(batch, batch_find(batch, explain->offset), &record);
    look->offset = record.offset + 1;
    if (look->call.exchange != NULL && status != STATUS_OK) {
        drop_batches(look);
        call_refuse_status(&look->call, status, NULL);
    } else if (look->call.exchange != NULL && is_there(explain->fate)) {
        write_record(look, &record);
    }
    search(look);
}

static void ask_fate(struct look *look, const struct record *record)
{
    struct call *call = &look->call;
    look->explain.partition = look->read.partition;
    look->explain.offset = record->offset;
    request_init(&look->explain.request, call_loop(call), explained);
    broker_explain(call->client, look->group, &look->explain);
}

enum searched { SEARCHED_ALL, SEARCHED_ENOUGH, SEARCH_ASKS, SEARCH_PAUSES };

static enum searched search_batch(struct look *look, const struct batch *batch,
                                  uint64_t slice_ends_ns)
{
    uint32_t i = batch_find(batch, look->offset);
    if (!label_footer_may_match(&look->wanted.labels, batch))
        i = batch->record_count;
    for (; i < batch->record_count; i++) {
        struct record record;
        batch_record(batch, i, &record);
        if (wanted_matches(&look->wanted, &record)) {
            if (look->group != NULL) {
                ask_fate(look, &record);
                return SEARCH_ASKS;
            }
            write_record(look, &record);
        }
        look->offset = record.offset + 1;
        if (is_full(look))
            return SEARCHED_ENOUGH;
        if (i % SLICE_RECORDS == 0 && clock_monotonic_ns() > slice_ends_ns)
            return SEARCH_PAUSES;
    }
    look->offset = batch_end(batch);
    return SEARCHED_ALL;
}

static bool is_over(struct look *look, bool ended)
{
    return ended || is_full(look) || loop_now_ms(call_loop(&look->call)) >= look->ends_ms;
}

/* The caller's reference to the call goes along until the batches are searched through. */
static void search(struct look *look)
{
    uint64_t slice_ends_ns = clock_monotonic_ns() + SLICE_NS;
    while (look->call.exchange != NULL && look->batch < look->read.count && !is_full(look)) {
        switch (search_batch(look, look->read.batches[look->batch], slice_ends_ns)) {
        case SEARCHED_ALL:
            look->batch++;
            break;
        case SEARCHED_ENOUGH:
            break;
        case SEARCH_PAUSES:
            loop_timer_start(call_loop(&look->call), &look->again, 0);
            return;
        case SEARCH_ASKS:
            return;
        }
    }
    bool ended = look->read.count == 0 || look->offset >= look->read.end;
    drop_batches(look);
    if (look->call.exchange == NULL)
        ;
    else if (is_over(look, ended))
        answer(look);
    else
        read_on(look);
    call_release(&look->call);
}

static void search_again(struct loop_timer *timer)
{
    search(container_of(timer, struct look, again));
}

static void read_done(struct request *request, enum status status)
{
    struct log_read *read = container_of(request, struct log_read, request);
    struct look *look = container_of(read, struct look, read);
    bool gone = status == STATUS_OUT_OF_RANGE || status == STATUS_CORRUPT;
    look->batch = 0;
    if (status == STATUS_OK) {
        if (read->by_time)
            look->offset = read->count > 0 ? read->batches[0]->base_offset : read->end;
        if (look->offset < read->start) /* the rest of that batch is gone */
            look->offset = read->start;
        read->by_time = look->exact = false;
        search(look);
        return;
    }
    drop_batches(look);
    if (gone && !look->exact && read->start > look->offset && look->call.exchange != NULL) {
        look->offset = read->start;
        read_on(look);
    } else if (gone) {
        call_refuse(&look->call, 400, CODE_QUERY, "Nothing is kept there; go on at offset %llu.",
                    (unsigned long long)read->start);
    } else {
        call_refuse_status(&look->call, status, NULL);
    }
    call_release(&look->call);
}

static void read_on(struct look *look)
{
    struct call *call = &look->call;
    const struct queue *queue = call_queue(call, 1);
    if (queue == NULL)
        return;
    look->read.offset = look->offset;
    request_init(&look->read.request, call_loop(call), read_done);
    call_hold(call);
    broker_read(call->client, queue, &look->read);
}

/* ---------------------------------------------------------------- request */

static void begin(struct look *look, uint64_t partition)
{
    struct call *call = &look->call;
    struct span given;
    uint64_t time_ms;
    look->exact = http_query(call->exchange, "offset", &given) && given.size > 0;
    if (!call_query_number(call, "offset", 0, INT64_MAX, look->offset, CODE_QUERY, &look->offset) ||
        !call_query_number(call, "time", 0, INT64_MAX, 0, CODE_QUERY, &time_ms) ||
        !call_query_number(call, "limit", 1, LIMIT_CALL_RECORDS, 100, CODE_QUERY, &look->limit) ||
        !wanted_read(&look->wanted, call))
        return;
    look->read.partition = partition;
    look->read.by_time = http_query(call->exchange, "time", &given) && given.size > 0;
    look->read.time_ms = (int64_t)time_ms;
    look->again.fired = search_again;
    look->ends_ms = loop_now_ms(call_loop(call)) + SEARCH_MS;
    read_on(look);
}

static void run_records(struct call *call)
{
    struct look *look = look_of(call);
    if (!call_check_project(call))
        return;
    const struct queue *queue = call_queue(call, 1);
    if (queue == NULL || !call_query_number(call, "partition", 0, queue->partition_count - 1, 0,
                                            CODE_QUERY, &look->index))
        return;
    look->offset = atomic_load(&queue->stat->partitions[look->index].start);
    begin(look, queue->first_partition + look->index);
}

static void run_deadletters(struct call *call)
{
    if (!call_check_project(call))
        return;
    const struct group_spec *group = call_queue_group(call);
    if (group == NULL)
        return;
    if (group->dead_partition == 0) {
        call_refuse(call, 400, CODE_QUERY, "The group keeps no dead letters.");
        return;
    }
    look_of(call)->group = group_spec_ref(group);
    begin(look_of(call), group->dead_partition);
}

static void deinit_look(struct call *call)
{
    wanted_deinit(&look_of(call)->wanted);
    if (look_of(call)->group != NULL)
        group_spec_unref(look_of(call)->group);
}

void look_records(struct http_exchange *exchange)
{
    static const struct call_kind kind = {
        .size = sizeof(struct look), .run = run_records, .deinit = deinit_look};
    call_start(exchange, &kind);
}

void look_deadletters(struct http_exchange *exchange)
{
    static const struct call_kind kind = {
        .size = sizeof(struct look), .run = run_deadletters, .deinit = deinit_look};
    call_start(exchange, &kind);
}
