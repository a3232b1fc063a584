/* SPDX-License-Identifier: Apache-2.0 */
/* How a worker learns of commits in partitions that are followed on it. */
#include "core/base/heap.h"
#include "core/broker/follow_impl.h"

/* On the owner: the workers that follow a partition. */
struct followed {
    uint64_t partition, workers;
};

/* ------------------------------------------------ on the owner */

static void follow_mark(struct broker_worker *owner, uint64_t partition, unsigned worker,
                        bool wanted)
{
    struct followed *followed = map_get(&owner->followed, key_of(&partition));
    if (followed == NULL) {
        if (!wanted)
            return;
        followed = heap_new(sizeof *followed);
        followed->partition = partition;
        map_put(&owner->followed, key_of(&followed->partition), followed);
    }
    uint64_t bit = 1ULL << worker;
    followed->workers = wanted ? followed->workers | bit : followed->workers & ~bit;
    if (followed->workers == 0)
        heap_free(map_remove(&owner->followed, key_of(&partition)));
}

uint64_t follow_workers(struct broker_worker *owner, uint64_t partition)
{
    if (owner->followed.count == 0)
        return 0;
    const struct followed *followed = map_get(&owner->followed, key_of(&partition));
    return followed == NULL ? 0 : followed->workers;
}

/* ------------------------------------------------ watches */

static void watch_back(struct mail *mail);

static void watch_arrive(struct mail *mail)
{
    struct watch *watch = container_of(mail, struct watch, mail);
    follow_mark(watch->owner, watch->partition, watch->worker->index, watch->wanted);
    watch->mail.deliver = watch_back;
    mailbox_post(watch->worker->loop, &watch->mail);
}

static void watch_free(struct watch *watch)
{
    map_remove(&watch->worker->watches, key_of(&watch->partition));
    heap_free(watch);
}

/* What the owner knows follows what is wanted here, one mail at a time. */
void watch_go_on(struct watch *watch)
{
    bool wanted = watch_has_lanes(watch);
    if (watch->travels)
        return;
    if (wanted == watch->wanted) {
        if (!wanted)
            watch_free(watch);
        return;
    }
    watch->wanted = wanted;
    watch->confirmed = false;
    if (watch->owner == watch->worker) {
        follow_mark(watch->owner, watch->partition, watch->worker->index, wanted);
        watch->confirmed = wanted;
        if (!wanted)
            watch_free(watch);
        return;
    }
    watch->travels = true;
    watch->mail.deliver = watch_arrive;
    mailbox_post(watch->owner->loop, &watch->mail);
}

static void watch_back(struct mail *mail)
{
    struct watch *watch = container_of(mail, struct watch, mail);
    watch->travels = false;
    if (watch->wanted && watch_has_lanes(watch)) {
        watch->confirmed = true;
        list_each(link, &watch->behind)
        {
            follower_wake(container_of(link, struct lane, of_watch)->follower);
        }
        return;
    }
    watch_go_on(watch);
}

struct watch *watch_of(struct broker_worker *worker, uint64_t partition)
{
    struct watch *watch = map_get(&worker->watches, key_of(&partition));
    if (watch != NULL)
        return watch;
    watch = heap_new(sizeof *watch);
    watch->partition = partition;
    watch->worker = worker;
    watch->owner = &worker->broker->workers[log_owner(worker->broker->log, partition)];
    list_init(&watch->live);
    list_init(&watch->behind);
    map_put(&worker->watches, key_of(&watch->partition), watch);
    return watch;
}

void follow_init(struct broker_worker *worker)
{
    map_init(&worker->watches);
    map_init(&worker->followed);
    list_init(&worker->followers);
}

void follow_deinit(struct broker_worker *worker)
{
    struct map_slot *slot;
    for (size_t i = 0; (slot = map_next(&worker->watches, &i)) != NULL;)
        heap_free(slot->value);
    map_deinit(&worker->watches);
    for (size_t i = 0; (slot = map_next(&worker->followed, &i)) != NULL;)
        heap_free(slot->value);
    map_deinit(&worker->followed);
}
