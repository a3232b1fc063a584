/* SPDX-License-Identifier: Apache-2.0 */
/* The way to a group's home worker and back: a take or a settlement is carried there by mail, its
 * answer comes by the request itself. */
#include "core/base/limits.h"
#include "core/broker/worker.h"

#include "core/base/heap.h"

static struct queue_groups *groups_of(struct broker_worker *worker, uint64_t queue)
{
    return map_get(&worker->queue_groups, span_of(&queue, sizeof queue));
}

void groups_open(struct broker_worker *worker, const struct queue *queue,
                 const struct group_spec *group)
{
    if (broker_home(worker->broker, group->id) != worker || group->mode == GROUP_BROADCAST)
        return;
    struct queue_groups *siblings = groups_of(worker, queue->id);
    if (siblings == NULL) {
        siblings = heap_new(sizeof *siblings);
        siblings->queue = queue->id;
        list_init(&siblings->homes);
        map_put(&worker->queue_groups, span_of(&siblings->queue, sizeof siblings->queue), siblings);
    }
    struct home_group *home = heap_new(sizeof *home);
    home->id = group->id;
    home->siblings = siblings;
    home->worker = worker;
    home->group =
        group_open(worker->broker->log, worker->log, worker->loop, &worker->budget, queue, group);
    group_select(home->group, catalog_group_selector(worker->catalog, group));
    broadcast_expire(worker, home, true);
    map_put(&worker->groups, span_of(&home->id, sizeof home->id), home);
    list_push(&siblings->homes, &home->link);
}

static void home_group_closed(struct request *request, enum status status)
{
    struct home_group *home = container_of(request, struct home_group, closed);
    (void)status;
    home->worker->closing--;
    heap_free(home);
}

static void home_group_close(struct broker_worker *worker, struct home_group *home, bool remove)
{
    struct queue_groups *siblings = home->siblings;
    map_remove(&worker->groups, span_of(&home->id, sizeof home->id));
    link_remove(&home->link);
    if (list_is_empty(&siblings->homes)) {
        map_remove(&worker->queue_groups, span_of(&siblings->queue, sizeof siblings->queue));
        heap_free(siblings);
    }
    worker->closing++;
    request_init(&home->closed, worker->loop, home_group_closed);
    group_close(home->group, remove, &home->closed);
}

void groups_close(struct broker_worker *worker, uint64_t id, bool remove)
{
    struct home_group *home = map_get(&worker->groups, span_of(&id, sizeof id));
    if (home != NULL)
        home_group_close(worker, home, remove);
}

void groups_change(struct broker_worker *worker, const struct queue *queue)
{
    struct queue_groups *groups = groups_of(worker, queue->id);
    if (groups == NULL)
        return;
    list_each(link, &groups->homes)
        group_change(container_of(link, struct home_group, link)->group, queue);
}

void groups_describe(struct broker_worker *worker, const struct group_spec *group)
{
    struct queue_groups *groups = groups_of(worker, group->queue);
    if (groups == NULL)
        return;
    list_each(link, &groups->homes)
    {
        struct home_group *home = container_of(link, struct home_group, link);
        const struct group_spec *spec = catalog_group(worker->catalog, home->id);
        if (spec == NULL || (spec->id != group->id && spec->parent != group->id))
            continue;
        group_select(home->group, catalog_group_selector(worker->catalog, spec));
        broadcast_expire(worker, home, false);
    }
}

void groups_look(struct broker_worker *worker, uint64_t queue)
{
    struct queue_groups *groups = groups_of(worker, queue);
    if (groups == NULL)
        return;
    list_each(link, &groups->homes) group_look(container_of(link, struct home_group, link)->group);
}

void groups_close_all(struct broker_worker *worker)
{
    struct map all;
    struct map_slot *slot;
    map_copy(&all, &worker->groups);
    for (size_t i = 0; (slot = map_next(&all, &i)) != NULL;)
        home_group_close(worker, slot->value, false);
    map_deinit(&all);
}

void groups_notice(struct broker_worker *worker, uint64_t queue, uint64_t partition,
                   struct batch *batch)
{
    uint64_t dead = dead_partition_group(partition);
    if (dead != 0) {
        struct home_group *home = map_get(&worker->groups, span_of(&dead, sizeof dead));
        if (home != NULL)
            group_notice(home->group, partition, batch);
        return;
    }
    struct queue_groups *groups = groups_of(worker, queue);
    if (groups == NULL)
        return;
    list_each(link, &groups->homes)
        group_notice(container_of(link, struct home_group, link)->group, partition, batch);
}

uint64_t groups_undone(void *context, uint64_t partition)
{
    struct broker_worker *worker = context;
    const struct queue *queue = catalog_queue_of_partition(worker->catalog, partition);
    uint64_t lowest = UINT64_MAX;
    for (size_t i = 0; queue != NULL && i < catalog_group_count(worker->catalog, queue->id); i++) {
        const struct group_spec *group = catalog_group_at(worker->catalog, queue->id, i);
        const struct group_stat *stat = group->stat;
        if (group->mode == GROUP_BROADCAST)
            continue;
        uint64_t index = partition - queue->first_partition;
        uint64_t undone = index >= stat->partition_count
                              ? 0
                              : atomic_load_explicit(&stat->undone[index], memory_order_relaxed);
        lowest = undone < lowest ? undone : lowest;
    }
    return lowest;
}

static struct group *group_here(struct broker_worker *worker, uint64_t id)
{
    struct home_group *home = map_get(&worker->groups, span_of(&id, sizeof id));
    return home == NULL ? NULL : home->group;
}

enum status groups_find(struct broker_worker *home, uint64_t id, uint64_t generation,
                        struct mail *mail, struct group **group)
{
    *group = group_here(home, id);
    if (*group != NULL)
        return STATUS_OK;
    if (home->ending)
        return STATUS_SHUTTING_DOWN;
    if (catalog_generation(home->catalog) >= generation)
        return STATUS_NOT_FOUND;
    mailbox_post(home->loop, mail);
    return STATUS_OK;
}

static enum status may_consume(const struct client *client, const struct group_spec *group)
{
    const struct queue *queue = catalog_queue(client->worker->catalog, group->queue);
    return queue == NULL ? STATUS_NOT_FOUND
                         : broker_check(client, ACTION_CONSUME, false, span_from_text(queue->name));
}

static enum status check(const struct client *client, const struct group_spec *group)
{
    return client->worker->ending ? STATUS_SHUTTING_DOWN : may_consume(client, group);
}

/* ------------------------------------------------ takes */

/* A take under way: what the group sees, apart from the caller's own. One reference is the
 * journey's, there and back; a cancel on its way holds another. */
struct carried_take {
    struct group_take take;
    struct group_take *outer;
    struct client *client; /* caller's worker; NULL: it has canceled, and may go */
    struct broker_worker *home, *caller;
    uint64_t group_id;
    uint64_t generation; /* of the catalog in which the caller found the group */
    enum status status;
    bool at_group; /* home worker: the group holds it */
    bool canceled; /* caller's worker: a cancel was sent */
    atomic_uint refs;
    struct mail mail, cancel;
};

static void carried_unref(struct carried_take *carried)
{
    if (atomic_fetch_sub(&carried->refs, 1) == 1)
        heap_free(carried);
}

/* What was taken and is given back at once. */
struct take_back {
    struct group_settle settle;
    struct receipt receipts[LIMIT_TAKE_RECORDS];
    enum status results[LIMIT_TAKE_RECORDS];
};

static void gone_back(struct request *request, enum status status)
{
    (void)status;
    heap_free(container_of(request, struct take_back, settle.request));
}

/* Who waited may not have it any more: others need not wait for the leases to run out. */
static void give_back(struct carried_take *carried, const struct group_spec *group)
{
    struct take_back *back = heap_new(sizeof *back);
    back->settle = (struct group_settle){.receipts = back->receipts,
                                         .outcome = SETTLE_RELEASED,
                                         .count = carried->take.count,
                                         .results = back->results};
    for (uint32_t i = 0; i < carried->take.count; i++) {
        back->receipts[i] = carried->take.items[i].receipt;
        batch_unref(carried->take.items[i].batch);
        blob_unref(carried->take.items[i].note);
    }
    carried->take.count = 0;
    request_init(&back->settle.request, carried->caller->loop, gone_back);
    groups_settle(carried->caller, group, &back->settle);
}

/* Who waited may have lost its right meanwhile, or be gone for the broker. */
static void check_again(struct carried_take *carried)
{
    struct client *client = carried->client;
    const struct catalog *catalog = carried->caller->catalog;
    if (carried->take.count == 0 || client == NULL ||
        (catalog_generation(catalog) == carried->generation && !client->gone))
        return;
    const struct group_spec *group = catalog_group(catalog, carried->group_id);
    enum status status = group == NULL ? STATUS_OK : may_consume(client, group);
    if (status == STATUS_OK)
        return;
    carried->status = status;
    give_back(carried, group);
}

static void take_return(struct mail *mail)
{
    struct carried_take *carried = container_of(mail, struct carried_take, mail);
    struct group_take *outer = carried->outer;
    check_again(carried);
    outer->count = carried->take.count;
    outer->carrier = NULL;
    carried->caller->calls--;
    outer->request.done(&outer->request, carried->status);
    carried_unref(carried);
}

static void take_done(struct request *request, enum status status)
{
    struct carried_take *carried = container_of(request, struct carried_take, take.request);
    carried->at_group = false;
    carried->status = status;
    carried->mail.deliver = take_return;
    mailbox_post(carried->caller->loop, &carried->mail);
}

static void take_arrive(struct mail *mail)
{
    struct carried_take *carried = container_of(mail, struct carried_take, mail);
    struct group *group;
    enum status status =
        groups_find(carried->home, carried->group_id, carried->generation, mail, &group);
    if (group != NULL) {
        carried->at_group = true;
        group_take(group, &carried->take);
    } else if (status != STATUS_OK) {
        take_done(&carried->take.request, status);
    }
}

void broker_take(struct client *client, const struct group_spec *group, struct group_take *take)
{
    struct broker_worker *worker = client->worker;
    CHECK(loop_is_home(worker->loop) && take->request.home == worker->loop);
    take->count = 0;
    take->carrier = NULL;
    take->joining = false;
    enum status status = check(client, group);
    if (status != STATUS_OK) {
        request_complete(&take->request, status);
        return;
    }
    if (group->mode == GROUP_BROADCAST) {
        broadcast_take(client, group, take);
        return;
    }
    struct carried_take *carried = heap_new(sizeof *carried);
    carried->outer = take;
    carried->client = client;
    carried->home = broker_home(worker->broker, group->id);
    carried->caller = worker;
    carried->group_id = group->id;
    carried->generation = catalog_generation(worker->catalog);
    worker->calls++;
    atomic_init(&carried->refs, 1);
    carried->take.max_records = take->max_records;
    carried->take.max_bytes = take->max_bytes;
    carried->take.wait_ms = take->wait_ms;
    carried->take.lease_ms = take->lease_ms;
    carried->take.dead = take->dead;
    carried->take.selector = take->selector;
    carried->take.labels = take->labels;
    carried->take.consumer = take->consumer;
    carried->take.taker = take->taker;
    carried->take.items = take->items;
    request_init(&carried->take.request, carried->home->loop, take_done);
    carried->mail.deliver = take_arrive;
    take->carrier = carried;
    if (carried->home == worker)
        take_arrive(&carried->mail);
    else
        mailbox_post(carried->home->loop, &carried->mail);
}

static void take_cancel_arrive(struct mail *mail)
{
    struct carried_take *carried = container_of(mail, struct carried_take, cancel);
    struct group *group = group_here(carried->home, carried->group_id);
    if (carried->at_group && group != NULL)
        group_take_cancel(group, &carried->take);
    carried_unref(carried);
}

void broker_take_cancel(struct client *client, const struct group_spec *group,
                        struct group_take *take)
{
    (void)group;
    CHECK(loop_is_home(client->worker->loop));
    if (take->joining) {
        broadcast_cancel(take);
        return;
    }
    struct carried_take *carried = take->carrier;
    if (carried == NULL || carried->canceled)
        return;
    carried->canceled = true;
    carried->client = NULL;
    atomic_fetch_add(&carried->refs, 1);
    carried->cancel.deliver = take_cancel_arrive;
    mailbox_post(carried->home->loop, &carried->cancel);
}

/* ------------------------------------------------ settlements */

/* On the caller's loop. */
static void settle_done(struct request *request, enum status status)
{
    struct group_settle *settle = container_of(request, struct group_settle, request);
    struct broker_worker *caller = settle->carrier;
    caller->calls--;
    request->done = settle->done;
    request->done(request, status);
}

static void settle_arrive(struct mail *mail)
{
    struct group_settle *settle = container_of(mail, struct group_settle, request.mail);
    struct broker_worker *caller = settle->carrier;
    struct broker_worker *home = broker_home(caller->broker, settle->group_id);
    struct group *group = group_here(home, settle->group_id);
    if (group == NULL)
        request_complete(&settle->request, home->ending ? STATUS_SHUTTING_DOWN : STATUS_NOT_FOUND);
    else
        group_settle(group, settle);
}

void broker_settle(struct client *client, const struct group_spec *group,
                   struct group_settle *settle)
{
    struct broker_worker *worker = client->worker;
    CHECK(loop_is_home(worker->loop) && settle->request.home == worker->loop);
    enum status status = check(client, group);
    if (status != STATUS_OK) {
        request_complete(&settle->request, status);
        return;
    }
    groups_settle(worker, group, settle);
}

void groups_settle(struct broker_worker *worker, const struct group_spec *group,
                   struct group_settle *settle)
{
    CHECK(loop_is_home(worker->loop) && settle->request.home == worker->loop);
    if (group->mode == GROUP_BROADCAST)
        group = broadcast_settled(worker, group, settle);
    if (group == NULL) {
        for (uint32_t i = 0; i < settle->count; i++)
            settle->results[i] = STATUS_STALE;
        request_complete(&settle->request, STATUS_OK);
        return;
    }
    struct broker_worker *home = broker_home(worker->broker, group->id);
    settle->carrier = worker;
    settle->group_id = group->id;
    settle->done = settle->request.done;
    settle->request.done = settle_done;
    worker->calls++;
    settle->request.mail.deliver = settle_arrive;
    if (home == worker)
        settle_arrive(&settle->request.mail);
    else
        mailbox_post(home->loop, &settle->request.mail);
}

/* ------------------------------------------------ reading */

void broker_read(struct client *client, const struct queue *queue, struct log_read *read)
{
    enum status status = client->worker->ending ? STATUS_SHUTTING_DOWN
                                                : broker_check(client, ACTION_CONSUME, false,
                                                               span_from_text(queue->name));
    if (status != STATUS_OK) {
        read->count = 0;
        request_complete(&read->request, status);
        return;
    }
    log_read(client->worker->log, read);
}
