/* SPDX-License-Identifier: Apache-2.0 */
/* Consuming: leases go out with their receipts as handlers, and come back as settlements. */
#include "adapters/rest/consume.h"

#include "adapters/rest/call.h"
#include "adapters/rest/view.h"
#include "core/base/check.h"

enum { TAKE_MAX = 10, TAKE_BYTES = 512 * 1024, RECEIPTS_MAX = 1000, CODE_HANDLER = 10542209 };

/* ---------------------------------------------------------------- take */

struct consume {
    struct call call;
    struct group_spec *group; /* a reference */
    struct group_take take;
    struct group_item items[TAKE_MAX];
    struct group_settle give_back;
    struct receipt receipts[TAKE_MAX];
    enum status results[TAKE_MAX];
    bool taking;
};

static void given_back(struct request *request, enum status status)
{
    struct consume *consume = container_of(request, struct consume, give_back.request);
    (void)status;
    call_release(&consume->call);
}

/* The client went away while its messages were on their way: others need not wait for the leases to
 * run out. */
static void give_back(struct consume *consume)
{
    for (uint32_t i = 0; i < consume->take.count; i++)
        consume->receipts[i] = consume->items[i].receipt;
    consume->give_back = (struct group_settle){
        .receipts = consume->receipts,
        .outcome = SETTLE_RELEASED,
        .count = consume->take.count,
        .results = consume->results,
    };
    request_init(&consume->give_back.request, call_loop(&consume->call), given_back);
    call_hold(&consume->call);
    broker_settle(consume->call.client, consume->group, &consume->give_back);
}

static void write_item(const struct group_item *item, struct buf *to)
{
    struct record record;
    char handler[RECEIPT_TEXT_SIZE];
    batch_record(item->batch, item->index, &record);
    receipt_format(&item->receipt, handler);
    json_put(to, "{\"message\":{");
    view_write(&record, to);
    if (item->failures > 0) {
        json_put(to, ",\"delivery_count\":");
        json_put_number(to, item->failures);
    }
    json_put(to, "},\"handler\":\"");
    json_put(to, handler);
    json_put(to, "\"}");
}

static void take_done(struct request *request, enum status status)
{
    struct group_take *take = container_of(request, struct group_take, request);
    struct consume *consume = container_of(take, struct consume, take);
    struct call *call = &consume->call;
    consume->taking = false;
    if (status != STATUS_OK) {
        call_refuse_status(call, status, NULL);
    } else if (call->exchange == NULL) {
        if (take->count > 0)
            give_back(consume);
    } else {
        json_put(call_out(call), "[");
        for (uint32_t i = 0; i < take->count; i++) {
            if (i > 0)
                json_put(call_out(call), ",");
            write_item(&consume->items[i], call_out(call));
        }
        json_put(call_out(call), "]");
        call_answer(call, 200);
    }
    for (uint32_t i = 0; i < take->count; i++)
        batch_unref(consume->items[i].batch);
    call_release(call);
}

static void run_take(struct call *call)
{
    struct consume *consume = container_of(call, struct consume, call);
    uint64_t max, wait_s, lease_s;
    struct span tag;
    if (!call_check_project(call))
        return;
    const struct queue *queue = call_queue(call, 1);
    const struct group_spec *group = queue == NULL ? NULL : call_group(call, queue, 2);
    if (group == NULL ||
        !call_query_number(call, "max_msgs", 1, TAKE_MAX, TAKE_MAX, 10240014, &max) ||
        !call_query_number(call, "time_wait", 1, 60, 3, 10240021, &wait_s) ||
        !call_query_number(call, "ack_wait", 15, 300, 30, 10542206, &lease_s))
        return;
    if (http_query(call->exchange, "tag", &tag) && tag.size > 0) {
        call_refuse(call, 400, 10540010, "Filtering by message tags is not supported yet.");
        return;
    }
    consume->group = group_spec_ref(group);
    consume->take = (struct group_take){
        .max_records = (uint32_t)max,
        .max_bytes = TAKE_BYTES,
        .wait_ms = (uint32_t)wait_s * 1000,
        .lease_ms = (uint32_t)lease_s * 1000,
        .items = consume->items,
    };
    request_init(&consume->take.request, call_loop(call), take_done);
    consume->taking = true;
    call_hold(call);
    broker_take(call->client, group, &consume->take);
}

static void cancel_take(struct call *call)
{
    struct consume *consume = container_of(call, struct consume, call);
    if (consume->taking)
        broker_take_cancel(call->client, consume->group, &consume->take);
}

static void deinit_take(struct call *call)
{
    struct consume *consume = container_of(call, struct consume, call);
    if (consume->group != NULL)
        group_spec_unref(consume->group);
}

void consume_messages(struct http_exchange *exchange)
{
    static const struct call_kind kind = {
        .size = sizeof(struct consume),
        .run = run_take,
        .canceled = cancel_take,
        .deinit = deinit_take,
    };
    call_start(exchange, &kind);
}

/* ---------------------------------------------------------------- settle */

/* Up to two settlements: what is done, then what has failed. */
struct settle {
    struct call call;
    struct group_spec *group; /* a reference */
    bool ours;
    struct receipt *receipts;
    enum status *results;
    uint32_t count, done; /* the first done are done, the others failed */
    struct group_settle settle;
};

static void settle_failed(struct settle *settle);

static void answer_settle(struct settle *settle)
{
    struct call *call = &settle->call;
    uint32_t success = 0;
    while (success < settle->done && settle->results[success] == STATUS_OK)
        success++;
    if (success == 0 && settle->results[0] == STATUS_STALE) {
        call_refuse(call, 400, CODE_HANDLER,
                    "The handler does not exist: it has timed out or was acknowledged before.");
        return;
    }
    if (call->exchange == NULL)
        return;
    if (settle->done == 0) /* a nack of ours: what was still to be had has been taken back */
        while (settle->ours && success < settle->count && settle->results[success] == STATUS_OK)
            success++;
    json_put(call_out(call), "{\"success\":");
    json_put_number(call_out(call), success);
    json_put(call_out(call), ",\"fail\":");
    json_put_number(call_out(call), settle->count - success);
    json_put(call_out(call), "}");
    call_answer(call, 200);
}

static void settle_ended(struct request *request, enum status status)
{
    struct settle *settle = container_of(request, struct settle, settle.request);
    if (status != STATUS_OK)
        call_refuse_status(&settle->call, status, NULL);
    else if (settle->settle.outcome == SETTLE_DONE && settle->done < settle->count)
        settle_failed(settle);
    else
        answer_settle(settle);
    call_release(&settle->call);
}

static void settle_some(struct settle *settle, enum settle_outcome outcome, uint32_t first,
                        uint32_t count)
{
    settle->settle = (struct group_settle){
        .receipts = settle->receipts + first,
        .outcome = outcome,
        .count = count,
        .results = settle->results + first,
    };
    request_init(&settle->settle.request, call_loop(&settle->call), settle_ended);
    call_hold(&settle->call);
    broker_settle(settle->call.client, settle->group, &settle->settle);
}

static void settle_failed(struct settle *settle)
{
    settle_some(settle, SETTLE_FAILED, settle->done, settle->count - settle->done);
}

static void settle_begin(struct settle *settle)
{
    if (settle->done > 0)
        settle_some(settle, SETTLE_DONE, 0, settle->done);
    else
        settle_failed(settle);
}

static bool read_receipt(struct settle *settle, const json_t *handler, uint32_t index)
{
    struct receipt *receipt = &settle->receipts[index];
    if (json_is_string(handler) && receipt_parse(json_span(handler), receipt) &&
        receipt->group == settle->group->id)
        return true;
    call_refuse(&settle->call, 400, CODE_HANDLER, "The handler does not exist: it cannot be read.");
    return false;
}

/* Makes room for the receipts of the array; refuses when it is none, or too long. */
static bool prepare(struct settle *settle, const json_t *array, const char *name)
{
    struct call *call = &settle->call;
    size_t count = json_array_size(array);
    if (!json_is_array(array) || count == 0 || count > RECEIPTS_MAX) {
        call_refuse(call, 400, 10540010, "%s must be an array of 1 to %d entries.", name,
                    RECEIPTS_MAX);
        return false;
    }
    settle->receipts = arena_alloc(&call->arena, count * sizeof *settle->receipts);
    settle->results = arena_alloc(&call->arena, count * sizeof *settle->results);
    CHECK(settle->receipts != NULL && settle->results != NULL);
    settle->count = (uint32_t)count;
    return true;
}

static bool find_group(struct settle *settle)
{
    struct call *call = &settle->call;
    if (!call_check_project(call))
        return false;
    const struct queue *queue = call_queue(call, 1);
    const struct group_spec *group = queue == NULL ? NULL : call_group(call, queue, 2);
    if (group != NULL)
        settle->group = group_spec_ref(group);
    return group != NULL;
}

/* Entries count in their order up to the first that has failed; the rest fails with it. */
static void run_ack(struct call *call)
{
    struct settle *settle = container_of(call, struct settle, call);
    if (!find_group(settle) || !call_read_object(call, 10540012))
        return;
    const json_t *entries = json_object_get(call->body, "message");
    if (!prepare(settle, entries, "message"))
        return;
    settle->done = settle->count;
    for (uint32_t i = 0; i < settle->count; i++) {
        const json_t *entry = json_array_get(entries, i),
                     *status = json_object_get(entry, "status");
        if (!read_receipt(settle, json_object_get(entry, "handler"), i))
            return;
        bool failed = json_is_string(status) && span_is(json_span(status), "fail");
        bool good = status == NULL || json_is_null(status) ||
                    (json_is_string(status) && span_is(json_span(status), "success"));
        if (!failed && !good) {
            call_refuse(
                call, 400, 10540003,
                "Message ack status must be either 'success' or 'fail'. It should not be '%.100s'.",
                json_is_string(status) ? json_string_value(status) : "not a string");
            return;
        }
        if (failed && i < settle->done)
            settle->done = i;
    }
    settle_begin(settle);
}

/* {"receipts": […]}: all done, or all failed. */
static void run_settle(struct call *call)
{
    struct settle *settle = container_of(call, struct settle, call);
    settle->ours = true;
    if (!find_group(settle) || !call_read_object(call, 10540012))
        return;
    const json_t *receipts = json_object_get(call->body, "receipts");
    if (!prepare(settle, receipts, "receipts"))
        return;
    if (json_number_value(json_object_get(call->body, "delay_ms")) > 0) {
        call_refuse(call, 400, 10540010, "Delayed redelivery is not supported yet.");
        return;
    }
    for (uint32_t i = 0; i < settle->count; i++) {
        if (!read_receipt(settle, json_array_get(receipts, i), i))
            return;
    }
    const char *pattern = call->exchange->route->pattern;
    bool done = strcmp(pattern + strlen(pattern) - 5, "/nack") != 0;
    settle->done = done ? settle->count : 0;
    settle_begin(settle);
}

static void deinit_settle(struct call *call)
{
    struct settle *settle = container_of(call, struct settle, call);
    if (settle->group != NULL)
        group_spec_unref(settle->group);
}

void consume_ack(struct http_exchange *exchange)
{
    static const struct call_kind kind = {
        .size = sizeof(struct settle), .run = run_ack, .deinit = deinit_settle};
    call_start(exchange, &kind);
}

void consume_settle(struct http_exchange *exchange)
{
    static const struct call_kind kind = {
        .size = sizeof(struct settle), .run = run_settle, .deinit = deinit_settle};
    call_start(exchange, &kind);
}

/* ---------------------------------------------------------------- look */

enum { RECORDS_MAX = 1000, RECORDS_BYTES = 1024 * 1024 };

struct look {
    struct call call;
    struct log_read read;
    uint64_t partition, offset, limit;
    uint32_t count;
};

static void write_record(struct look *look, const struct record *record)
{
    struct buf *to = call_out(&look->call);
    json_put(to, look->count > 0 ? ",{\"offset\":" : "{\"offset\":");
    json_put_number(to, (int64_t)record->offset);
    json_put(to, ",\"time\":");
    json_put_number(to, record->append_time_ms);
    json_put(to, ",\"publish_time\":");
    json_put_number(to, record->timestamp_ms);
    json_put(to, ",");
    view_write(record, to);
    json_put(to, "}");
    look->count++;
    look->offset = record->offset + 1;
}

static void write_batch(struct look *look, const struct batch *batch)
{
    for (uint32_t i = 0; i < batch->record_count && look->count < look->limit; i++) {
        struct record record;
        batch_record(batch, i, &record);
        if (record.offset >= look->offset)
            write_record(look, &record);
    }
}

static void look_done(struct request *request, enum status status)
{
    struct log_read *read = container_of(request, struct log_read, request);
    struct look *look = container_of(read, struct look, read);
    struct call *call = &look->call;
    if (status == STATUS_OUT_OF_RANGE || status == STATUS_CORRUPT) {
        call_refuse(call, 400, 10540014, "Nothing is kept there; go on at offset %llu.",
                    (unsigned long long)read->start);
    } else if (status != STATUS_OK) {
        call_refuse_status(call, status, NULL);
    } else if (call->exchange != NULL) {
        struct buf *to = call_out(call);
        if (read->by_time)
            look->offset = read->count > 0 ? read->batches[0]->base_offset : read->end;
        json_put(to, "{\"records\":[");
        for (uint32_t i = 0; i < read->count; i++)
            write_batch(look, read->batches[i]);
        json_put(to, "],\"partition\":");
        json_put_number(to, (int64_t)look->partition);
        json_put(to, ",\"next\":");
        json_put_number(to, (int64_t)look->offset);
        json_put(to, ",\"start\":");
        json_put_number(to, (int64_t)read->start);
        json_put(to, ",\"end\":");
        json_put_number(to, (int64_t)read->end);
        json_put(to, "}");
        call_answer(call, 200);
    }
    for (uint32_t i = 0; i < read->count; i++)
        batch_unref(read->batches[i]);
    call_release(call);
}

static void run_look(struct call *call)
{
    struct look *look = container_of(call, struct look, call);
    uint64_t time_ms;
    if (!call_check_project(call))
        return;
    const struct queue *queue = call_queue(call, 1);
    if (queue == NULL || !call_query_number(call, "partition", 0, queue->partition_count - 1, 0,
                                            10540014, &look->partition))
        return;
    uint64_t start = atomic_load(&queue->stat->partitions[look->partition].start);
    if (!call_query_number(call, "offset", 0, INT64_MAX, start, 10540014, &look->offset) ||
        !call_query_number(call, "time", 0, INT64_MAX, 0, 10540014, &time_ms) ||
        !call_query_number(call, "limit", 1, RECORDS_MAX, 100, 10540014, &look->limit))
        return;
    struct span given;
    if (http_query(call->exchange, "label", &given) ||
        http_query(call->exchange, "selector", &given)) {
        call_refuse(call, 400, 10540014, "Selecting records is not supported yet.");
        return;
    }
    look->read.partition = queue->first_partition + look->partition;
    look->read.offset = look->offset;
    look->read.by_time = http_query(call->exchange, "time", &given);
    look->read.time_ms = (int64_t)time_ms;
    look->read.max_bytes = RECORDS_BYTES;
    request_init(&look->read.request, call_loop(call), look_done);
    call_hold(call);
    broker_read(call->client, queue, &look->read);
}

void consume_records(struct http_exchange *exchange)
{
    static const struct call_kind kind = {.size = sizeof(struct look), .run = run_look};
    call_start(exchange, &kind);
}
