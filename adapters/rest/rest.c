/* SPDX-License-Identifier: Apache-2.0 */
/* The table of all REST routes, and the calls that need no project: health, metrics, description.
 */
#include "adapters/rest/rest.h"

#include "adapters/rest/admin.h"
#include "adapters/rest/call.h"
#include "adapters/rest/consume.h"
#include "adapters/rest/look.h"
#include "adapters/rest/openapi.h"
#include "adapters/rest/position.h"
#include "adapters/rest/produce.h"
#include "adapters/rest/queues.h"
#include "adapters/rest/retained.h"
#include "adapters/rest/upkeep.h"
#include "core/base/heap.h"

/* ---------------------------------------------------------------- health */

static void health_live(struct http_exchange *exchange)
{
    json_put(&exchange->answer, "{\"status\":\"ok\"}");
    http_answer(exchange, 200, "application/json");
}

static void health_ready(struct http_exchange *exchange)
{
    const struct rest *rest = exchange->context;
    const char *reason = NULL;
    enum status health = broker_storage_health(rest->worker);
    if (health != STATUS_OK)
        reason = status_text(health);
    else if (!broker_is_ready(rest->broker))
        reason = "not all partitions are open yet";
    if (reason == NULL) {
        json_put(&exchange->answer, "{\"status\":\"ready\"}");
        http_answer(exchange, 200, "application/json");
        return;
    }
    json_put(&exchange->answer, "{\"status\":\"not ready\",\"reason\":");
    json_put_text(&exchange->answer, span_from_text(reason));
    json_put(&exchange->answer, "}");
    http_header(exchange, "Retry-After", "1");
    http_answer(exchange, 503, "application/json");
}

static void show_openapi(struct http_exchange *exchange)
{
    buf_append(&exchange->answer, openapi_text, openapi_size);
    http_answer(exchange, 200, "application/json");
}

/* Names of queues stand in them, so that strangers see no metrics once there are users. */
static void run_metrics(struct call *call)
{
    enum status status = broker_metrics(call->rest->worker, call_out(call));
    if (status != STATUS_OK) {
        call_refuse_status(call, status, NULL);
        return;
    }
    call_answer_as(call, 200, "text/plain; version=0.0.4; charset=utf-8");
}

static void show_metrics(struct http_exchange *exchange)
{
    static const struct call_kind kind = {.size = sizeof(struct call), .run = run_metrics};
    call_start(exchange, &kind);
}

/* ---------------------------------------------------------------- routes */

/* The calls of DMS, under both of its versions. */
#define DMS(METHOD, PATH, HANDLE)                                                                  \
    {HTTP_##METHOD, "/v1.0/{project}" PATH, HANDLE},                                               \
    {                                                                                              \
        HTTP_##METHOD, "/v2/{project}" PATH, HANDLE                                                \
    }
#define OURS(METHOD, PATH, HANDLE)                                                                 \
    {                                                                                              \
        HTTP_##METHOD, "/v1/{project}" PATH, HANDLE                                                \
    }
#define GROUP "/queues/{queue}/groups/{group}"

const struct http_route rest_routes[] = {
    {HTTP_GET, "/healthz", health_live},
    {HTTP_GET, "/readyz", health_ready},
    {HTTP_GET, "/metrics", show_metrics},
    {HTTP_GET, "/openapi.json", show_openapi},

    DMS(POST, "/queues", queues_create),
    DMS(GET, "/queues", queues_list),
    DMS(GET, "/queues/{queue}", queues_show),
    DMS(DELETE, "/queues/{queue}", queues_delete),
    DMS(POST, "/queues/{queue}/messages", produce_messages),
    DMS(POST, "/queues/{queue}/groups", groups_create),
    DMS(GET, "/queues/{queue}/groups", groups_list),
    DMS(DELETE, GROUP, groups_delete),
    DMS(GET, GROUP "/messages", consume_messages),
    DMS(POST, GROUP "/ack", settle_ack),
    DMS(GET, GROUP "/deadletters", consume_deadletters),
    DMS(POST, GROUP "/deadletters/ack", settle_dead_ack),
    {HTTP_GET, "/v1.0/{project}/quotas/dms", queues_quota},
    {HTTP_GET, "/v2/{project}/quotas/dms", queues_quota},
    {HTTP_GET, "/v2/{project}/quotas", queues_quota},

    OURS(POST, "/publish", produce_publish),
    OURS(POST, "/queues", queues_create),
    OURS(GET, "/queues", queues_list),
    OURS(GET, "/queues/{queue}", queues_show),
    OURS(PATCH, "/queues/{queue}", queues_change),
    OURS(DELETE, "/queues/{queue}", queues_delete),
    OURS(GET, "/queues/{queue}/records", look_records),
    OURS(POST, "/queues/{queue}/purge", upkeep_purge),
    OURS(DELETE, "/queues/{queue}/delayed/{id}", upkeep_cancel),
    OURS(POST, "/queues/{queue}/groups", groups_create),
    OURS(GET, "/queues/{queue}/groups", groups_list),
    OURS(PATCH, GROUP, groups_set),
    OURS(DELETE, GROUP, groups_delete),
    OURS(GET, GROUP "/messages", consume_messages),
    OURS(POST, GROUP "/ack", settle_done),
    OURS(POST, GROUP "/nack", settle_nack),
    OURS(POST, GROUP "/reject", settle_reject),
    OURS(PUT, GROUP "/leases", settle_renew),
    OURS(GET, GROUP "/deadletters", look_deadletters),
    OURS(POST, GROUP "/seek", position_seek),
    OURS(POST, GROUP "/redrive", position_redrive),
    OURS(GET, GROUP "/redrive", position_show_redrive),
    OURS(GET, GROUP "/explain", position_explain),
    OURS(POST, "/backup", upkeep_backup),
    OURS(GET, "/retained", retained_list),
    OURS(GET, "/routes", routes_list),
    OURS(GET, "/routes/{filter*}", routes_show),
    OURS(PUT, "/routes/{filter*}", routes_set),
    OURS(DELETE, "/routes/{filter*}", routes_delete),
    OURS(POST, "/tokens", tokens_create),
    OURS(GET, "/users", users_list),
    OURS(POST, "/users", users_create),
    OURS(GET, "/users/{user}", users_show),
    OURS(PUT, "/users/{user}", users_set),
    OURS(DELETE, "/users/{user}", users_delete),
    OURS(GET, "/users/{user}/grants", users_show_grants),
    OURS(PUT, "/users/{user}/grants", users_set_grants),
    OURS(GET, "/users/{user}/keys", users_list_keys),
    OURS(POST, "/users/{user}/keys", users_create_key),
    OURS(DELETE, "/users/{user}/keys/{key}", users_delete_key),
    OURS(GET, "/connections", connections_list),
    OURS(GET, "/connections/{connection}", connections_show),
    OURS(DELETE, "/connections/{connection}", connections_end),
};
const size_t rest_route_count = sizeof rest_routes / sizeof *rest_routes;

/* ---------------------------------------------------------------- life */

static void write_refusal(struct http_exchange *exchange, unsigned code)
{
    static const struct {
        unsigned http, code;
        const char *text;
    } refusals[] = {
        {403, 10240309,
         "Without users only local callers are served: the Host or Origin is foreign."},
        {404, 10240406, "The URL is not found."},
        {405, 10240406, "The URL does not take that method."},
        {413, 10540011, "The body is over the limit."},
        {429, 10240407, "Too many connections at the moment."},
        {431, 10540014, "The head of the request is too large."},
        {501, 10540004, "The method or transfer coding is not known."},
        {503, 10250005, "Out of memory."},
        {505, 10540004, "Only HTTP/1.1 and 1.0 are spoken here."},
    };
    for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++) {
        if (refusals[i].http == code) {
            refusal_write(&exchange->answer, refusals[i].code, refusals[i].text);
            return;
        }
    }
    refusal_write(&exchange->answer, 10540004, "The request is malformed.");
}

struct rest *rest_open(struct http *http, struct broker *broker, struct broker_worker *worker)
{
    struct rest *rest = heap_new(sizeof *rest);
    rest->http = http;
    rest->broker = broker;
    rest->worker = worker;
    http_serve(http, rest_routes, rest_route_count, rest);
    http_serve_refusals(http, write_refusal);
    return rest;
}

void rest_free(struct rest *rest)
{
    heap_free(rest);
}
