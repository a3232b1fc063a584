/* SPDX-License-Identifier: Apache-2.0 */
/* What a client has made for itself: the id that shows it is the client's, its queues and when they
 * end. */
#include "core/broker/temporary.h"

#include <stdio.h>

#include "core/base/heap.h"
#include "core/base/rng.h"
#include "core/base/trace.h"
#include "core/broker/worker.h"

static const char TOPICS[] = "$reply/", OWN[] = "$";

enum { ID = 32, LOOK_MS = 1000 };

/* Names of all its nodes begin with its id. Shared with its forks, which may outlive it. */
struct temporary {
    uint32_t refs;
    struct client *client; /* NULL: it has gone */
    struct broker_worker *worker;
    char id[ID + 1];
    struct list queues;
    uint32_t count;
    struct loop_timer look; /* for what ends when nothing is left in it, or no link of others */
};

struct temporary_queue {
    struct link link;
    struct temporary *of;
    char name[TEMPORARY_NAME];
    uint64_t id; /* 0: not known yet */
    bool is_made;
    enum temporary_life life;
    bool left; /* the link that it was made for has gone */
};

static void look(struct loop_timer *timer);

static struct temporary *temporary_of(struct client *client)
{
    struct temporary *own = client->temporary;
    if (own != NULL)
        return own;
    CHECK(client->open && loop_is_home(client->worker->loop));
    own = client->temporary = heap_new(sizeof *own);
    own->refs = 1;
    own->client = client;
    own->worker = client->worker;
    own->look.fired = look;
    list_init(&own->queues);
    snprintf(own->id, sizeof own->id, "%016llx%016llx", (unsigned long long)rng_u64(),
             (unsigned long long)rng_u64());
    return own;
}

static void temporary_unref(struct temporary *own)
{
    if (--own->refs == 0)
        heap_free(own);
}

void temporary_fork(struct client *client, const struct client *of)
{
    client->temporary = of->temporary;
    if (client->temporary != NULL)
        client->temporary->refs++;
}

void broker_temporary_topic(struct client *client, char name[TEMPORARY_NAME])
{
    snprintf(name, TEMPORARY_NAME, "%s%s%s-%016llx", TOPICS, OWN, temporary_of(client)->id,
             (unsigned long long)rng_u64());
}

/* ------------------------------------------------ whose it is */

static bool take(struct span *text, const char *prefix, size_t size)
{
    if (text->size < size || memcmp(text->data, prefix, size) != 0)
        return false;
    *text = span_from(*text, size);
    return true;
}

enum temporary_right temporary_right(const struct client *client, bool is_topic,
                                     struct span address)
{
    if (address.size == 0 || address.data[0] != '$')
        return TEMPORARY_NONE;
    if (!take(&address, is_topic ? TOPICS : QUEUE_TEMPORARY,
              is_topic ? sizeof TOPICS - 1 : sizeof QUEUE_TEMPORARY - 1))
        return TEMPORARY_NONE;
    if (is_topic && address.size > 0 && (address.data[0] == '+' || address.data[0] == '#'))
        return TEMPORARY_OTHERS;
    if (is_topic && !take(&address, OWN, sizeof OWN - 1))
        return TEMPORARY_NONE;
    const struct temporary *own = client->temporary;
    return own != NULL && take(&address, own->id, ID) ? TEMPORARY_OWN : TEMPORARY_OTHERS;
}

/* ------------------------------------------------ the end of a queue */

/* gone: who waits for it; NULL: nobody. */
static void parted(struct broker_admin *admin, void *gone, enum status status)
{
    (void)admin;
    if (status == STATUS_NOT_FOUND) /* somebody has deleted it */
        status = STATUS_OK;
    if (status != STATUS_OK)
        trace(TRACE_ERROR, "a temporary queue stays until the next start: %s", status_text(status));
    if (gone != NULL)
        request_complete(gone, status);
}

static void part(struct broker_worker *worker, uint64_t id, struct request *gone)
{
    struct broker_admin admin = {.action = ADMIN_QUEUE_DELETE, .id = id};
    administer_self_delete(worker, &admin, parted, gone);
}

static void drop(struct temporary_queue *queue)
{
    link_remove(&queue->link);
    queue->of->count--;
    heap_free(queue);
}

/* While the broker ends there are no changes: the next start finds it. */
static void end(struct temporary_queue *queue, struct request *gone)
{
    struct broker_worker *worker = queue->of->worker;
    if (!worker->ending)
        part(worker, queue->id, gone);
    else if (gone != NULL)
        request_complete(gone, STATUS_OK);
    drop(queue);
}

static bool holds_messages(const struct catalog *catalog, uint64_t id)
{
    const struct queue *queue = catalog_queue(catalog, id);
    if (queue == NULL)
        return false;
    const struct partition_stat *stat = &queue->stat->partitions[0];
    uint64_t end = atomic_load(&stat->end);
    size_t groups = catalog_group_count(catalog, id);
    bool undone = groups == 0;
    for (size_t i = 0; i < groups; i++)
        undone |= atomic_load(&catalog_group_at(catalog, id, i)->stat->undone[0]) < end;
    return atomic_load(&queue->stat->delayed) > 0 || (undone && end > atomic_load(&stat->start));
}

static bool has_links(const struct catalog *catalog, uint64_t id)
{
    const struct queue *queue = catalog_queue(catalog, id);
    return queue != NULL && atomic_load(&queue->stat->links) > 0;
}

static bool is_over(const struct temporary_queue *queue)
{
    if (!queue->left)
        return false;
    bool by_links =
        queue->life == TEMPORARY_NO_LINKS || queue->life == TEMPORARY_NO_LINKS_OR_MESSAGES;
    bool by_messages =
        queue->life == TEMPORARY_NO_MESSAGES || queue->life == TEMPORARY_NO_LINKS_OR_MESSAGES;
    const struct catalog *catalog = queue->of->worker->catalog;
    return queue->life != TEMPORARY_CLIENT && (!by_links || !has_links(catalog, queue->id)) &&
           (!by_messages || !holds_messages(catalog, queue->id));
}

/* Only those that wait for their messages to go, or for links of others, can be over now. */
static void look(struct loop_timer *timer)
{
    struct temporary *own = container_of(timer, struct temporary, look);
    bool again = false;
    list_each_safe(at, following, &own->queues)
    {
        struct temporary_queue *queue = container_of(at, struct temporary_queue, link);
        if (is_over(queue))
            end(queue, NULL);
        else
            again |= queue->left;
    }
    if (again)
        loop_timer_start(own->worker->loop, &own->look, LOOK_MS);
}

/* ------------------------------------------------ its links */

static struct temporary_queue *find_named(const struct client *client, const char *name)
{
    if (client->temporary == NULL)
        return NULL;
    list_each(at, &client->temporary->queues)
    {
        struct temporary_queue *queue = container_of(at, struct temporary_queue, link);
        if (strcmp(queue->name, name) == 0)
            return queue;
    }
    return NULL;
}

/* One that is being made may be in the catalog already. */
bool broker_temporary_join(struct client *client, const struct queue *joined)
{
    if (!queue_name_is_temporary(span_from_text(joined->name)))
        return false;
    struct temporary_queue *queue = find_named(client, joined->name);
    if (queue != NULL)
        queue->id = joined->id;
    atomic_fetch_add(&joined->stat->links, 1);
    return true;
}

bool broker_temporary_leave(struct client *client, const struct queue *joined,
                            enum temporary_leaver leaver, struct request *gone)
{
    uint32_t links = atomic_fetch_sub(&joined->stat->links, 1);
    CHECK(links > 0);
    struct temporary_queue *queue = find_named(client, joined->name);
    if (queue == NULL)
        return false;
    queue->left |= leaver != TEMPORARY_LINK && queue->life != TEMPORARY_CLIENT;
    if (leaver == TEMPORARY_UNHEARD || is_over(queue)) {
        end(queue, gone);
        return true;
    }
    if (queue->left && !loop_timer_is_running(&queue->of->look))
        loop_timer_start(queue->of->worker->loop, &queue->of->look, LOOK_MS);
    return false;
}

/* ------------------------------------------------ its beginning */

static void made(struct request *request, enum status status)
{
    struct broker_admin *admin = container_of(request, struct broker_admin, request);
    struct broker_temporary *make = container_of(admin, struct broker_temporary, admin);
    struct temporary_queue *queue = make->made;
    struct temporary *own = queue->of;
    make->queue = admin->queue;
    if (status == STATUS_OK) {
        queue->id = admin->queue->id;
        queue->is_made = true;
    }
    if (status != STATUS_OK) {
        drop(queue);
    } else if (own->client == NULL) {
        queue_unref(make->queue);
        make->queue = NULL;
        end(queue, NULL);
        status = STATUS_CANCELED;
    }
    temporary_unref(own);
    make->request.done(&make->request, status);
}

/* What somebody else has deleted counts no more. */
static void forget_deleted(struct temporary *own)
{
    if (own->count < LIMIT_CLIENT_TEMPORARY)
        return;
    list_each_safe(at, following, &own->queues)
    {
        struct temporary_queue *queue = container_of(at, struct temporary_queue, link);
        if (queue->is_made && catalog_queue(own->worker->catalog, queue->id) == NULL)
            drop(queue);
    }
}

void broker_make_temporary(struct broker_temporary *make)
{
    struct client *client = make->client;
    struct broker_worker *worker = client->worker;
    struct temporary *own = temporary_of(client);
    forget_deleted(own);
    struct temporary_queue *queue = heap_new(sizeof *queue);
    *queue = (struct temporary_queue){.of = own, .life = make->life};
    snprintf(queue->name, sizeof queue->name, "%s%s-%016llx", QUEUE_TEMPORARY, own->id,
             (unsigned long long)rng_u64());
    struct span name = span_from_text(queue->name);
    enum status status = worker->ending ? STATUS_SHUTTING_DOWN
                         : own->count >= LIMIT_CLIENT_TEMPORARY
                             ? STATUS_OVER_QUOTA
                             : broker_check(client, ACTION_CONSUME, false, name);
    make->queue = NULL;
    if (status != STATUS_OK) {
        heap_free(queue);
        request_complete(&make->request, status);
        return;
    }
    make->made = queue;
    list_push(&own->queues, &make->made->link);
    own->count++;
    own->refs++;
    make->admin = (struct broker_admin){
        .action = ADMIN_QUEUE_CREATE,
        .name = name,
        .owner = client->principal == NULL ? 0 : client->principal->id,
        .durability = DURABLE_INTERVAL,
        .temporary = true,
    };
    request_init(&make->admin.request, worker->loop, made);
    administer_self(worker, &make->admin);
}

/* ------------------------------------------------ the client's end, and the next start */

void temporary_close(struct client *client)
{
    struct temporary *own = client->temporary;
    if (own == NULL)
        return;
    client->temporary = NULL;
    if (own->client == client) {
        own->client = NULL;
        loop_timer_stop(own->worker->loop, &own->look);
        list_each_safe(at, following, &own->queues)
        {
            struct temporary_queue *queue = container_of(at, struct temporary_queue, link);
            if (queue->is_made)
                end(queue, NULL);
        }
    }
    temporary_unref(own);
}

void temporary_sweep(struct broker_worker *worker)
{
    const struct catalog *catalog = worker->catalog;
    for (size_t i = 0; i < catalog_temporary_count(catalog); i++)
        part(worker, catalog_temporary_at(catalog, i)->id, NULL);
}
