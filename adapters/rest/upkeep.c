/* SPDX-License-Identifier: Apache-2.0 */
/* Purge, delayed messages that are not to come, backup. They go on when nobody waits for the answer
 * any more. */
#include "adapters/rest/upkeep.h"

#include "adapters/rest/call.h"
#include "core/broker/administer.h"

enum { DIRECTORY_MAX = 4096 };

/* ---------------------------------------------------------------- purge */

struct purge {
    struct call call;
    struct broker_purge purge;
};

static void purged(struct request *request, enum status status)
{
    struct broker_purge *done = container_of(request, struct broker_purge, request);
    struct purge *purge = container_of(done, struct purge, purge);
    struct call *call = &purge->call;
    if (status != STATUS_OK) {
        call_refuse_status(call, status, NULL);
    } else if (call->exchange != NULL) {
        json_put(call_out(call), "{\"records\":");
        json_put_number(call_out(call), (int64_t)done->records);
        json_put(call_out(call), "}");
        call_answer(call, 200);
    }
    call_release(call);
}

static void run_purge(struct call *call)
{
    struct purge *purge = container_of(call, struct purge, call);
    if (!call_check_project(call))
        return;
    const struct queue *queue = call_queue(call, 1);
    if (queue == NULL)
        return;
    purge->purge.client = call->client;
    purge->purge.queue = queue->id;
    request_init(&purge->purge.request, call_loop(call), purged);
    call_hold(call);
    broker_purge(&purge->purge);
}

/* ---------------------------------------------------------------- delayed messages */

struct cancel {
    struct call call;
    struct request request;
};

static void canceled(struct request *request, enum status status)
{
    struct cancel *cancel = container_of(request, struct cancel, request);
    if (status == STATUS_OK)
        call_answer(&cancel->call, 204);
    else if (status == STATUS_NOT_FOUND)
        call_refuse(&cancel->call, 404, 10240406,
                    "There is no such delayed message: it may have been delivered already.");
    else
        call_refuse_status(&cancel->call, status, NULL);
    call_release(&cancel->call);
}

static void run_cancel(struct call *call)
{
    struct cancel *cancel = container_of(call, struct cancel, call);
    struct delay_id id;
    if (!call_check_project(call))
        return;
    const struct queue *queue = call_queue(call, 1);
    if (queue == NULL)
        return;
    if (!delay_id_parse(call_parameter(call, 2), &id)) {
        call_refuse(call, 400, 10540014, "That is not the id of a delayed message.");
        return;
    }
    request_init(&cancel->request, call_loop(call), canceled);
    call_hold(call);
    broker_cancel_delayed(call->client, queue, &id, &cancel->request);
}

/* ---------------------------------------------------------------- backup */

struct backup {
    struct call call;
    struct broker_backup backup;
};

static void backed_up(struct request *request, enum status status)
{
    struct broker_backup *done = container_of(request, struct broker_backup, request);
    struct backup *backup = container_of(done, struct backup, backup);
    if (status == STATUS_OK)
        call_answer(&backup->call, 204);
    else
        call_refuse_status(&backup->call, status, done->err.text[0] != 0 ? done->err.text : NULL);
    call_release(&backup->call);
}

static void run_backup(struct call *call)
{
    struct backup *backup = container_of(call, struct backup, call);
    if (!call_check_project(call) || !call_read_object(call, 10540012))
        return;
    const json_t *given = json_object_get(call->body, "directory");
    struct span directory = json_is_string(given) ? json_span(given) : (struct span){0};
    if (directory.size == 0 || directory.size > DIRECTORY_MAX || directory.data[0] != '/' ||
        memchr(directory.data, 0, directory.size) != NULL) {
        call_refuse(call, 400, 10540010, "directory must be an absolute path.");
        return;
    }
    backup->backup.client = call->client;
    backup->backup.directory = directory;
    request_init(&backup->backup.request, call_loop(call), backed_up);
    call_hold(call);
    broker_backup(&backup->backup);
}

/* ---------------------------------------------------------------- routes */

void upkeep_purge(struct http_exchange *exchange)
{
    static const struct call_kind kind = {.size = sizeof(struct purge), .run = run_purge};
    call_start(exchange, &kind);
}

void upkeep_cancel(struct http_exchange *exchange)
{
    static const struct call_kind kind = {.size = sizeof(struct cancel), .run = run_cancel};
    call_start(exchange, &kind);
}

void upkeep_backup(struct http_exchange *exchange)
{
    static const struct call_kind kind = {.size = sizeof(struct backup), .run = run_backup};
    call_start(exchange, &kind);
}
