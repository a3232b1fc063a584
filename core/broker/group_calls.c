/* SPDX-License-Identifier: Apache-2.0 */
/* The way of rare calls to a group's home worker and back: seek, redrive, explain, survey. The
 * request's own mail carries it there; the answer comes by the request itself. */
#include "core/broker/worker.h"

#include "core/base/heap.h"

struct call {
    struct broker_worker *caller;
    uint64_t group;
    uint64_t generation; /* of the catalog in which the caller found the group */
    void (*done)(struct request *request, enum status status);
};

static void call_end(struct call *call, struct request *request, enum status status)
{
    call->caller->calls--;
    request->done = call->done;
    heap_free(call);
    request->done(request, status);
}

/* NULL: the call must not go on, and its answer is on its way. */
static struct call *call_new(struct client *client, const struct group_spec *group,
                             enum action action, struct request *request)
{
    struct broker_worker *worker = client->worker;
    CHECK(loop_is_home(worker->loop) && request->home == worker->loop);
    const struct queue *queue = catalog_queue(worker->catalog, group->queue);
    enum status status = queue == NULL                    ? STATUS_NOT_FOUND
                         : group->mode == GROUP_BROADCAST ? STATUS_UNSUPPORTED
                         : worker->ending
                             ? STATUS_SHUTTING_DOWN
                             : broker_check(client, action, false, span_from_text(queue->name));
    if (status != STATUS_OK) {
        request_complete(request, status);
        return NULL;
    }
    struct call *call = heap_new(sizeof *call);
    call->caller = worker;
    call->group = group->id;
    call->generation = catalog_generation(worker->catalog);
    call->done = request->done;
    worker->calls++;
    return call;
}

static void call_go(struct call *call, struct request *request)
{
    mailbox_post(broker_home(call->caller->broker, call->group)->loop, &request->mail);
}

/* On the home worker; NULL: the answer is on its way, or the call comes here once more. */
static struct group *call_group(const struct call *call, struct request *request)
{
    const struct broker_worker *home = broker_home(call->caller->broker, call->group);
    struct home_group *found = map_get(&home->groups, span_of(&call->group, sizeof call->group));
    if (found != NULL)
        return found->group;
    if (!home->ending && catalog_generation(home->catalog) < call->generation) {
        /* The snapshot with the group is on its way here. */
        mailbox_post(home->loop, &request->mail);
        return NULL;
    }
    request_complete(request, home->ending ? STATUS_SHUTTING_DOWN : STATUS_NOT_FOUND);
    return NULL;
}

static void seek_done(struct request *request, enum status status)
{
    call_end(container_of(request, struct group_seek, request)->carrier, request, status);
}

static void seek_arrive(struct mail *mail)
{
    struct group_seek *seek = container_of(mail, struct group_seek, request.mail);
    struct group *group = call_group(seek->carrier, &seek->request);
    if (group != NULL)
        group_seek(group, seek);
}

void broker_seek(struct client *client, const struct group_spec *group, struct group_seek *seek)
{
    seek->carrier = call_new(client, group, ACTION_MANAGE, &seek->request);
    if (seek->carrier == NULL)
        return;
    seek->request.done = seek_done;
    seek->request.mail.deliver = seek_arrive;
    call_go(seek->carrier, &seek->request);
}

static void redrive_done(struct request *request, enum status status)
{
    call_end(container_of(request, struct group_redrive, request)->carrier, request, status);
}

static void redrive_arrive(struct mail *mail)
{
    struct group_redrive *redrive = container_of(mail, struct group_redrive, request.mail);
    struct group *group = call_group(redrive->carrier, &redrive->request);
    if (group != NULL)
        group_redrive(group, redrive);
}

void broker_redrive(struct client *client, const struct group_spec *group,
                    struct group_redrive *redrive)
{
    redrive->carrier = call_new(client, group, ACTION_MANAGE, &redrive->request);
    if (redrive->carrier == NULL)
        return;
    redrive->request.done = redrive_done;
    redrive->request.mail.deliver = redrive_arrive;
    call_go(redrive->carrier, &redrive->request);
}

static void explain_done(struct request *request, enum status status)
{
    call_end(container_of(request, struct group_explain, request)->carrier, request, status);
}

static void explain_arrive(struct mail *mail)
{
    struct group_explain *explain = container_of(mail, struct group_explain, request.mail);
    struct group *group = call_group(explain->carrier, &explain->request);
    if (group != NULL)
        group_explain(group, explain);
}

void broker_explain(struct client *client, const struct group_spec *group,
                    struct group_explain *explain)
{
    const struct queue *queue = catalog_queue(client->worker->catalog, group->queue);
    enum action action = ACTION_CONSUME;
    if (explain->progress_only && queue != NULL &&
        broker_check(client, ACTION_MANAGE, false, span_from_text(queue->name)) == STATUS_OK)
        action = ACTION_MANAGE;
    explain->carrier = call_new(client, group, action, &explain->request);
    if (explain->carrier == NULL)
        return;
    explain->request.done = explain_done;
    explain->request.mail.deliver = explain_arrive;
    call_go(explain->carrier, &explain->request);
}

static void survey_done(struct request *request, enum status status)
{
    call_end(container_of(request, struct group_survey, request)->carrier, request, status);
}

static void survey_arrive(struct mail *mail)
{
    struct group_survey *survey = container_of(mail, struct group_survey, request.mail);
    struct group *group = call_group(survey->carrier, &survey->request);
    if (group != NULL)
        group_survey(group, survey);
}

void broker_survey(struct client *client, const struct group_spec *group,
                   struct group_survey *survey)
{
    survey->carrier = call_new(client, group, ACTION_CONSUME, &survey->request);
    if (survey->carrier == NULL)
        return;
    survey->request.done = survey_done;
    survey->request.mail.deliver = survey_arrive;
    call_go(survey->carrier, &survey->request);
}
