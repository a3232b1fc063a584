/* SPDX-License-Identifier: Apache-2.0 */
/* A page of retained records; the next one begins behind the topic that ends this one. */
#include "adapters/rest/retained.h"

#include "adapters/rest/call.h"
#include "adapters/rest/view.h"

enum { LIST_MAX = 1000, ANSWER_BYTES = 1024 * 1024, CODE_QUERY = 10540014 };

struct list_call {
    struct call call;
    struct broker_retained list;
    uint64_t limit, count;
    struct buf last; /* topic shown last */
    bool more;
};

static struct list_call *list_of(struct call *call)
{
    return container_of(call, struct list_call, call);
}

static bool show(struct broker_retained *list, struct span topic, const struct record *record)
{
    struct list_call *to = container_of(list, struct list_call, list);
    if (to->call.exchange == NULL)
        return false;
    struct buf *out = call_out(&to->call);
    to->more = to->count == to->limit || out->size >= ANSWER_BYTES;
    if (to->more)
        return false;
    json_put(out, to->count++ > 0 ? ",{\"publish_time\":" : "{\"publish_time\":");
    json_put_number(out, record->timestamp_ms);
    json_put(out, ",");
    view_write(record, true, out);
    json_put(out, "}");
    buf_clear(&to->last);
    return buf_append(&to->last, topic.data, topic.size) == STATUS_OK;
}

static void listed(struct request *request, enum status status)
{
    struct broker_retained *list = container_of(request, struct broker_retained, request);
    struct list_call *to = container_of(list, struct list_call, list);
    struct call *call = &to->call;
    if (status == STATUS_INVALID) {
        call_refuse(call, 400, CODE_QUERY, "filter must be a topic filter, after a topic.");
    } else if (status != STATUS_OK) {
        call_refuse_status(call, status, NULL);
    } else if (call->exchange != NULL) {
        json_put(call_out(call), "],\"next\":");
        if (to->more)
            json_put_text(call_out(call), buf_span(&to->last));
        else
            json_put(call_out(call), "null");
        json_put(call_out(call), "}");
        call_answer(call, 200);
    }
    call_release(call);
}

/* The query goes with the connection. */
static struct span query(struct call *call, const char *name, const char *fallback)
{
    struct span value;
    if (!http_query(call->exchange, name, &value) || value.size == 0)
        return span_from_text(fallback);
    return span_of(arena_text(&call->arena, value.data, value.size), value.size);
}

static void run(struct call *call)
{
    struct list_call *to = list_of(call);
    buf_init(&to->last, LIMIT_TOPIC_BYTES);
    if (!call_check_project(call) ||
        !call_query_number(call, "limit", 1, LIST_MAX, 100, CODE_QUERY, &to->limit))
        return;
    to->list.client = call->client;
    to->list.filter = query(call, "filter", "#");
    to->list.after = query(call, "after", "");
    to->list.show = show;
    request_init(&to->list.request, call_loop(call), listed);
    json_put(call_out(call), "{\"retained\":[");
    call_hold(call);
    broker_list_retained(&to->list);
}

static void deinit(struct call *call)
{
    buf_deinit(&list_of(call)->last);
}

void retained_list(struct http_exchange *exchange)
{
    static const struct call_kind kind = {
        .size = sizeof(struct list_call), .run = run, .deinit = deinit};
    call_start(exchange, &kind);
}
