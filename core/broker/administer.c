/* SPDX-License-Identifier: Apache-2.0 */
/* Changes of the catalog. Worker 0 takes one at a time: checks it against the newest snapshot,
 * stores its rows, hands the next snapshot to every worker, and answers when all of them have taken
 * it in. */
#include "core/broker/topic.h"
#include "core/broker/worker.h"

#include "core/base/clock.h"
#include "core/base/heap.h"
#include "core/base/pack.h"
#include "core/base/reader.h"
#include "core/base/rng.h"
#include "core/base/trace.h"
#include "core/log/table.h"

enum { ROW_LIMIT = 1024 * 1024, KEY_LIMIT = 64, HOUR_MS = 60 * 60 * 1000 };

static const char COUNTERS[] = "ids";

/* ------------------------------------------------ rows */

static struct span key_of(struct buf *to, enum table table, const uint64_t *ids, unsigned count)
{
    struct pack pack = pack_into(to);
    pack_u8(&pack, (uint8_t)table);
    for (unsigned i = 0; i < count; i++)
        pack_u64(&pack, ids[i]);
    CHECK(pack.status == STATUS_OK);
    return buf_span(to);
}

/* A row of the change goes into slot i: key and value share one buffer, the key first. */
static void put_row(struct broker_admin *admin, unsigned i, enum storage_change change,
                    enum table table, const uint64_t *ids, unsigned count, const struct buf *value)
{
    struct buf *buf = &admin->buffers[i];
    buf_init(buf, ROW_LIMIT);
    size_t key_size = key_of(buf, table, ids, count).size;
    if (value != NULL)
        CHECK(buf_append(buf, value->data, value->size) == STATUS_OK);
    admin->row[i] = (struct storage_row){
        .change = change,
        .key = span_of(buf->data, key_size),
        .value = span_of(buf->data + key_size, buf->size - key_size),
        .offset_at = -1,
    };
}

static void put_counters(struct broker_admin *admin, unsigned i)
{
    struct broker *broker = admin->client->worker->broker;
    struct buf *buf = &admin->buffers[i];
    buf_init(buf, KEY_LIMIT);
    struct pack pack = pack_into(buf);
    pack_u8(&pack, TABLE_META);
    pack_bytes(&pack, span_from_text(COUNTERS));
    size_t key_size = buf->size;
    pack_u8(&pack, 1);
    pack_u64(&pack, broker->next_id);
    pack_u64(&pack, broker->next_partition);
    CHECK(pack.status == STATUS_OK);
    admin->row[i] = (struct storage_row){
        .change = STORAGE_PUT,
        .key = span_of(buf->data, key_size),
        .value = span_of(buf->data + key_size, buf->size - key_size),
        .offset_at = -1,
    };
}

/* ------------------------------------------------ what each action does to the next snapshot */

typedef enum status change(struct broker *broker, struct broker_admin *admin, struct catalog *next);

static void store(struct broker_admin *admin, unsigned i, enum table table, const uint64_t *ids,
                  unsigned count, struct buf *value)
{
    put_row(admin, i, STORAGE_PUT, table, ids, count, value);
    buf_deinit(value);
    put_counters(admin, i + 1);
    admin->rows.row_count = i + 2;
}

static enum storage_class class_of(uint64_t retention_ms)
{
    if (retention_ms == 0)
        return STORAGE_UNLIMITED;
    if (retention_ms <= 6ULL * HOUR_MS)
        return STORAGE_6_HOURS;
    return retention_ms <= 72ULL * HOUR_MS ? STORAGE_3_DAYS : STORAGE_30_DAYS;
}

static uint64_t default_retention(const struct broker *broker)
{
    return (broker->options.retention_hours == 0 ? 72ULL : broker->options.retention_hours) *
           HOUR_MS;
}

static struct queue *queue_make(struct broker *broker, struct span name)
{
    struct queue *queue = heap_new(sizeof *queue);
    atomic_init(&queue->refs, 1);
    queue->tenant = TENANT_DEFAULT;
    queue->id = broker->next_id++;
    rng_uuid(queue->uuid);
    queue->name = heap_text((const char *)name.data, name.size);
    queue->retention_ms = default_retention(broker);
    queue->retention_bytes = broker->options.retention_bytes;
    queue->created_ms = clock_wall_ms();
    return queue;
}

static enum status queue_create(struct broker *broker, struct broker_admin *admin,
                                struct catalog *next)
{
    if (!queue_name_is_valid(admin->name, LIMIT_QUEUE_NAME))
        return err_set(&admin->err, STATUS_INVALID,
                       "a queue's name is 1 to %u of A-Z a-z 0-9 - _ .", LIMIT_QUEUE_NAME);
    if (catalog_queue_by_text(next, TENANT_DEFAULT, admin->name) != NULL)
        return err_set(&admin->err, STATUS_EXISTS, "queue %.*s exists already",
                       (int)admin->name.size, (const char *)admin->name.data);
    uint32_t limit = broker->options.queue_limit == 0 ? LIMIT_QUEUES : broker->options.queue_limit;
    if (catalog_queue_count(next) > limit) /* the built-in one does not count */
        return err_set(&admin->err, STATUS_OVER_QUOTA,
                       "there are %u queues already, as many as allowed", limit);
    if (admin->partitions > LIMIT_PARTITIONS)
        return err_set(&admin->err, STATUS_INVALID, "partitions: at most %u", LIMIT_PARTITIONS);
    if (admin->type == QUEUE_FIFO && admin->partitions > 1)
        return err_set(&admin->err, STATUS_INVALID, "a fifo queue has one partition");
    struct queue *queue = queue_make(broker, admin->name);
    queue->type = admin->type;
    queue->durability = admin->durability;
    if (admin->description != NULL)
        queue->description = heap_text(admin->description, strlen(admin->description));
    queue->partition_count = admin->partitions != 0        ? admin->partitions
                             : admin->type == QUEUE_STREAM ? 4
                                                           : 1;
    if (admin->retention_ms != 0)
        queue->retention_ms = admin->retention_ms;
    if (admin->retention_bytes != 0)
        queue->retention_bytes = admin->retention_bytes;
    queue->class = class_of(queue->retention_ms);
    queue->redrive = admin->redrive;
    queue->max_consume_count = admin->max_consume_count;
    queue->first_partition = broker->next_partition;
    broker->next_partition += queue->partition_count;
    queue->stat = queue_stat_new(queue->partition_count);
    struct buf row;
    buf_init(&row, ROW_LIMIT);
    CHECK(queue_encode(queue, &row) == STATUS_OK);
    store(admin, 0, TABLE_QUEUE, (uint64_t[]){queue->tenant, queue->id}, 2, &row);
    admin->queue = queue_ref(queue);
    catalog_put_queue(next, queue);
    return STATUS_OK;
}

static enum status queue_delete(struct broker *broker, struct broker_admin *admin,
                                struct catalog *next)
{
    (void)broker;
    const struct queue *queue = catalog_queue(next, admin->id);
    if (queue == NULL)
        return STATUS_NOT_FOUND;
    if (queue->built_in)
        return err_set(&admin->err, STATUS_DENIED, "the built-in queue %s cannot be deleted",
                       queue->name);
    for (size_t i = 0; i < catalog_route_count(next); i++)
        if (catalog_route_at(next, i)->queue == queue->id)
            return err_set(&admin->err, STATUS_EXISTS,
                           "route %s leads to this queue: delete it first",
                           catalog_route_at(next, i)->filter);
    put_row(admin, 0, STORAGE_DELETE, TABLE_QUEUE, (uint64_t[]){queue->tenant, queue->id}, 2, NULL);
    /* Its groups: every key that begins with (tenant, queue). */
    put_row(admin, 1, STORAGE_DELETE_RANGE, TABLE_GROUP, (uint64_t[]){queue->tenant, queue->id}, 2,
            NULL);
    buf_init(&admin->buffers[2], KEY_LIMIT);
    admin->row[1].value =
        key_of(&admin->buffers[2], TABLE_GROUP, (uint64_t[]){queue->tenant, queue->id + 1}, 2);
    admin->rows.row_count = 2;
    catalog_remove_queue(next, queue->id);
    return STATUS_OK;
}

static enum status group_create(struct broker *broker, struct broker_admin *admin,
                                struct catalog *next)
{
    const struct queue *queue = catalog_queue(next, admin->id);
    if (queue == NULL)
        return STATUS_NOT_FOUND;
    if (!queue_name_is_valid(admin->name, LIMIT_GROUP_NAME))
        return err_set(&admin->err, STATUS_INVALID,
                       "a group's name is 1 to %u of A-Z a-z 0-9 - _ .", LIMIT_GROUP_NAME);
    if (catalog_group_by_text(next, queue->id, admin->name) != NULL)
        return err_set(&admin->err, STATUS_EXISTS, "group %.*s exists already",
                       (int)admin->name.size, (const char *)admin->name.data);
    uint32_t counted = 0;
    size_t count = catalog_group_count(next, queue->id);
    for (size_t i = 0; i < count; i++)
        counted += catalog_group_at(next, queue->id, i)->counts;
    uint32_t limit = broker->options.group_limit_dms == 0 ? 3 : broker->options.group_limit_dms;
    if (count >= LIMIT_GROUPS_PER_QUEUE || (admin->dms && counted >= limit))
        return err_set(&admin->err, STATUS_OVER_QUOTA,
                       "the queue has %u groups already, as many as allowed",
                       admin->dms ? limit : LIMIT_GROUPS_PER_QUEUE);
    struct group_spec *group = heap_new(sizeof *group);
    atomic_init(&group->refs, 1);
    group->tenant = queue->tenant;
    group->queue = queue->id;
    group->id = broker->next_id++;
    group->uuid[0] = 'g';
    group->uuid[1] = '-';
    rng_uuid(group->uuid + 2);
    group->name = heap_text((const char *)admin->name.data, admin->name.size);
    group->start = admin->start;
    group->counts = admin->dms;
    group->created_ms = clock_wall_ms();
    group->stat = group_stat_new();
    struct buf row;
    buf_init(&row, ROW_LIMIT);
    CHECK(group_spec_encode(group, &row) == STATUS_OK);
    store(admin, 0, TABLE_GROUP, (uint64_t[]){group->tenant, group->queue, group->id}, 3, &row);
    admin->group = group_spec_ref(group);
    catalog_put_group(next, group);
    return STATUS_OK;
}

static enum status group_delete(struct broker *broker, struct broker_admin *admin,
                                struct catalog *next)
{
    (void)broker;
    const struct group_spec *group = catalog_group(next, admin->id);
    if (group == NULL)
        return STATUS_NOT_FOUND;
    put_row(admin, 0, STORAGE_DELETE, TABLE_GROUP,
            (uint64_t[]){group->tenant, group->queue, group->id}, 3, NULL);
    admin->rows.row_count = 1;
    catalog_remove_group(next, group->id);
    return STATUS_OK;
}

static enum status route_set(struct broker *broker, struct broker_admin *admin,
                             struct catalog *next)
{
    if (!topic_filter_is_valid(admin->name))
        return err_set(&admin->err, STATUS_INVALID, "not a topic filter");
    if (catalog_queue(next, admin->id) == NULL)
        return STATUS_NOT_FOUND;
    if (catalog_route_count(next) >= LIMIT_ROUTES)
        return err_set(&admin->err, STATUS_OVER_QUOTA, "there are %u routes already", LIMIT_ROUTES);
    const struct route *old = catalog_route_by_filter(next, TENANT_DEFAULT, admin->name);
    struct route *route = heap_new(sizeof *route);
    atomic_init(&route->refs, 1);
    route->tenant = TENANT_DEFAULT;
    route->id = old != NULL ? old->id : broker->next_id++;
    route->filter = heap_text((const char *)admin->name.data, admin->name.size);
    route->queue = admin->id;
    struct buf row;
    buf_init(&row, ROW_LIMIT);
    CHECK(route_encode(route, &row) == STATUS_OK);
    store(admin, 0, TABLE_ROUTE, (uint64_t[]){route->tenant, route->id}, 2, &row);
    catalog_put_route(next, route);
    return STATUS_OK;
}

static enum status route_delete(struct broker *broker, struct broker_admin *admin,
                                struct catalog *next)
{
    (void)broker;
    const struct route *route = catalog_route_by_filter(next, TENANT_DEFAULT, admin->name);
    if (route == NULL)
        return STATUS_NOT_FOUND;
    put_row(admin, 0, STORAGE_DELETE, TABLE_ROUTE, (uint64_t[]){route->tenant, route->id}, 2, NULL);
    admin->rows.row_count = 1;
    catalog_remove_route(next, route->id);
    return STATUS_OK;
}

static void store_principal(struct broker_admin *admin, struct catalog *next,
                            struct principal *principal)
{
    struct buf row;
    buf_init(&row, ROW_LIMIT);
    CHECK(principal_encode(principal, &row) == STATUS_OK);
    store(admin, 0, TABLE_PRINCIPAL, (uint64_t[]){principal->tenant, principal->id}, 2, &row);
    catalog_put_principal(next, principal);
}

static enum status user_set(struct broker *broker, struct broker_admin *admin, struct catalog *next)
{
    const struct principal *old = catalog_principal_by_name(next, TENANT_DEFAULT, admin->name);
    if (old == NULL && catalog_principal_count(next) >= LIMIT_PRINCIPALS)
        return err_set(&admin->err, STATUS_OVER_QUOTA, "there are %u users already",
                       LIMIT_PRINCIPALS);
    struct principal *principal = old != NULL ? principal_copy(old) : heap_new(sizeof *principal);
    if (old == NULL) {
        atomic_init(&principal->refs, 1);
        principal->tenant = TENANT_DEFAULT;
        principal->id = broker->next_id++;
        principal->name = heap_text((const char *)admin->name.data, admin->name.size);
        principal->created_ms = clock_wall_ms();
        /* The first user runs the house: without the right to manage nobody could give rights. */
        if (catalog_principal_count(next) == 0) {
            static const char *const all[] = {"topic:#", "topic:$+/#", "queue:*"};
            principal->grants = heap_array(3, sizeof *principal->grants);
            for (unsigned i = 0; i < 3; i++)
                if (grant_parse(span_from_text("publish,consume,manage"), span_from_text(all[i]),
                                &principal->grants[principal->grant_count], NULL) == STATUS_OK)
                    principal->grant_count++;
        }
    }
    /* The slow part was done off the loop, into admin->principal. */
    heap_free(principal->hash);
    principal->hash = admin->principal->hash;
    admin->principal->hash = NULL;
    memcpy(principal->scram_salt, admin->principal->scram_salt, sizeof principal->scram_salt);
    memcpy(principal->scram_stored_key, admin->principal->scram_stored_key,
           sizeof principal->scram_stored_key);
    memcpy(principal->scram_server_key, admin->principal->scram_server_key,
           sizeof principal->scram_server_key);
    principal->scram_iterations = admin->principal->scram_iterations;
    store_principal(admin, next, principal);
    return STATUS_OK;
}

static enum status user_delete(struct broker *broker, struct broker_admin *admin,
                               struct catalog *next)
{
    (void)broker;
    const struct principal *principal =
        catalog_principal_by_name(next, TENANT_DEFAULT, admin->name);
    if (principal == NULL)
        return STATUS_NOT_FOUND;
    put_row(admin, 0, STORAGE_DELETE, TABLE_PRINCIPAL,
            (uint64_t[]){principal->tenant, principal->id}, 2, NULL);
    admin->rows.row_count = 1;
    catalog_remove_principal(next, principal->id);
    return STATUS_OK;
}

static enum status grants_set(struct broker *broker, struct broker_admin *admin,
                              struct catalog *next)
{
    (void)broker;
    const struct principal *old = catalog_principal_by_name(next, TENANT_DEFAULT, admin->name);
    if (old == NULL)
        return STATUS_NOT_FOUND;
    if (admin->grant_count > LIMIT_GRANTS)
        return err_set(&admin->err, STATUS_OVER_QUOTA, "at most %u grants for a user",
                       LIMIT_GRANTS);
    struct principal *principal = principal_copy(old);
    for (uint32_t i = 0; i < principal->grant_count; i++)
        grant_deinit(&principal->grants[i]);
    heap_free(principal->grants);
    principal->grants =
        admin->grant_count == 0 ? NULL : heap_array(admin->grant_count, sizeof(struct grant));
    principal->grant_count = admin->grant_count;
    for (uint32_t i = 0; i < admin->grant_count; i++) {
        principal->grants[i] = admin->grants[i];
        principal->grants[i].pattern =
            heap_text(admin->grants[i].pattern, strlen(admin->grants[i].pattern));
    }
    store_principal(admin, next, principal);
    return STATUS_OK;
}

static enum status key_create(struct broker *broker, struct broker_admin *admin,
                              struct catalog *next)
{
    (void)broker;
    const struct principal *old = catalog_principal_by_name(next, TENANT_DEFAULT, admin->name);
    if (old == NULL)
        return STATUS_NOT_FOUND;
    if (old->key_count >= 8)
        return err_set(&admin->err, STATUS_OVER_QUOTA, "at most 8 access keys for a user");
    struct principal *principal = principal_copy(old);
    principal->keys =
        heap_resize(principal->keys, (principal->key_count + 1) * sizeof *principal->keys);
    access_key_make(&admin->key);
    principal->keys[principal->key_count++] = admin->key;
    store_principal(admin, next, principal);
    return STATUS_OK;
}

static enum status key_delete(struct broker *broker, struct broker_admin *admin,
                              struct catalog *next)
{
    (void)broker;
    const struct principal *old = catalog_principal_by_name(next, TENANT_DEFAULT, admin->name);
    if (old == NULL)
        return STATUS_NOT_FOUND;
    for (uint32_t i = 0; i < old->key_count; i++) {
        if (!span_is(admin->key_id, old->keys[i].id))
            continue;
        struct principal *principal = principal_copy(old);
        memmove(&principal->keys[i], &principal->keys[i + 1],
                (principal->key_count - i - 1) * sizeof *principal->keys);
        principal->key_count--;
        store_principal(admin, next, principal);
        return STATUS_OK;
    }
    return STATUS_NOT_FOUND;
}

static change *const changes[] = {
    [ADMIN_QUEUE_CREATE] = queue_create, [ADMIN_QUEUE_DELETE] = queue_delete,
    [ADMIN_GROUP_CREATE] = group_create, [ADMIN_GROUP_DELETE] = group_delete,
    [ADMIN_ROUTE_SET] = route_set,       [ADMIN_ROUTE_DELETE] = route_delete,
    [ADMIN_USER_SET] = user_set,         [ADMIN_USER_DELETE] = user_delete,
    [ADMIN_GRANTS_SET] = grants_set,     [ADMIN_KEY_CREATE] = key_create,
    [ADMIN_KEY_DELETE] = key_delete,
};

/* ------------------------------------------------ one change from beginning to end, on worker 0 */

static void change_next(struct broker *broker);

static void change_end(struct broker *broker, struct broker_admin *admin, enum status status)
{
    for (unsigned i = 0; i < 4; i++)
        buf_deinit(&admin->buffers[i]);
    catalog_unref(admin->next);
    admin->next = NULL;
    principal_unref(admin->principal);
    admin->principal = NULL;
    if (status != STATUS_OK) {
        queue_unref(admin->queue);
        group_spec_unref(admin->group);
        admin->queue = NULL;
        admin->group = NULL;
    }
    request_complete(&admin->request, status);
    broker->changing = false;
    change_next(broker);
}

/* A snapshot on its way to one worker and back. */
struct handout {
    struct mail mail;
    struct broker_worker *to;
    struct broker_admin *admin;
    struct catalog *catalog;
};

static void handout_confirm(struct mail *mail)
{
    struct handout *handout = container_of(mail, struct handout, mail);
    struct broker_admin *admin = handout->admin;
    struct broker *broker = handout->to->broker;
    heap_free(handout);
    if (--admin->confirms == 0)
        change_end(broker, admin, STATUS_OK);
}

static void handout_deliver(struct mail *mail)
{
    struct handout *handout = container_of(mail, struct handout, mail);
    administer_apply(handout->to, handout->catalog);
    handout->mail.deliver = handout_confirm;
    mailbox_post(handout->to->broker->workers[0].loop, &handout->mail);
}

static void change_stored(struct request *request, enum status status)
{
    struct broker_admin *admin = container_of(request, struct broker_admin, rows.request);
    struct broker *broker = admin->client->worker->broker;
    if (status != STATUS_OK) {
        err_set(&admin->err, status, "the change could not be stored: %s", status_text(status));
        change_end(broker, admin, status);
        return;
    }
    admin->confirms = broker->worker_count;
    for (unsigned i = 0; i < broker->worker_count; i++) {
        struct handout *handout = heap_new(sizeof *handout);
        handout->to = &broker->workers[i];
        handout->admin = admin;
        handout->catalog = catalog_ref(admin->next);
        handout->mail.deliver = handout_deliver;
        mailbox_post(handout->to->loop, &handout->mail);
    }
}

static void change_next(struct broker *broker)
{
    struct link *link = broker->changing ? NULL : list_pop(&broker->changes);
    if (link == NULL)
        return;
    struct broker_admin *admin = container_of(link, struct broker_admin, link);
    broker->changing = true;
    admin->next = catalog_next(broker->workers[0].catalog);
    uint64_t ids = broker->next_id, partitions = broker->next_partition;
    enum status status = changes[admin->action](broker, admin, admin->next);
    if (status != STATUS_OK) {
        broker->next_id = ids;
        broker->next_partition = partitions;
        change_end(broker, admin, status);
        return;
    }
    request_init(&admin->rows.request, broker->workers[0].loop, change_stored);
    admin->rows.rows = admin->row;
    admin->rows.append.durability = DURABLE_SYNC;
    log_rows_write(broker->log, &admin->rows);
}

static void admin_arrive(struct mail *mail)
{
    struct broker_admin *admin = container_of(mail, struct broker_admin, request.mail);
    struct broker *broker = admin->client->worker->broker;
    list_push(&broker->changes, &admin->link);
    change_next(broker);
}

/* ------------------------------------------------ the call, on the client's worker */

static enum status password_work(struct offload *offload)
{
    struct broker_admin *admin = container_of(offload, struct broker_admin, offload);
    return principal_set_password(admin->principal, admin->password);
}

static void admin_send(struct broker_admin *admin)
{
    admin->request.mail.deliver = admin_arrive;
    mailbox_post(admin->client->worker->broker->workers[0].loop, &admin->request.mail);
}

static void password_done(struct request *request, enum status status)
{
    struct broker_admin *admin = container_of(request, struct broker_admin, offload.request);
    if (status == STATUS_OK) {
        admin_send(admin);
        return;
    }
    principal_unref(admin->principal);
    admin->principal = NULL;
    request_complete(&admin->request, status);
}

/* Queues and groups are managed by their queue's name, routes by their filter, users by whoever may
 * manage all. */
static enum status may_manage(const struct broker_admin *admin)
{
    const struct client *client = admin->client;
    const struct catalog *catalog = client->worker->catalog;
    switch (admin->action) {
    case ADMIN_QUEUE_CREATE:
        return broker_check(client, ACTION_MANAGE, false, admin->name);
    case ADMIN_QUEUE_DELETE:
    case ADMIN_GROUP_CREATE:
    case ADMIN_GROUP_DELETE: {
        const struct group_spec *group =
            admin->action == ADMIN_GROUP_DELETE ? catalog_group(catalog, admin->id) : NULL;
        const struct queue *queue =
            catalog_queue(catalog, group != NULL ? group->queue : admin->id);
        return queue == NULL
                   ? STATUS_NOT_FOUND
                   : broker_check(client, ACTION_MANAGE, false, span_from_text(queue->name));
    }
    case ADMIN_ROUTE_SET:
    case ADMIN_ROUTE_DELETE:
        return broker_check(client, ACTION_MANAGE, true, admin->name);
    case ADMIN_USER_SET:
    case ADMIN_USER_DELETE:
    case ADMIN_GRANTS_SET:
    case ADMIN_KEY_CREATE:
    case ADMIN_KEY_DELETE:
        return broker_check(client, ACTION_MANAGE, false, span_from_text("*"));
    }
    return STATUS_INVALID;
}

static enum status user_is_valid(struct broker_admin *admin)
{
    if (admin->name.size == 0 || admin->name.size > LIMIT_USER_NAME)
        return err_set(&admin->err, STATUS_INVALID, "a user's name is 1 to %u characters",
                       LIMIT_USER_NAME);
    for (size_t i = 0; i < admin->name.size; i++)
        if (admin->name.data[i] <= ' ' || strchr("/:+#*%", admin->name.data[i]) != NULL ||
            admin->name.data[i] == 0x7f)
            return err_set(&admin->err, STATUS_INVALID,
                           "a user's name has no blank and none of / : + # * %%");
    if (admin->password.size == 0 || admin->password.size > LIMIT_PASSWORD)
        return err_set(&admin->err, STATUS_INVALID, "a password is 1 to %u bytes", LIMIT_PASSWORD);
    return STATUS_OK;
}

void broker_administer(struct broker_admin *admin)
{
    struct broker_worker *worker = admin->client->worker;
    CHECK(loop_is_home(worker->loop));
    admin->err.text[0] = '\0';
    for (unsigned i = 0; i < 4; i++)
        buf_init(&admin->buffers[i], 0);
    admin->next = NULL;
    admin->principal = NULL;
    admin->queue = NULL;
    admin->group = NULL;
    enum status status = worker->ending ? STATUS_SHUTTING_DOWN : may_manage(admin);
    if (status == STATUS_OK && admin->action == ADMIN_USER_SET)
        status = user_is_valid(admin);
    if (status != STATUS_OK) {
        request_complete(&admin->request, status);
        return;
    }
    if (admin->action != ADMIN_USER_SET) {
        admin_send(admin);
        return;
    }
    admin->principal = heap_new(sizeof *admin->principal);
    atomic_init(&admin->principal->refs, 1);
    request_init(&admin->offload.request, worker->loop, password_done);
    admin->offload.work = password_work;
    offload_run(&admin->offload);
}

/* ------------------------------------------------ a worker takes a snapshot in */

static void open_partitions(struct broker_worker *worker, const struct queue *queue)
{
    for (uint32_t i = 0; i < queue->partition_count; i++) {
        uint64_t id = queue->first_partition + i;
        if (log_owner(worker->broker->log, id) != worker->index)
            continue;
        struct partition_spec spec = {
            .id = id,
            .class = queue->class,
            .durability = queue->durability,
            .retention_ms = queue->retention_ms,
            .retention_bytes = queue->retention_bytes,
        };
        log_partition_open(worker->log, &spec, &queue->stat->partitions[i]);
    }
}

static void close_partitions(struct broker_worker *worker, const struct queue *queue)
{
    for (uint32_t i = 0; i < queue->partition_count; i++)
        if (log_owner(worker->broker->log, queue->first_partition + i) == worker->index)
            log_partition_close(worker->log, queue->first_partition + i, true);
}

static void apply_queues(struct broker_worker *worker, const struct catalog *old,
                         const struct catalog *new)
{
    for (size_t i = 0; old != NULL && i < catalog_queue_count(old); i++) {
        const struct queue *queue = catalog_queue_at(old, i);
        bool removed = catalog_queue(new, queue->id) == NULL;
        for (size_t k = 0; k < catalog_group_count(old, queue->id); k++) {
            uint64_t id = catalog_group_at(old, queue->id, k)->id;
            if (removed || catalog_group(new, id) == NULL)
                groups_close(worker, id, true);
        }
        if (removed)
            close_partitions(worker, queue);
    }
    for (size_t i = 0; i < catalog_queue_count(new); i++) {
        const struct queue *queue = catalog_queue_at(new, i);
        if (old == NULL || catalog_queue(old, queue->id) == NULL)
            open_partitions(worker, queue);
        for (size_t k = 0; k < catalog_group_count(new, queue->id); k++) {
            const struct group_spec *group = catalog_group_at(new, queue->id, k);
            if (old == NULL || catalog_group(old, group->id) == NULL)
                groups_open(worker, queue, group);
        }
    }
}

/* Rights may have changed: who has gone is sent away, what is no longer allowed ends. */
static void apply_principals(struct broker_worker *worker, const struct catalog *old,
                             const struct catalog *new)
{
    list_each_safe(link, following, &worker->clients)
    {
        struct client *client = container_of(link, struct client, link);
        if (!client->open)
            continue;
        const struct principal *principal =
            client->principal == NULL ? NULL : catalog_principal(new, client->principal->id);
        if (client->principal == NULL ? catalog_is_protected(old) && !catalog_is_protected(new)
                                      : principal == NULL) {
            client->ops->end(client, STATUS_DENIED);
            continue;
        }
        if (principal == client->principal)
            continue;
        principal_unref(client->principal);
        client->principal = principal_ref(principal);
        subscribe_recheck(client);
    }
}

void administer_apply(struct broker_worker *worker, struct catalog *catalog)
{
    CHECK(loop_is_home(worker->loop));
    struct catalog *old = worker->catalog;
    worker->catalog = catalog;
    apply_queues(worker, old, catalog);
    if (old != NULL)
        apply_principals(worker, old, catalog);
    catalog_unref(old);
}

/* ------------------------------------------------ loading at start */

struct load {
    struct storage_scan scan;
    struct log_rows rows;
    struct loop *loop;
    enum status status;
};

static void scan_done(struct request *request, enum status status)
{
    struct load *load = container_of(request, struct load, scan.request);
    load->status = status;
    loop_stop(load->loop);
}

typedef enum status load_row(struct broker *broker, struct catalog *catalog, struct span key,
                             struct span value);

static enum status load_counters(struct broker *broker, struct catalog *catalog, struct span key,
                                 struct span value)
{
    (void)catalog;
    if (!span_is(span_from(key, 1), COUNTERS))
        return STATUS_OK;
    struct reader reader = reader_of(value);
    if (reader_u8(&reader) != 1)
        return STATUS_UNSUPPORTED;
    broker->next_id = reader_u64(&reader);
    broker->next_partition = reader_u64(&reader);
    return reader.failed ? STATUS_CORRUPT : STATUS_OK;
}

static enum status load_queue(struct broker *broker, struct catalog *catalog, struct span key,
                              struct span value)
{
    (void)broker;
    (void)key;
    struct queue *queue;
    enum status status = queue_decode(value, &queue);
    if (status != STATUS_OK)
        return status;
    queue->stat = queue_stat_new(queue->partition_count);
    catalog_put_queue(catalog, queue);
    return STATUS_OK;
}

static enum status load_group(struct broker *broker, struct catalog *catalog, struct span key,
                              struct span value)
{
    (void)broker;
    (void)key;
    struct group_spec *group;
    enum status status = group_spec_decode(value, &group);
    if (status != STATUS_OK)
        return status;
    group->stat = group_stat_new();
    catalog_put_group(catalog, group);
    return STATUS_OK;
}

static enum status load_route(struct broker *broker, struct catalog *catalog, struct span key,
                              struct span value)
{
    (void)broker;
    (void)key;
    struct route *route;
    enum status status = route_decode(value, &route);
    if (status == STATUS_OK)
        catalog_put_route(catalog, route);
    return status;
}

static enum status load_principal(struct broker *broker, struct catalog *catalog, struct span key,
                                  struct span value)
{
    (void)broker;
    (void)key;
    struct principal *principal;
    enum status status = principal_decode(value, &principal);
    if (status == STATUS_OK)
        catalog_put_principal(catalog, principal);
    return status;
}

static enum status load_table(struct broker *broker, struct catalog *catalog, enum table table,
                              load_row *row)
{
    uint8_t first[512] = {(uint8_t)table};
    size_t first_size = 1;
    uint8_t end[1] = {(uint8_t)(table + 1)};
    struct load load = {.loop = loop_new()};
    enum status status = STATUS_OK;
    bool more = true;
    while (more && status == STATUS_OK) {
        memset(&load.scan, 0, sizeof load.scan);
        request_init(&load.scan.request, load.loop, scan_done);
        load.scan.first = span_of(first, first_size);
        load.scan.end = span_of(end, 1);
        log_rows_scan(broker->log, &load.scan);
        loop_run(load.loop);
        status = load.status;
        more = load.scan.more;
        struct span key, value;
        for (size_t at = 0;
             status == STATUS_OK && storage_scan_next(&load.scan, &at, &key, &value);) {
            status = row(broker, catalog, key, value);
            if (key.size < sizeof first - 1) { /* the next page begins just after this key */
                memcpy(first, key.data, key.size);
                first[key.size] = 0;
                first_size = key.size + 1;
            }
        }
        blob_unref(load.scan.rows);
    }
    loop_free(load.loop);
    return status;
}

static void rows_done(struct request *request, enum status status)
{
    struct load *load = container_of(request, struct load, rows.request);
    load->status = status;
    loop_stop(load->loop);
}

/* An empty store: the built-in queue, stored before anybody may use it. */
static enum status make_first(struct broker *broker, struct catalog *catalog)
{
    broker->next_id = 1;
    broker->next_partition = 1;
    struct queue *queue = queue_make(broker, span_from_text(broker->options.built_in_queue));
    queue->built_in = true;
    queue->partition_count = 4;
    queue->class = class_of(queue->retention_ms);
    queue->first_partition = broker->next_partition;
    broker->next_partition += queue->partition_count;
    queue->stat = queue_stat_new(queue->partition_count);

    struct broker_admin admin = {.client = &(struct client){.worker = &broker->workers[0]}};
    struct buf row;
    buf_init(&row, ROW_LIMIT);
    CHECK(queue_encode(queue, &row) == STATUS_OK);
    store(&admin, 0, TABLE_QUEUE, (uint64_t[]){queue->tenant, queue->id}, 2, &row);
    catalog_put_queue(catalog, queue);

    struct load load = {.loop = loop_new()};
    request_init(&load.rows.request, load.loop, rows_done);
    load.rows.rows = admin.row;
    load.rows.row_count = admin.rows.row_count;
    load.rows.append.durability = DURABLE_SYNC;
    log_rows_write(broker->log, &load.rows);
    loop_run(load.loop);
    loop_free(load.loop);
    for (unsigned i = 0; i < 4; i++)
        buf_deinit(&admin.buffers[i]);
    return load.status;
}

enum status administer_load(struct broker *broker, struct err *err)
{
    static const struct {
        enum table table;
        load_row *row;
        const char *what;
    } tables[] = {
        {TABLE_META, load_counters, "counters"},    {TABLE_QUEUE, load_queue, "queues"},
        {TABLE_GROUP, load_group, "groups"},        {TABLE_ROUTE, load_route, "routes"},
        {TABLE_PRINCIPAL, load_principal, "users"},
    };
    struct catalog *catalog = catalog_new();
    enum status status = STATUS_OK;
    for (unsigned i = 0; i < sizeof tables / sizeof *tables && status == STATUS_OK; i++) {
        status = load_table(broker, catalog, tables[i].table, tables[i].row);
        if (status != STATUS_OK)
            err_set(err, status, "the stored %s cannot be read: %s", tables[i].what,
                    status_text(status));
    }
    if (status == STATUS_OK && catalog_queue_count(catalog) == 0) {
        status = make_first(broker, catalog);
        if (status != STATUS_OK)
            err_set(err, status, "the first queue could not be stored: %s", status_text(status));
    }
    for (unsigned i = 0; i < broker->worker_count && status == STATUS_OK; i++)
        administer_apply(&broker->workers[i], catalog_ref(catalog));
    catalog_unref(catalog);
    return status;
}
