/* SPDX-License-Identifier: Apache-2.0 */
/* What each administrative action does to the next snapshot of the catalog, and the rows that store
 * it. Runs on worker 0. One that refuses leaves the snapshot as it is. */
#include "core/broker/change.h"
#include "core/broker/topic.h"

#include "core/base/heap.h"
#include "core/base/pack.h"
#include "core/base/rng.h"
#include "core/log/table.h"

enum { KEY_LIMIT = 64, HOUR_MS = 60 * 60 * 1000 };

const char change_counters[] = "ids";

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

void change_put_row(struct broker_admin *admin, unsigned i, enum storage_change change,
                    enum table table, const uint64_t *ids, unsigned count, const struct buf *value)
{
    struct buf *buf = &admin->buffers[i];
    buf_init(buf, CHANGE_ROW_MAX + KEY_LIMIT);
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
    struct broker *broker = admin->worker->broker;
    struct buf *buf = &admin->buffers[i];
    buf_init(buf, KEY_LIMIT);
    struct pack pack = pack_into(buf);
    pack_u8(&pack, TABLE_META);
    pack_bytes(&pack, span_from_text(change_counters));
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

enum status change_store(struct broker_admin *admin, enum table table, const uint64_t *ids,
                         unsigned count, struct buf *row, enum status encoded)
{
    if (encoded == STATUS_OK) {
        change_put_row(admin, 0, STORAGE_PUT, table, ids, count, row);
        put_counters(admin, 1);
        admin->row_count = 2;
    } else {
        err_set(&admin->err, encoded, "this is more than a stored row holds");
    }
    buf_deinit(row);
    return encoded;
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

/* Temporary ones are counted apart, as clients need no right to manage for them: one user does not
 * take them all, where there are users. The built-in one is not counted. */
static enum status queue_fits(struct broker *broker, struct broker_admin *admin,
                              const struct catalog *next)
{
    size_t limit = broker_queue_limit(broker);
    if (admin->temporary && limit > LIMIT_TEMPORARY)
        limit = LIMIT_TEMPORARY;
    size_t owned_limit = admin->owner == 0 ? limit : (limit + 1) / 2;
    size_t temporary = catalog_temporary_count(next);
    size_t count = admin->temporary ? temporary : catalog_queue_count(next) - temporary - 1;
    size_t owned = admin->temporary ? catalog_temporary_count_of(next, admin->owner) : 0;
    if (count < limit && owned < owned_limit)
        return STATUS_OK;
    return err_set(&admin->err, STATUS_OVER_QUOTA,
                   "there are %zu queues already, as many as allowed",
                   count < limit ? owned : count);
}

/* Takes the queue. */
static enum status queue_put(struct broker_admin *admin, struct queue *queue, struct catalog *next)
{
    struct buf row;
    buf_init(&row, CHANGE_ROW_MAX);
    enum status status = change_store(admin, TABLE_QUEUE, (uint64_t[]){queue->tenant, queue->id}, 2,
                                      &row, queue_encode(queue, &row));
    if (status != STATUS_OK) {
        queue_unref(queue);
        return status;
    }
    admin->queue = queue_ref(queue);
    catalog_put_queue(next, queue);
    return STATUS_OK;
}

static bool lease_is_valid(struct broker_admin *admin)
{
    if (admin->lease_ms == 0 ||
        (admin->lease_ms >= LIMIT_LEASE_MIN_MS && admin->lease_ms <= LIMIT_LEASE_MS))
        return true;
    err_set(&admin->err, STATUS_INVALID, "lease_ms: %u to %u", LIMIT_LEASE_MIN_MS, LIMIT_LEASE_MS);
    return false;
}

static enum status queue_create(struct broker *broker, struct broker_admin *admin,
                                struct catalog *next)
{
    if (admin->temporary ? !queue_name_is_temporary(admin->name)
                         : !queue_name_is_valid(admin->name, LIMIT_QUEUE_NAME))
        return err_set(&admin->err, STATUS_INVALID,
                       "a queue's name is 1 to %u of A-Z a-z 0-9 - _ .", LIMIT_QUEUE_NAME);
    if (catalog_queue_by_text(next, TENANT_DEFAULT, admin->name) != NULL)
        return err_set(&admin->err, STATUS_EXISTS, "queue %.*s exists already",
                       (int)admin->name.size, (const char *)admin->name.data);
    enum status fits = queue_fits(broker, admin, next);
    if (fits != STATUS_OK)
        return fits;
    if (admin->partitions > LIMIT_PARTITIONS)
        return err_set(&admin->err, STATUS_INVALID, "partitions: at most %u", LIMIT_PARTITIONS);
    if (admin->dedup_ms > LIMIT_DEDUP_MS)
        return err_set(&admin->err, STATUS_INVALID, "dedup_ms: at most %u", LIMIT_DEDUP_MS);
    if (!lease_is_valid(admin))
        return STATUS_INVALID;
    if (admin->type == QUEUE_FIFO && admin->partitions > 1)
        return err_set(&admin->err, STATUS_INVALID, "a fifo queue has one partition");
    struct queue *queue = queue_make(broker, admin->name);
    queue->type = admin->type;
    queue->durability = admin->durability;
    queue->owner = admin->owner;
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
    queue->overflow = admin->overflow;
    queue->max_records = admin->max_records;
    queue->protect_bytes = admin->protect_bytes;
    queue->dedup_ms = admin->dedup_ms;
    queue->lease_ms = (uint32_t)admin->lease_ms;
    queue->first_partition = broker->next_partition;
    broker->next_partition += queue->partition_count;
    queue->stat = queue_stat_new(queue->partition_count);
    return queue_put(admin, queue, next);
}

static void change_fields(struct queue *queue, const struct broker_admin *admin)
{
    if (admin->fields & QUEUE_FIELD_DESCRIPTION) {
        heap_free(queue->description);
        queue->description = admin->description == NULL
                                 ? NULL
                                 : heap_text(admin->description, strlen(admin->description));
    }
    if (admin->fields & QUEUE_FIELD_RETENTION_MS)
        queue->retention_ms = admin->retention_ms;
    if (admin->fields & QUEUE_FIELD_RETENTION_BYTES)
        queue->retention_bytes = admin->retention_bytes;
    if (admin->fields & QUEUE_FIELD_REDRIVE) {
        queue->redrive = admin->redrive;
        queue->max_consume_count = admin->max_consume_count;
    }
    if (admin->fields & QUEUE_FIELD_OVERFLOW)
        queue->overflow = admin->overflow;
    if (admin->fields & QUEUE_FIELD_MAX_RECORDS)
        queue->max_records = admin->max_records;
    if (admin->fields & QUEUE_FIELD_PROTECT_BYTES)
        queue->protect_bytes = admin->protect_bytes;
    if (admin->fields & QUEUE_FIELD_DEDUP_MS)
        queue->dedup_ms = admin->dedup_ms;
    if (admin->fields & QUEUE_FIELD_LEASE_MS)
        queue->lease_ms = (uint32_t)admin->lease_ms;
}

/* Its class stays: which files its batches lie in says nothing of how long they do. */
static enum status queue_change(struct broker *broker, struct broker_admin *admin,
                                struct catalog *next)
{
    (void)broker;
    const struct queue *old = catalog_queue(next, admin->id);
    if (old == NULL)
        return STATUS_NOT_FOUND;
    if ((admin->fields & QUEUE_FIELD_DEDUP_MS) && admin->dedup_ms > LIMIT_DEDUP_MS)
        return err_set(&admin->err, STATUS_INVALID, "dedup_ms: at most %u", LIMIT_DEDUP_MS);
    if ((admin->fields & QUEUE_FIELD_LEASE_MS) && !lease_is_valid(admin))
        return STATUS_INVALID;
    struct queue *queue = queue_copy(old);
    change_fields(queue, admin);
    return queue_put(admin, queue, next);
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
    change_put_row(admin, 0, STORAGE_DELETE, TABLE_QUEUE, (uint64_t[]){queue->tenant, queue->id}, 2,
                   NULL);
    /* Its groups: every key that begins with (tenant, queue). */
    change_put_row(admin, 1, STORAGE_DELETE_RANGE, TABLE_GROUP,
                   (uint64_t[]){queue->tenant, queue->id}, 2, NULL);
    buf_init(&admin->buffers[2], KEY_LIMIT);
    admin->row[1].value =
        key_of(&admin->buffers[2], TABLE_GROUP, (uint64_t[]){queue->tenant, queue->id + 1}, 2);
    admin->row_count = 2;
    catalog_remove_queue(next, queue->id);
    return STATUS_OK;
}

/* Of a consumer of a broadcast group with the group's own before it. */
static char *group_name(const struct group_spec *parent, struct span name)
{
    size_t before = parent == NULL ? 0 : strlen(parent->name) + 1;
    char *text = heap_new(before + name.size + 1);
    if (parent != NULL) {
        memcpy(text, parent->name, before - 1);
        text[before - 1] = '/';
    }
    memcpy(text + before, name.data, name.size);
    return text;
}

/* Takes the reference. */
static void group_put(struct broker_admin *admin, struct group_spec *group, struct catalog *next)
{
    struct buf row;
    buf_init(&row, CHANGE_ROW_MAX);
    CHECK(change_store(admin, TABLE_GROUP, (uint64_t[]){group->tenant, group->queue, group->id}, 3,
                       &row, group_spec_encode(group, &row)) == STATUS_OK);
    admin->group = group_spec_ref(group);
    catalog_put_group(next, group);
}

/* *selector: a reference, NULL where none is given. */
static enum status read_selector(struct broker_admin *admin, struct selector **selector)
{
    struct err err;
    if (admin->selector.size == 0 || selector_compile(admin->selector, selector, &err) == STATUS_OK)
        return STATUS_OK;
    return err_set(&admin->err, STATUS_INVALID, "that is no selector: %s", err.text);
}

static enum status check_idle(struct broker_admin *admin, enum group_mode mode)
{
    if (admin->consumer_idle_ms == 0 || mode == GROUP_BROADCAST)
        return STATUS_OK;
    return err_set(&admin->err, STATUS_INVALID, "consumer_idle_ms is for broadcast groups");
}

/* Room for one more group of the queue? */
static enum status group_fits(const struct broker *broker, struct broker_admin *admin,
                              const struct queue *queue, const struct catalog *next)
{
    uint32_t counted = 0;
    size_t count = catalog_group_count(next, queue->id);
    for (size_t i = 0; i < count; i++)
        counted += catalog_group_at(next, queue->id, i)->counts;
    uint32_t limit = broker->options.group_limit_dms == 0 ? 3 : broker->options.group_limit_dms;
    if (count < LIMIT_GROUPS_PER_QUEUE && (!admin->dms || counted < limit))
        return STATUS_OK;
    return err_set(&admin->err, STATUS_OVER_QUOTA,
                   "the queue has %u groups already, as many as allowed",
                   admin->dms ? limit : LIMIT_GROUPS_PER_QUEUE);
}

static struct group_spec *group_make(struct broker *broker, const struct broker_admin *admin,
                                     const struct queue *queue, const struct group_spec *parent)
{
    struct group_spec *group = heap_new(sizeof *group);
    atomic_init(&group->refs, 1);
    group->tenant = queue->tenant;
    group->queue = queue->id;
    group->id = broker->next_id++;
    group->uuid[0] = 'g';
    group->uuid[1] = '-';
    rng_uuid(group->uuid + 2);
    group->parent = admin->parent;
    group->start = parent != NULL ? parent->start : admin->start;
    group->mode = admin->mode;
    if (group->mode == GROUP_SHARED)
        group->dead_partition = dead_partition_of(group->id);
    group->counts = admin->dms;
    group->created_ms = clock_wall_ms();
    group->stat = group_stat_new(queue->partition_count);
    return group;
}

static enum status group_create(struct broker *broker, struct broker_admin *admin,
                                struct catalog *next)
{
    const struct queue *queue = catalog_queue(next, admin->id);
    const struct group_spec *parent = catalog_group(next, admin->parent);
    if (queue == NULL || (parent == NULL && admin->parent != 0))
        return STATUS_NOT_FOUND;
    if (!queue_name_is_valid(admin->name, LIMIT_GROUP_NAME))
        return err_set(&admin->err, STATUS_INVALID,
                       "a group's name is 1 to %u of A-Z a-z 0-9 - _ .", LIMIT_GROUP_NAME);
    struct selector *selector = NULL;
    char *name = group_name(parent, admin->name);
    enum status status = STATUS_OK;
    if (catalog_group_by_text(next, queue->id, span_from_text(name)) != NULL)
        status = err_set(&admin->err, STATUS_EXISTS, "group %.*s exists already",
                         (int)admin->name.size, (const char *)admin->name.data);
    if (status == STATUS_OK)
        status = group_fits(broker, admin, queue, next);
    if (status == STATUS_OK)
        status = check_idle(admin, admin->mode);
    if (status == STATUS_OK)
        status = read_selector(admin, &selector);
    if (status != STATUS_OK) {
        heap_free(name);
        return status;
    }
    struct group_spec *group = group_make(broker, admin, queue, parent);
    group->name = name;
    group->selector = selector;
    group->consumer_idle_ms = admin->consumer_idle_ms;
    group_put(admin, group, next);
    return STATUS_OK;
}

static enum status group_describe(struct broker *broker, struct broker_admin *admin,
                                  struct catalog *next)
{
    (void)broker;
    const struct group_spec *old = catalog_group(next, admin->id);
    if (old == NULL)
        return STATUS_NOT_FOUND;
    struct selector *selector = NULL;
    enum status status = STATUS_OK;
    bool selects = (admin->fields & GROUP_FIELD_SELECTOR) != 0;
    if (selects && old->parent != 0)
        return err_set(&admin->err, STATUS_INVALID,
                       "a consumer has the selector of its broadcast group");
    if (admin->fields & GROUP_FIELD_CONSUMER_IDLE)
        status = check_idle(admin, old->mode);
    if (selects && status == STATUS_OK)
        status = read_selector(admin, &selector);
    if (status != STATUS_OK)
        return status;
    struct group_spec *group = group_spec_copy(old);
    if (selects) {
        selector_unref(group->selector);
        group->selector = selector;
    }
    if (admin->fields & GROUP_FIELD_CONSUMER_IDLE)
        group->consumer_idle_ms = admin->consumer_idle_ms;
    group_put(admin, group, next);
    return STATUS_OK;
}

/* The consumers of a broadcast group; one place in many is left for the group itself. */
static void consumers_delete(struct broker_admin *admin, const struct group_spec *group,
                             struct catalog *next)
{
    size_t count = catalog_group_count(next, group->queue);
    admin->many = heap_array(count, sizeof *admin->many);
    admin->row_count = 0;
    buf_init(&admin->buffers[1], (count + 1) * KEY_LIMIT);
    CHECK(buf_reserve(&admin->buffers[1], count * KEY_LIMIT) == STATUS_OK);
    for (size_t i = count; i-- > 0;) {
        const struct group_spec *consumer = catalog_group_at(next, group->queue, i);
        if (consumer->parent != group->id)
            continue;
        size_t before = admin->buffers[1].size;
        struct span keys = key_of(&admin->buffers[1], TABLE_GROUP,
                                  (uint64_t[]){group->tenant, group->queue, consumer->id}, 3);
        admin->many[admin->row_count++] = (struct storage_row){
            .change = STORAGE_DELETE, .key = span_from(keys, before), .offset_at = -1};
        catalog_remove_group(next, consumer->id);
    }
}

static enum status group_delete(struct broker *broker, struct broker_admin *admin,
                                struct catalog *next)
{
    (void)broker;
    const struct group_spec *group = catalog_group(next, admin->id);
    if (group == NULL)
        return STATUS_NOT_FOUND;
    if (admin->if_expired && !broadcast_is_expired(next, group))
        return STATUS_BUSY;
    if (group->mode == GROUP_BROADCAST)
        consumers_delete(admin, group, next);
    uint32_t count = admin->row_count = admin->many == NULL ? 1 : admin->row_count + 1;
    change_put_row(admin, 0, STORAGE_DELETE, TABLE_GROUP,
                   (uint64_t[]){group->tenant, group->queue, group->id}, 3, NULL);
    if (admin->many != NULL)
        admin->many[count - 1] = admin->row[0];
    catalog_remove_group(next, group->id);
    return STATUS_OK;
}

static enum status route_set(struct broker *broker, struct broker_admin *admin,
                             struct catalog *next)
{
    if (!topic_filter_is_valid(admin->name))
        return err_set(&admin->err, STATUS_INVALID, "not a topic filter");
    const struct queue *queue = catalog_queue(next, admin->id);
    if (queue == NULL)
        return STATUS_NOT_FOUND;
    if (queue_name_is_temporary(span_from_text(queue->name)))
        return err_set(&admin->err, STATUS_INVALID, "a route to a temporary queue would keep it");
    const struct route *old = catalog_route_by_filter(next, TENANT_DEFAULT, admin->name);
    if (old == NULL && catalog_route_count(next) >= LIMIT_ROUTES)
        return err_set(&admin->err, STATUS_OVER_QUOTA, "there are %u routes already", LIMIT_ROUTES);
    struct route *route = heap_new(sizeof *route);
    atomic_init(&route->refs, 1);
    route->tenant = TENANT_DEFAULT;
    route->id = old != NULL ? old->id : broker->next_id++;
    route->filter = heap_text((const char *)admin->name.data, admin->name.size);
    route->queue = admin->id;
    struct buf row;
    buf_init(&row, CHANGE_ROW_MAX);
    CHECK(change_store(admin, TABLE_ROUTE, (uint64_t[]){route->tenant, route->id}, 2, &row,
                       route_encode(route, &row)) == STATUS_OK);
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
    change_put_row(admin, 0, STORAGE_DELETE, TABLE_ROUTE, (uint64_t[]){route->tenant, route->id}, 2,
                   NULL);
    admin->row_count = 1;
    catalog_remove_route(next, route->id);
    return STATUS_OK;
}

static enum status (*const changes[])(struct broker *broker, struct broker_admin *admin,
                                      struct catalog *next) = {
    [ADMIN_QUEUE_CREATE] = queue_create,      [ADMIN_QUEUE_DELETE] = queue_delete,
    [ADMIN_GROUP_CREATE] = group_create,      [ADMIN_GROUP_CHANGE] = group_describe,
    [ADMIN_GROUP_DELETE] = group_delete,      [ADMIN_ROUTE_SET] = route_set,
    [ADMIN_ROUTE_DELETE] = route_delete,      [ADMIN_USER_SET] = change_user_set,
    [ADMIN_USER_DELETE] = change_user_delete, [ADMIN_GRANTS_SET] = change_grants_set,
    [ADMIN_KEY_CREATE] = change_key_create,   [ADMIN_KEY_DELETE] = change_key_delete,
    [ADMIN_QUEUE_CHANGE] = queue_change,
};

enum status change_make(struct broker *broker, struct broker_admin *admin, struct catalog *next)
{
    uint64_t ids = broker->next_id, partitions = broker->next_partition;
    enum status status = changes[admin->action](broker, admin, next);
    if (status != STATUS_OK) {
        broker->next_id = ids;
        broker->next_partition = partitions;
    }
    return status;
}

enum status change_first(struct broker *broker, struct broker_admin *admin, struct catalog *next)
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
    struct buf row;
    buf_init(&row, CHANGE_ROW_MAX);
    catalog_put_queue(next, queue);
    return change_store(admin, TABLE_QUEUE, (uint64_t[]){queue->tenant, queue->id}, 2, &row,
                        queue_encode(queue, &row));
}
