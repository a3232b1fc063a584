/* SPDX-License-Identifier: Apache-2.0 */
/* Who is connected, page by page, and the end of a connection. */
#include "adapters/http/codec.h"
#include "adapters/rest/admin.h"
#include "adapters/rest/call.h"
#include "core/base/heap.h"
#include "core/broker/connections.h"

enum { LIST_MAX = 1000, CODE_QUERY = 10540014, CODE_MISSING = 10240405 };

struct connections_call {
    struct call call;
    uint64_t id; /* 0: all are asked for */
    union {
        struct connections_list list;
        struct connection_end end;
    };
};

static struct connections_call *connections_of(struct call *call)
{
    return container_of(call, struct connections_call, call);
}

static void write_row(const struct connection_row *row, struct buf *to)
{
    json_put(to, "{\"id\":");
    json_put_number(to, (int64_t)row->id);
    json_put(to, ",\"protocol\":\"");
    json_put(to, row->protocol);
    json_put(to, "\",\"address\":");
    json_put_text(to, row->peer);
    json_put(to, ",\"user\":");
    json_put_text(to, row->user);
    json_put(to, ",\"client_id\":");
    json_put_text(to, row->client);
    json_put(to, ",\"connected\":");
    json_put_number(to, row->since_ms);
    json_put(to, ",\"queued_bytes\":");
    json_put_number(to, (int64_t)row->queued);
    json_put(to, "}");
}

static void answer_page(struct call *call, const struct connections_list *list)
{
    struct buf *to = call_out(call);
    json_put(to, "{\"connections\":[");
    for (uint32_t i = 0; i < list->count; i++) {
        json_put(to, i > 0 ? "," : "");
        write_row(&list->rows[i], to);
    }
    json_put(to, "],\"next\":");
    if (list->more)
        json_put_number(to, (int64_t)list->rows[list->count - 1].id);
    else
        json_put(to, "null");
    json_put(to, "}");
    call_answer(call, 200);
}

static void refuse_missing(struct call *call)
{
    call_refuse(call, 404, CODE_MISSING, "There is no such connection.");
}

static void listed(struct request *request, enum status status)
{
    struct connections_list *list = container_of(request, struct connections_list, request);
    struct connections_call *of = container_of(list, struct connections_call, list);
    struct call *call = &of->call;
    if (status != STATUS_OK)
        call_refuse_status(call, status, NULL);
    else if (call->exchange != NULL && of->id == 0)
        answer_page(call, list);
    else if (call->exchange != NULL && list->count == 1) {
        write_row(&list->rows[0], call_out(call));
        call_answer(call, 200);
    } else {
        refuse_missing(call);
    }
    call_release(call);
}

/* The query goes with the exchange. */
static struct span query(struct call *call, const char *name)
{
    struct span value;
    if (!http_query(call->exchange, name, &value) || value.size == 0)
        return (struct span){0};
    return span_of(arena_text(&call->arena, value.data, value.size), value.size);
}

static void list_start(struct connections_call *of, uint64_t after, uint32_t limit)
{
    struct call *call = &of->call;
    struct connections_list *list = &of->list;
    list->client = call->client;
    list->after = after;
    list->only = of->id;
    list->limit = limit;
    list->arena = &call->arena;
    list->rows = heap_array(limit, sizeof *list->rows);
    request_init(&list->request, call_loop(call), listed);
    call_hold(call);
    broker_list_connections(list);
}

static void run_list(struct call *call)
{
    struct connections_call *of = connections_of(call);
    uint64_t limit, after;
    if (!call_check_project(call) ||
        !call_query_number(call, "limit", 1, LIST_MAX, 100, CODE_QUERY, &limit) ||
        !call_query_number(call, "after", 0, INT64_MAX, 0, CODE_QUERY, &after))
        return;
    of->list.user = query(call, "user");
    of->list.name = query(call, "client_id");
    list_start(of, after, (uint32_t)limit);
}

/* False: no connection can have that id, and so it has been answered. */
static bool read_id(struct connections_call *of)
{
    struct call *call = &of->call;
    if (!call_check_project(call) || !call_check(call, ACTION_MANAGE, false, span_from_text("*")))
        return false;
    if (http_number(call_parameter(call, 1), &of->id) && of->id > 0 && of->id <= INT64_MAX)
        return true;
    refuse_missing(call);
    return false;
}

static void run_show(struct call *call)
{
    struct connections_call *of = connections_of(call);
    if (read_id(of))
        list_start(of, 0, 1);
}

static void deinit_list(struct call *call)
{
    heap_free(connections_of(call)->list.rows);
}

static void end_done(struct request *request, enum status status)
{
    struct connection_end *end = container_of(request, struct connection_end, request);
    struct call *call = &container_of(end, struct connections_call, end)->call;
    if (status == STATUS_NOT_FOUND)
        refuse_missing(call);
    else if (status != STATUS_OK)
        call_refuse_status(call, status, NULL);
    else
        call_answer(call, 204);
    call_release(call);
}

static void run_end(struct call *call)
{
    struct connections_call *of = connections_of(call);
    if (!read_id(of))
        return;
    of->end.client = call->client;
    of->end.id = of->id;
    request_init(&of->end.request, call_loop(call), end_done);
    call_hold(call);
    broker_end_connection(&of->end);
}

void connections_list(struct http_exchange *exchange)
{
    static const struct call_kind kind = {
        .size = sizeof(struct connections_call), .run = run_list, .deinit = deinit_list};
    call_start(exchange, &kind);
}

void connections_show(struct http_exchange *exchange)
{
    static const struct call_kind kind = {
        .size = sizeof(struct connections_call), .run = run_show, .deinit = deinit_list};
    call_start(exchange, &kind);
}

void connections_end(struct http_exchange *exchange)
{
    static const struct call_kind kind = {.size = sizeof(struct connections_call), .run = run_end};
    call_start(exchange, &kind);
}
