/* SPDX-License-Identifier: Apache-2.0 */
/* Routes: topic filter -> queue. The filter stands percent-encoded in the path. */
#include "adapters/rest/admin.h"
#include "adapters/rest/change.h"
#include "core/broker/topic.h"

static const struct change_codes route_codes = {.not_found = 10240401, .invalid = 10540014};

static void write_route(struct call *call, const struct route *route)
{
    const struct queue *queue = catalog_queue(call_catalog(call), route->queue);
    struct buf *to = call_out(call);
    json_put(to, "{\"filter\":");
    json_put_text(to, span_from_text(route->filter));
    json_put(to, ",\"queue\":");
    json_put_text_or_null(to, queue == NULL ? NULL : queue->name);
    json_put(to, ",\"queue_id\":");
    json_put_text_or_null(to, queue == NULL ? NULL : queue->uuid);
    json_put(to, "}");
}

static bool may_see(const struct call *call, const struct route *route)
{
    return broker_check(call->client, ACTION_MANAGE, true, span_from_text(route->filter)) ==
           STATUS_OK;
}

static void run_list(struct call *call)
{
    if (!call_check_project(call))
        return;
    const struct catalog *catalog = call_catalog(call);
    struct buf *to = call_out(call);
    bool first = true;
    json_put(to, "{\"routes\":[");
    for (size_t i = 0; i < catalog_route_count(catalog); i++) {
        const struct route *route = catalog_route_at(catalog, i);
        if (!may_see(call, route))
            continue;
        if (!first)
            json_put(to, ",");
        first = false;
        write_route(call, route);
    }
    json_put(to, "]}");
    call_answer(call, 200);
}

static void run_show(struct call *call)
{
    if (!call_check_project(call))
        return;
    const struct route *route =
        catalog_route_by_filter(call_catalog(call), call->client->tenant, call_parameter(call, 1));
    if (route == NULL) {
        call_refuse(call, 404, 10240401, "There is no such route.");
    } else if (!may_see(call, route)) {
        call_refuse_status(call, STATUS_DENIED, NULL);
    } else {
        write_route(call, route);
        call_answer(call, 200);
    }
}

static void was_set(struct change *change)
{
    struct call *call = &change->call;
    const struct route *route =
        catalog_route_by_filter(call_catalog(call), call->client->tenant, change->admin.name);
    if (call->exchange == NULL)
        return;
    if (route == NULL) { /* gone again already */
        call_answer(call, 204);
        return;
    }
    write_route(call, route);
    call_answer(call, 200);
}

/* The filter must outlive the exchange, whose bytes go when its connection does. */
static bool read_filter(struct change *change)
{
    struct call *call = &change->call;
    struct span filter = call_parameter(call, 1);
    if (!topic_filter_is_valid(filter)) {
        call_refuse(call, 400, 10540014, "That is not a topic filter.");
        return false;
    }
    change->admin.name = span_of(arena_text(&call->arena, filter.data, filter.size), filter.size);
    return true;
}

static void run_set(struct call *call)
{
    struct change *change = change_of(call);
    if (!call_check_project(call) || !read_filter(change) || !call_read_object(call, 10540012))
        return;
    const json_t *name = json_object_get(call->body, "queue");
    const struct queue *queue =
        json_is_string(name)
            ? catalog_queue_by_text(call_catalog(call), call->client->tenant, json_span(name))
            : NULL;
    if (queue == NULL) {
        call_refuse(call, json_is_string(name) ? 404 : 400,
                    json_is_string(name) ? 10240401 : 10540010,
                    "queue must be the name or id of a queue.");
        return;
    }
    change->codes = &route_codes;
    change->applied = was_set;
    change->admin.id = queue->id;
    change_start(change, ADMIN_ROUTE_SET);
}

static void was_deleted(struct change *change)
{
    call_answer(&change->call, 204);
}

static void run_delete(struct call *call)
{
    struct change *change = change_of(call);
    if (!call_check_project(call) || !read_filter(change))
        return;
    change->codes = &route_codes;
    change->applied = was_deleted;
    change_start(change, ADMIN_ROUTE_DELETE);
}

void routes_list(struct http_exchange *exchange)
{
    static const struct call_kind kind = {.size = sizeof(struct call), .run = run_list};
    call_start(exchange, &kind);
}

void routes_show(struct http_exchange *exchange)
{
    static const struct call_kind kind = {.size = sizeof(struct call), .run = run_show};
    call_start(exchange, &kind);
}

void routes_set(struct http_exchange *exchange)
{
    static const struct call_kind kind = {.size = sizeof(struct change), .run = run_set};
    call_start(exchange, &kind);
}

void routes_delete(struct http_exchange *exchange)
{
    static const struct call_kind kind = {.size = sizeof(struct change), .run = run_delete};
    call_start(exchange, &kind);
}
