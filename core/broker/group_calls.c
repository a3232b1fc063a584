/* SPDX-License-Identifier: Apache-2.0 */
/* The way of rare calls to a group's home worker and back: seek, redrive, explain, survey. The
 * request's own mail carries it there; the answer comes by the request itself. */
#include "core/broker/worker.h"

static void call_done(struct request *request, enum status status)
{
    struct group_mail *call = container_of(request, struct group_mail, request);
    struct broker_worker *caller = call->caller;
    caller->calls--;
    request->done = call->done;
    request->done(request, status);
}

static void call_arrive(struct mail *mail)
{
    struct group_mail *call = container_of(mail, struct group_mail, request.mail);
    const struct broker_worker *caller = call->caller;
    struct broker_worker *home = broker_home(caller->broker, call->group);
    struct group *group;
    enum status status = groups_find(home, call->group, call->generation, mail, &group);
    if (group != NULL)
        call->serve(group, call);
    else if (status != STATUS_OK)
        request_complete(&call->request, status);
}

static void call_send(struct client *client, const struct group_spec *group, enum action action,
                      struct group_mail *call,
                      void (*serve)(struct group *group, struct group_mail *call))
{
    struct broker_worker *worker = client->worker;
    CHECK(loop_is_home(worker->loop) && call->request.home == worker->loop);
    const struct queue *queue = catalog_queue(worker->catalog, group->queue);
    enum status status = queue == NULL                    ? STATUS_NOT_FOUND
                         : group->mode == GROUP_BROADCAST ? STATUS_UNSUPPORTED
                         : worker->ending
                             ? STATUS_SHUTTING_DOWN
                             : broker_check(client, action, false, span_from_text(queue->name));
    if (status != STATUS_OK) {
        request_complete(&call->request, status);
        return;
    }
    call->caller = worker;
    call->group = group->id;
    call->generation = catalog_generation(worker->catalog);
    call->serve = serve;
    call->done = call->request.done;
    call->request.done = call_done;
    call->request.mail.deliver = call_arrive;
    worker->calls++;
    mailbox_post(broker_home(worker->broker, group->id)->loop, &call->request.mail);
}

static void seek_serve(struct group *group, struct group_mail *call)
{
    group_seek(group, container_of(call, struct group_seek, call));
}

void broker_seek(struct client *client, const struct group_spec *group, struct group_seek *seek)
{
    call_send(client, group, ACTION_MANAGE, &seek->call, seek_serve);
}

static void redrive_serve(struct group *group, struct group_mail *call)
{
    group_redrive(group, container_of(call, struct group_redrive, call));
}

void broker_redrive(struct client *client, const struct group_spec *group,
                    struct group_redrive *redrive)
{
    call_send(client, group, ACTION_MANAGE, &redrive->call, redrive_serve);
}

static void explain_serve(struct group *group, struct group_mail *call)
{
    group_explain(group, container_of(call, struct group_explain, call));
}

void broker_explain(struct client *client, const struct group_spec *group,
                    struct group_explain *explain)
{
    const struct queue *queue = catalog_queue(client->worker->catalog, group->queue);
    enum action action = ACTION_CONSUME;
    if (explain->progress_only && queue != NULL &&
        broker_check(client, ACTION_MANAGE, false, span_from_text(queue->name)) == STATUS_OK)
        action = ACTION_MANAGE;
    call_send(client, group, action, &explain->call, explain_serve);
}

static void survey_serve(struct group *group, struct group_mail *call)
{
    group_survey(group, container_of(call, struct group_survey, call));
}

void broker_survey(struct client *client, const struct group_spec *group,
                   struct group_survey *survey)
{
    call_send(client, group, ACTION_CONSUME, &survey->call, survey_serve);
}
