/* SPDX-License-Identifier: Apache-2.0 */
/* Publishing. A call's messages are all read and checked before the first is published; it is
 * answered when the broker has answered for each. */
#include "adapters/rest/produce.h"

#include "adapters/http/codec.h"
#include "adapters/rest/call.h"
#include "adapters/rest/view.h"
#include "core/base/check.h"
#include "core/base/limits.h"

enum { DMS_MESSAGES_MAX = 10, DMS_BYTES_MAX = 512 * 1024 };

struct produce;

/* What became of one message; its address is the token. */
struct result {
    struct produce *produce;
    enum status status;
    uint64_t partition, offset;
    struct delay_id delay; /* due_ms 0: not delayed */
};

struct produce {
    struct call call;
    bool ours, with_ids;
    struct publish *publishes;
    struct result *results;
    uint32_t count, answered;
};

/* ---------------------------------------------------------------- answer */

/* Where it is; of a delayed message what cancels it. */
static void write_id(const struct result *result, int64_t index, struct buf *to)
{
    if (result->offset == DEDUP_OFFSET_UNKNOWN) {
        json_put(to, ",\"id\":null");
        return;
    }
    json_put(to, ",\"id\":\"");
    if (result->delay.due_ms > 0) {
        char text[DELAY_ID_TEXT];
        delay_id_format(&result->delay, text);
        json_put(to, text);
    } else {
        json_put_number(to, index);
        json_put(to, "-");
        json_put_number(to, (int64_t)result->offset);
    }
    json_put(to, "\"");
}

static void write_place(const struct result *result, const struct queue *queue, int64_t index,
                        struct buf *to)
{
    if (queue != NULL) {
        json_put(to, ",\"queue\":");
        json_put_text(to, span_from_text(queue->name));
    }
    json_put(to, ",\"partition\":");
    json_put_number(to, index);
    json_put(to, result->delay.due_ms > 0 ? ",\"due\":" : ",\"offset\":");
    if (result->offset == DEDUP_OFFSET_UNKNOWN) /* of a duplicate of something long ago */
        json_put(to, "null");
    else
        json_put_number(to,
                        result->delay.due_ms > 0 ? result->delay.due_ms : (int64_t)result->offset);
}

static const char *refusal_text(enum status status)
{
    return status == STATUS_OUT_OF_RANGE ? "that number is not the producer's next one"
           : status == STATUS_STALE      ? "the producer has a later epoch"
                                         : status_text(status);
}

static void write_result(struct produce *produce, const struct result *result)
{
    struct buf *to = call_out(&produce->call);
    if (result->status != STATUS_OK) {
        json_put(to, "{\"error\":");
        json_put_text(to, span_from_text(refusal_text(result->status)));
        json_put(to, ",\"error_code\":\"DMS.10540004\",\"state\":1}");
        return;
    }
    const struct queue *queue =
        catalog_queue_of_partition(call_catalog(&produce->call), result->partition);
    int64_t index = queue == NULL ? 0 : (int64_t)(result->partition - queue->first_partition);
    json_put(to, "{\"error\":null,\"error_code\":null,\"state\":0");
    if (produce->with_ids)
        write_id(result, index, to);
    if (produce->ours)
        write_place(result, queue, index, to);
    json_put(to, "}");
}

/* When nothing at all was accepted for one and the same reason, that is the answer. */
static bool refuse_all(struct produce *produce)
{
    enum status status = produce->results[0].status;
    for (uint32_t i = 0; i < produce->count; i++) {
        if (produce->results[i].status == STATUS_OK || produce->results[i].status != status)
            return false;
    }
    call_refuse_status(&produce->call, status, refusal_text(status));
    return true;
}

static void answer(struct produce *produce)
{
    struct call *call = &produce->call;
    if (call->exchange == NULL || refuse_all(produce))
        return;
    json_put(call_out(call), "{\"messages\":[");
    for (uint32_t i = 0; i < produce->count; i++) {
        if (i > 0)
            json_put(call_out(call), ",");
        write_result(produce, &produce->results[i]);
    }
    json_put(call_out(call), "]}");
    call_answer(call, 201);
}

void produce_delayed(struct client *client, uint64_t token, const struct delay_id *id)
{
    struct result *result = (struct result *)(uintptr_t)token;
    CHECK(result->produce->call.client == client);
    result->delay = *id;
}

void produce_answered(struct client *client, uint64_t token, enum status status, uint64_t partition,
                      uint64_t offset)
{
    struct result *result = (struct result *)(uintptr_t)token;
    struct produce *produce = result->produce;
    CHECK(produce->call.client == client);
    result->status = status;
    result->partition = partition;
    result->offset = offset;
    if (++produce->answered < produce->count)
        return;
    answer(produce);
    call_release(&produce->call);
}

/* ---------------------------------------------------------------- request */

static bool read_messages(struct produce *produce, const struct queue *queue, struct span topic,
                          size_t count_max, size_t bytes_max)
{
    struct call *call = &produce->call;
    const json_t *messages = json_object_get(call->body, "messages");
    size_t count = json_array_size(messages), total = 0;
    if (!json_is_array(messages) || count == 0 || count > count_max) {
        call_refuse(call, 400, 10540010, "messages must be an array of 1 to %zu messages.",
                    count_max);
        return false;
    }
    produce->publishes = arena_alloc(&call->arena, count * sizeof *produce->publishes);
    produce->results = arena_alloc(&call->arena, count * sizeof *produce->results);
    CHECK(produce->publishes != NULL && produce->results != NULL);
    for (size_t i = 0; i < count; i++) {
        struct publish *publish = &produce->publishes[i];
        struct err err;
        size_t size = 0;
        *publish = (struct publish){.queue = queue, .topic = topic};
        unsigned code = view_read(&call->arena, json_array_get(messages, i), produce->ours, publish,
                                  &size, &err);
        if (code != 0) {
            call_refuse(call, 400, code, "%s", err.text);
            return false;
        }
        total += size;
        produce->results[i].produce = produce;
        publish->guarantee = GUARANTEE_AT_LEAST_ONCE;
        publish->answer = true;
        publish->token = (uint64_t)(uintptr_t)&produce->results[i];
    }
    produce->count = (uint32_t)count;
    if (total > bytes_max) {
        call_refuse(call, 400, 10540011, "The message size %zu is over the limit %zu.", total,
                    bytes_max);
        return false;
    }
    return true;
}

/* A number in a header; absent: fallback, -1 if there must be one. */
static bool read_header_number(struct call *call, const char *name, struct span text,
                               int32_t fallback, int32_t high, int32_t *number)
{
    uint64_t value = (uint64_t)fallback;
    if (text.size == 0 ? fallback >= 0 : http_number(text, &value) && value <= (uint64_t)high) {
        *number = (int32_t)value;
        return true;
    }
    call_refuse(call, 400, 10540010, "%s must be a number from 0 to %d.", name, high);
    return false;
}

/* What the head says of the messages' ids holds for all of them: they share the key, or have one
 * number after the other. */
static bool read_ids(struct produce *produce)
{
    struct call *call = &produce->call;
    const struct http_head *head = &call->exchange->head;
    int32_t sequence = 0, epoch = 0;
    bool numbered = head->producer_id.size > 0;
    if (numbered &&
        (!read_header_number(call, "Producer-Seq", head->producer_seq, -1, INT32_MAX, &sequence) ||
         !read_header_number(call, "Producer-Epoch", head->producer_epoch, 0, INT16_MAX, &epoch)))
        return false;
    for (uint32_t i = 0; i < produce->count; i++) {
        struct publish *publish = &produce->publishes[i];
        struct err err;
        if (head->idempotency_key.size > 0 && publish->dedup_id.data == NULL) {
            publish->dedup_id = head->idempotency_key;
            publish->dedup_part = i;
        }
        if (numbered) {
            publish->producer = head->producer_id;
            publish->producer_epoch = epoch;
            publish->sequence = (int32_t)(((uint32_t)sequence + i) & INT32_MAX);
        }
        if (broker_check_id(publish, &err) != STATUS_OK) {
            call_refuse(call, 400, 10540010, "%s.", err.text);
            return false;
        }
    }
    return true;
}

static void publish_all(struct produce *produce)
{
    struct call *call = &produce->call;
    if (!read_ids(produce))
        return;
    if (!broker_may_publish(call->client)) {
        call_refuse_status(call, STATUS_BUSY, NULL);
        return;
    }
    call_hold(call);
    for (uint32_t i = 0; i < produce->count; i++)
        broker_publish(call->client, &produce->publishes[i]);
}

static void run_messages(struct call *call)
{
    struct produce *produce = container_of(call, struct produce, call);
    if (!call_check_project(call))
        return;
    const struct queue *queue = call_queue(call, 1);
    if (queue == NULL || !call_read_object(call, 10540012))
        return;
    produce->with_ids = json_is_true(json_object_get(call->body, "returnId")) ||
                        json_is_true(json_object_get(call->body, "return_id"));
    if (read_messages(produce, queue, (struct span){0}, DMS_MESSAGES_MAX, DMS_BYTES_MAX))
        publish_all(produce);
}

/* "topic", or "queue" by name or id. */
static bool read_target(struct call *call, const struct queue **queue, struct span *topic)
{
    const json_t *to_topic = json_object_get(call->body, "topic"),
                 *to_queue = json_object_get(call->body, "queue");
    if (json_is_string(to_topic) == json_is_string(to_queue)) {
        call_refuse(call, 400, 10540010, "A publish names either a topic or a queue.");
        return false;
    }
    if (json_is_string(to_topic)) {
        *topic = json_span(to_topic);
        return true;
    }
    *queue = catalog_queue_by_text(call_catalog(call), call->client->tenant, json_span(to_queue));
    if (*queue == NULL)
        call_refuse(call, 404, 10240401, "There is no such queue.");
    return *queue != NULL;
}

static void run_publish(struct call *call)
{
    struct produce *produce = container_of(call, struct produce, call);
    const struct queue *queue = NULL;
    struct span topic = {0};
    if (!call_check_project(call) || !call_read_object(call, 10540012) ||
        !read_target(call, &queue, &topic))
        return;
    produce->ours = produce->with_ids = true;
    bool retain = json_is_true(json_object_get(call->body, "retain"));
    if (retain && queue != NULL) {
        call_refuse(call, 400, 10540010, "Only messages of a topic can be retained.");
        return;
    }
    const json_t *key = json_object_get(call->body, "key");
    if (!read_messages(produce, queue, topic, LIMIT_CALL_RECORDS, LIMIT_HTTP_BODY))
        return;
    for (uint32_t i = 0; i < produce->count; i++)
        produce->publishes[i].retain = retain;
    for (uint32_t i = 0; json_is_string(key) && i < produce->count; i++) {
        if (produce->publishes[i].key.data == NULL)
            produce->publishes[i].key = json_span(key);
    }
    publish_all(produce);
}

void produce_messages(struct http_exchange *exchange)
{
    static const struct call_kind kind = {.size = sizeof(struct produce), .run = run_messages};
    call_start(exchange, &kind);
}

void produce_publish(struct http_exchange *exchange)
{
    static const struct call_kind kind = {.size = sizeof(struct produce), .run = run_publish};
    call_start(exchange, &kind);
}
