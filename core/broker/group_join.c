/* SPDX-License-Identifier: Apache-2.0 */
/* A consumer's way to a group by its name. One that is new is asked something that it answers only
 * when its rows are stored: from then on its position is certain. */
#include "core/broker/worker.h"

static void join_end(struct broker_join *join, enum status status)
{
    if (status != STATUS_OK) {
        group_spec_unref(join->group);
        join->group = NULL;
    }
    join->request.done(&join->request, status);
}

static void explained(struct request *request, enum status status)
{
    join_end(container_of(request, struct broker_join, explain.request), status);
}

/* An offset that nothing is known of needs no look at storage. */
static void look(struct broker_join *join, const struct group_spec *group)
{
    struct broker_worker *worker = join->client->worker;
    const struct queue *queue = catalog_queue(worker->catalog, join->queue);
    CHECK(queue != NULL);
    join->group = group_spec_ref(group);
    join->explain =
        (struct group_explain){.partition = queue->first_partition, .offset = UINT64_MAX};
    request_init(&join->explain.request, worker->loop, explained);
    broker_explain(join->client, group, &join->explain);
}

static void made(struct request *request, enum status status)
{
    struct broker_join *join = container_of(request, struct broker_join, admin.request);
    const struct catalog *catalog = join->client->worker->catalog;
    group_spec_unref(join->admin.group);
    if (status == STATUS_EXISTS) /* just now, and all workers know */
        status = STATUS_OK;
    const struct group_spec *group = catalog_group_by_text(catalog, join->queue, join->name);
    if (status == STATUS_OK && !join->client->open)
        status = STATUS_CANCELED;
    if (status == STATUS_OK && group == NULL)
        status = STATUS_NOT_FOUND;
    if (status == STATUS_OK)
        look(join, group);
    else
        join_end(join, status);
}

void broker_join(struct broker_join *join)
{
    struct client *client = join->client;
    struct broker_worker *worker = client->worker;
    CHECK(loop_is_home(worker->loop) && join->request.home == worker->loop);
    join->group = NULL;
    const struct group_spec *group =
        catalog_group_by_text(worker->catalog, join->queue, join->name);
    if (group != NULL) {
        look(join, group);
        return;
    }
    join->admin = (struct broker_admin){
        .client = client,
        .action = ADMIN_GROUP_CREATE,
        .name = join->name,
        .id = join->queue,
        .start = join->start,
        .by_use = true,
    };
    request_init(&join->admin.request, worker->loop, made);
    broker_administer(&join->admin);
}
