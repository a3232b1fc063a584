/* SPDX-License-Identifier: Apache-2.0 */
/* Connections as an operator sees them: the request goes from worker to worker and takes along what
 * it finds there, since each knows its own clients only. */
#include "core/broker/connections.h"

#include "core/broker/worker.h"

static uint64_t id_of(const struct client *client)
{
    return client->number * LIMIT_WORKERS + client->worker->index;
}

static enum status may_look(const struct client *client)
{
    return client->worker->ending ? STATUS_SHUTTING_DOWN
                                  : broker_check(client, ACTION_MANAGE, false, span_from_text("*"));
}

/* ------------------------------------------------ the list */

static bool is_wanted(const struct connections_list *list, const struct client *client)
{
    if (client->peer == NULL || (list->only != 0 && list->only != id_of(client)))
        return false;
    if (list->name.size > 0 && !(client->open && span_equal(list->name, client->id)))
        return false;
    return list->user.size == 0 ||
           (client->principal != NULL && span_is(list->user, client->principal->name));
}

static bool copy(struct connections_list *list, struct span bytes, struct span *to)
{
    const char *text = arena_text(list->arena, bytes.data, bytes.size);
    *to = text == NULL ? (struct span){0} : span_of(text, bytes.size);
    return text != NULL;
}

static bool add_row(struct connections_list *list, struct client *client)
{
    const char *user = client->principal == NULL ? "" : client->principal->name;
    struct connection_row *row = &list->rows[list->count++];
    *row = (struct connection_row){
        .id = id_of(client),
        .protocol = client->ops->protocol,
        .since_ms = client->since_ms,
        .queued = client->ops->queued == NULL ? 0 : client->ops->queued(client),
    };
    return copy(list, span_from_text(client->peer), &row->peer) &&
           copy(list, span_from_text(user), &row->user) &&
           copy(list, client->open ? client->id : (struct span){0}, &row->client);
}

static void list_here(struct mail *mail)
{
    struct request *request = container_of(mail, struct request, mail);
    struct connections_list *list = container_of(request, struct connections_list, request);
    struct broker *broker = list->client->worker->broker;
    struct broker_worker *here = &broker->workers[list->at];
    list_each(link, &here->clients)
    {
        struct client *client = container_of(link, struct client, link);
        if (client->number <= list->number || !is_wanted(list, client))
            continue;
        if (list->count == list->limit) {
            list->more = true;
            request_complete(&list->request, STATUS_OK);
            return;
        }
        if (!add_row(list, client)) {
            list->more = --list->count > 0;
            request_complete(&list->request, list->more ? STATUS_OK : STATUS_NO_MEMORY);
            return;
        }
    }
    list->number = 0;
    if (++list->at < broker->worker_count)
        mailbox_post(broker->workers[list->at].loop, mail);
    else
        request_complete(&list->request, STATUS_OK);
}

static void listed(struct request *request, enum status status)
{
    struct connections_list *list = container_of(request, struct connections_list, request);
    list->client->worker->calls--;
    list->done(request, status);
}

void broker_list_connections(struct connections_list *list)
{
    struct broker_worker *worker = list->client->worker;
    CHECK(loop_is_home(worker->loop));
    list->count = 0;
    list->more = false;
    list->at = (unsigned)(list->after % LIMIT_WORKERS);
    list->number = list->after / LIMIT_WORKERS;
    enum status status = may_look(list->client);
    if (status != STATUS_OK || list->at >= worker->broker->worker_count) {
        request_complete(&list->request, status);
        return;
    }
    worker->calls++;
    list->done = list->request.done;
    list->request.done = listed;
    list->request.mail.deliver = list_here;
    mailbox_post(worker->broker->workers[list->at].loop, &list->request.mail);
}

/* ------------------------------------------------ the end of one */

static void end_here(struct mail *mail)
{
    struct request *request = container_of(mail, struct request, mail);
    struct connection_end *end = container_of(request, struct connection_end, request);
    struct broker_worker *here = &end->client->worker->broker->workers[end->id % LIMIT_WORKERS];
    struct client *found = NULL;
    list_each(link, &here->clients)
    {
        struct client *client = container_of(link, struct client, link);
        if (id_of(client) == end->id && client->peer != NULL)
            found = client;
    }
    if (found != NULL && !here->ending)
        found->ops->end(found, STATUS_CANCELED);
    request_complete(request, found == NULL ? STATUS_NOT_FOUND : STATUS_OK);
}

static void ended(struct request *request, enum status status)
{
    struct connection_end *end = container_of(request, struct connection_end, request);
    end->client->worker->calls--;
    end->done(request, status);
}

void broker_end_connection(struct connection_end *end)
{
    struct broker_worker *worker = end->client->worker;
    CHECK(loop_is_home(worker->loop));
    enum status status = may_look(end->client);
    if (status == STATUS_OK && end->id % LIMIT_WORKERS >= worker->broker->worker_count)
        status = STATUS_NOT_FOUND;
    if (status != STATUS_OK) {
        request_complete(&end->request, status);
        return;
    }
    worker->calls++;
    end->done = end->request.done;
    end->request.done = ended;
    end->request.mail.deliver = end_here;
    mailbox_post(worker->broker->workers[end->id % LIMIT_WORKERS].loop, &end->request.mail);
}
