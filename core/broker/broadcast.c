/* SPDX-License-Identifier: Apache-2.0 */
/* Broadcast groups: every consumer is a group of its own, with positions, leases and dead letters
 * as any, called GROUP/CONSUMER. It is made, durably, at the first take under its name, and goes
 * with the broadcast group, by itself when it is deleted, or when it has not come for so long that
 * retention has removed what it had not done. */
#include <openssl/evp.h>

#include "core/base/heap.h"
#include "core/base/trace.h"
#include "core/broker/worker.h"

/* What is no letter, digit or - is two digits behind a full stop; what then is too long is a hash
 * behind a low line, which no other name has there. What begins like one of these is made into one
 * too. */
void broadcast_name(struct span id, char name[LIMIT_GROUP_NAME + 1])
{
    static const char prefix[] = "id.", digits[] = "0123456789ABCDEF";
    enum { PREFIX = sizeof prefix - 1, HASH = 16 };
    bool is_made = id.size >= PREFIX && memcmp(id.data, prefix, PREFIX) == 0;
    if (!is_made && queue_name_is_valid(id, LIMIT_GROUP_NAME)) {
        memcpy(name, id.data, id.size);
        name[id.size] = '\0';
        return;
    }
    memcpy(name, prefix, PREFIX);
    size_t size = PREFIX;
    for (size_t i = 0; i < id.size && size <= LIMIT_GROUP_NAME; i++) {
        uint8_t c = id.data[i];
        bool plain = c != '.' && c != '_' && queue_name_is_valid(span_of(&c, 1), 1);
        if (size + (plain ? 1 : 3) > LIMIT_GROUP_NAME) {
            size = LIMIT_GROUP_NAME + 1;
        } else if (plain) {
            name[size++] = (char)c;
        } else {
            name[size++] = '.';
            name[size++] = digits[c >> 4];
            name[size++] = digits[c & 15];
        }
    }
    if (size > LIMIT_GROUP_NAME) {
        uint8_t hash[EVP_MAX_MD_SIZE];
        CHECK(EVP_Digest(id.data, id.size, hash, NULL, EVP_sha256(), NULL) == 1);
        size = PREFIX;
        name[size++] = '_';
        for (size_t i = 0; i < HASH; i++) {
            name[size++] = digits[hash[i] >> 4];
            name[size++] = digits[hash[i] & 15];
        }
    }
    name[size] = '\0';
}

/* A take that waits for its consumer to be made. */
struct join {
    struct broker_admin admin;
    struct client *client; /* valid until the take is canceled */
    struct group_take *take;
    uint64_t group;
    char name[LIMIT_GROUP_NAME]; /* who cancels may take its own along */
    bool canceled;
};

/* NULL: there is none yet. */
static const struct group_spec *find(const struct broker_worker *worker,
                                     const struct group_spec *group, struct span consumer)
{
    char name[2 * LIMIT_GROUP_NAME + 2];
    size_t size = strlen(group->name);
    CHECK(size <= LIMIT_GROUP_NAME && consumer.size <= LIMIT_GROUP_NAME);
    memcpy(name, group->name, size);
    name[size++] = '/';
    memcpy(name + size, consumer.data, consumer.size);
    return catalog_group_by_text(worker->catalog, group->queue,
                                 span_of(name, size + consumer.size));
}

static void made(struct request *request, enum status status)
{
    struct broker_admin *admin = container_of(request, struct broker_admin, request);
    struct join *join = container_of(admin, struct join, admin);
    struct broker_worker *worker = admin->worker;
    struct group_take *take = join->take;
    group_spec_unref(admin->group);
    take->joining = false;
    take->carrier = NULL;
    const struct group_spec *group = catalog_group(worker->catalog, join->group);
    const struct group_spec *consumer = group == NULL ? NULL : find(worker, group, admin->name);
    if (join->canceled)
        take->request.done(&take->request, STATUS_CANCELED);
    else if (consumer != NULL) /* somebody else may have made it */
        broker_take(join->client, consumer, take);
    else
        take->request.done(&take->request, status == STATUS_OK ? STATUS_NOT_FOUND : status);
    heap_free(join);
}

void broadcast_take(struct client *client, const struct group_spec *group, struct group_take *take)
{
    struct broker_worker *worker = client->worker;
    if (!queue_name_is_valid(take->consumer, LIMIT_GROUP_NAME)) {
        request_complete(&take->request, STATUS_INVALID);
        return;
    }
    const struct group_spec *consumer = find(worker, group, take->consumer);
    if (consumer != NULL) {
        broker_take(client, consumer, take);
        return;
    }
    struct join *join = heap_new(sizeof *join);
    join->client = client;
    join->take = take;
    join->group = group->id;
    memcpy(join->name, take->consumer.data, take->consumer.size);
    join->admin = (struct broker_admin){
        .client = client,
        .action = ADMIN_GROUP_CREATE,
        .id = group->queue,
        .parent = group->id,
        .by_use = true,
        .name = span_of(join->name, take->consumer.size),
    };
    take->joining = true;
    take->carrier = join;
    request_init(&join->admin.request, worker->loop, made);
    broker_administer(&join->admin);
}

void broadcast_cancel(struct group_take *take)
{
    struct join *join = take->carrier;
    join->canceled = true;
}

/* ------------------------------------------------ who does not come back */

static uint64_t idle_of(const struct group_spec *group)
{
    return group->consumer_idle_ms == 0 ? CONSUMER_IDLE_MS : group->consumer_idle_ms;
}

bool broadcast_is_expired(const struct catalog *catalog, const struct group_spec *consumer)
{
    const struct group_spec *group = catalog_group(catalog, consumer->parent);
    struct group_stat *stat = consumer->stat;
    return group != NULL && atomic_load(&stat->overtaken) &&
           clock_wall_ms() - atomic_load(&stat->taken_ms) >= (int64_t)idle_of(group);
}

static void parted(struct broker_admin *admin, void *context, enum status status)
{
    struct broker_worker *worker = context;
    struct home_group *home = map_get(&worker->groups, span_of(&admin->id, sizeof admin->id));
    if (status != STATUS_OK && home != NULL) /* once more, later */
        broadcast_expire(worker, home, true);
}

static void expired(struct request *request, enum status status)
{
    struct home_group *home = container_of(request, struct home_group, expired);
    struct broker_worker *worker = home->worker;
    const struct group_spec *consumer = catalog_group(worker->catalog, home->id);
    (void)status;
    if (worker->ending || consumer == NULL)
        return;
    if (!broadcast_is_expired(worker->catalog, consumer)) { /* it has just come back */
        broadcast_expire(worker, home, true);
        return;
    }
    trace(TRACE_INFO,
          "consumer %s has not come for long, and what it had not done is gone: it goes",
          consumer->name);
    struct broker_admin admin = {.action = ADMIN_GROUP_DELETE, .id = home->id, .if_expired = true};
    administer_self_delete(worker, &admin, parted, worker);
}

void broadcast_expire(struct broker_worker *worker, struct home_group *home, bool again)
{
    const struct group_spec *consumer = catalog_group(worker->catalog, home->id);
    const struct group_spec *group = catalog_group(worker->catalog, consumer->parent);
    if (group == NULL)
        return;
    if (again)
        request_init(&home->expired, worker->loop, expired);
    group_expire(home->group, idle_of(group), again ? &home->expired : NULL);
}

/* The consumer of group whose receipt it is; NULL: of none. */
static const struct group_spec *consumer_of(const struct broker_worker *worker,
                                            const struct group_spec *group,
                                            const struct receipt *receipt)
{
    const struct group_spec *consumer = catalog_group(worker->catalog, receipt->group);
    return consumer != NULL && consumer->parent == group->id ? consumer : NULL;
}

bool broker_is_receipt(const struct client *client, const struct group_spec *group,
                       const struct receipt *receipt)
{
    return group->mode == GROUP_BROADCAST ? consumer_of(client->worker, group, receipt) != NULL
                                          : receipt->group == group->id;
}

const struct group_spec *broadcast_settled(const struct broker_worker *worker,
                                           const struct group_spec *group,
                                           const struct group_settle *settle)
{
    return settle->count == 0 ? NULL : consumer_of(worker, group, &settle->receipts[0]);
}
