/* SPDX-License-Identifier: Apache-2.0 */
/* Queues: create, list, show, change, delete, and the quota. */
#include "adapters/rest/queues.h"

#include "adapters/rest/change.h"
#include "core/base/utf8.h"

enum { HOUR_MS = 3600 * 1000, DESCRIPTION_MAX = 160, MESSAGE_BYTES_MAX = 512 * 1024 };

static const struct change_codes queue_codes = {
    .exists = 10240017, .over_quota = 10240020, .not_found = 10240401, .invalid = 10240007};

/* ---------------------------------------------------------------- show */

static const char *mode_of(const struct queue *queue)
{
    switch (queue->type) {
    case QUEUE_STANDARD:
        return "NORMAL";
    case QUEUE_FIFO:
        return "FIFO";
    case QUEUE_STREAM:
        break;
    }
    return queue->durability == DURABLE_INTERVAL ? "KAFKA_HT" : "KAFKA_HA";
}

struct totals {
    uint64_t records, bytes;
};

static struct totals totals_of(const struct queue *queue)
{
    struct totals totals = {0};
    for (uint32_t i = 0; i < queue->partition_count; i++) {
        const struct partition_stat *stat = &queue->stat->partitions[i];
        uint64_t start = atomic_load(&stat->start), end = atomic_load(&stat->end);
        totals.records += end > start ? end - start : 0;
        totals.bytes += atomic_load(&stat->bytes);
    }
    return totals;
}

static void put_field(struct buf *to, const char *name, int64_t number)
{
    json_put(to, ",\"");
    json_put(to, name);
    json_put(to, "\":");
    json_put_number(to, number);
}

static void put_text_field(struct buf *to, const char *name, const char *text)
{
    json_put(to, ",\"");
    json_put(to, name);
    json_put(to, "\":");
    json_put_text_or_null(to, text);
}

static void write_partitions(const struct queue *queue, struct buf *to)
{
    json_put(to, ",\"partitions\":[");
    for (uint32_t i = 0; i < queue->partition_count; i++) {
        const struct partition_stat *stat = &queue->stat->partitions[i];
        json_put(to, i > 0 ? ",{\"partition\":" : "{\"partition\":");
        json_put_number(to, i);
        put_field(to, "start", (int64_t)atomic_load(&stat->start));
        put_field(to, "end", (int64_t)atomic_load(&stat->end));
        put_field(to, "bytes", (int64_t)atomic_load(&stat->bytes));
        json_put(to, "}");
    }
    json_put(to, "]");
}

static void write_own_fields(const struct queue *queue, const struct totals *totals, struct buf *to)
{
    put_text_field(to, "type", queue_type_name(queue->type));
    put_text_field(to, "durability", queue->durability == DURABLE_INTERVAL ? "interval" : "sync");
    put_field(to, "partition_count", queue->partition_count);
    put_field(to, "retention_ms", (int64_t)queue->retention_ms);
    put_field(to, "retention_bytes", (int64_t)queue->retention_bytes);
    put_text_field(to, "overflow", queue->overflow == OVERFLOW_REFUSE ? "refuse" : "drop_oldest");
    put_field(to, "max_records", (int64_t)queue->max_records);
    put_field(to, "protect_bytes", (int64_t)queue->protect_bytes);
    put_field(to, "dedup_ms", (int64_t)(queue->dedup_ms == 0 ? DEDUP_WINDOW_MS : queue->dedup_ms));
    put_field(to, "lease_ms", queue_lease_ms(queue, 0));
    put_field(to, "delayed", (int64_t)atomic_load(&queue->stat->delayed));
    put_field(to, "records", (int64_t)totals->records);
    put_field(to, "bytes", (int64_t)totals->bytes);
    json_put(to, ",\"built_in\":");
    json_put_bool(to, queue->built_in);
    write_partitions(queue, to);
}

static void write_queue(struct call *call, const struct queue *queue, bool shown_alone)
{
    struct buf *to = call_out(call);
    struct totals totals = totals_of(queue);
    bool ours = call_is_ours(call);
    json_put(to, "{\"id\":\"");
    json_put(to, queue->uuid);
    json_put(to, "\"");
    put_text_field(to, "name", queue->name);
    put_text_field(to, "description", queue->description);
    put_text_field(to, "queue_mode", mode_of(queue));
    put_field(to, "reservation", (int64_t)(queue->retention_ms / 60000));
    put_field(to, "created", queue->created_ms);
    put_field(to, "eff_date", queue->created_ms);
    put_field(to, "max_msg_size_byte", MESSAGE_BYTES_MAX);
    put_field(to, "produced_messages", (int64_t)totals.records);
    put_field(to, "group_count", (int64_t)catalog_group_count(call_catalog(call), queue->id));
    if (ours || call_query_is_true(call, "include_deadletter")) {
        put_text_field(to, "redrive_policy", queue->redrive ? "enable" : "disable");
        put_field(to, "max_consume_count", queue->max_consume_count);
    }
    if (shown_alone && queue->type == QUEUE_STREAM)
        put_text_field(to, "kafka_topic", queue->name);
    if (ours)
        write_own_fields(queue, &totals, to);
    json_put(to, "}");
}

static void run_list(struct call *call)
{
    if (!call_check_project(call))
        return;
    const struct catalog *catalog = call_catalog(call);
    struct buf *to = call_out(call);
    int64_t total = 0;
    json_put(to, "{\"queues\":[");
    for (size_t i = 0; i < catalog_queue_count(catalog); i++) {
        const struct queue *queue = catalog_queue_at(catalog, i);
        if (!broker_may_see(call->client, queue))
            continue;
        if (total++ > 0)
            json_put(to, ",");
        write_queue(call, queue, false);
    }
    json_put(to, "]");
    put_field(to, "total", total);
    json_put(to, "}");
    call_answer(call, 200);
}

static void run_show(struct call *call)
{
    if (!call_check_project(call))
        return;
    const struct queue *queue = call_queue(call, 1);
    if (queue == NULL)
        return;
    if (!broker_may_see(call->client, queue)) {
        call_refuse_status(call, STATUS_DENIED, NULL);
        return;
    }
    write_queue(call, queue, true);
    call_answer(call, 200);
}

static void run_quota(struct call *call)
{
    if (!call_check_project(call))
        return;
    const struct catalog *catalog = call_catalog(call);
    int64_t used = 0;
    for (size_t i = 0; i < catalog_queue_count(catalog); i++)
        used += !catalog_queue_at(catalog, i)->built_in &&
                !queue_name_is_temporary(span_from_text(catalog_queue_at(catalog, i)->name));
    struct buf *to = call_out(call);
    json_put(to, "{\"quotas\":{\"resources\":[{\"type\":\"queue\"");
    put_field(to, "quota", broker_queue_limit(call->rest->broker));
    put_field(to, "used", used);
    put_field(to, "min", 0);
    put_field(to, "max", LIMIT_QUEUES);
    json_put(to, "}]}}");
    call_answer(call, 200);
}

/* ---------------------------------------------------------------- create */

static bool read_name(struct change *change)
{
    const json_t *name = json_object_get(change->call.body, "name");
    struct span text = json_is_string(name) ? json_span(name) : (struct span){0};
    if (text.size == 0 || text.size > LIMIT_QUEUE_NAME) {
        call_refuse(&change->call, 400, 10240011, "The name of a queue must be 1 to %u characters.",
                    LIMIT_QUEUE_NAME);
        return false;
    }
    /* Dots are ours: DMS has none. */
    if (!queue_name_is_valid(text, LIMIT_QUEUE_NAME) ||
        (!call_is_ours(&change->call) && memchr(text.data, '.', text.size) != NULL)) {
        call_refuse(&change->call, 400, 10240007,
                    "The name of a queue may have letters, digits, - and _.");
        return false;
    }
    change->admin.name = text;
    return true;
}

static bool read_description(struct change *change)
{
    const json_t *description = json_object_get(change->call.body, "description");
    if (description == NULL || json_is_null(description))
        return true;
    struct span text = json_is_string(description) ? json_span(description) : (struct span){0};
    if (text.data == NULL || memchr(text.data, '<', text.size) != NULL ||
        memchr(text.data, '>', text.size) != NULL || memchr(text.data, 0, text.size) != NULL) {
        call_refuse(&change->call, 400, 10240010, "The description must be text without < and >.");
        return false;
    }
    size_t characters = 0;
    for (size_t i = 0; i < text.size; i++)
        characters += (text.data[i] & 0xc0) != 0x80;
    if (characters > DESCRIPTION_MAX) {
        call_refuse(&change->call, 400, 10240013, "The description must be at most %d characters.",
                    DESCRIPTION_MAX);
        return false;
    }
    change->admin.description = text.size > 0 ? (const char *)text.data : NULL;
    return true;
}

static bool set_mode(struct broker_admin *admin, struct span mode)
{
    static const struct {
        const char *name;
        enum queue_type type;
        enum durability durability;
    } modes[] = {
        {"NORMAL", QUEUE_STANDARD, DURABLE_SYNC},     {"FIFO", QUEUE_FIFO, DURABLE_SYNC},
        {"AMQP", QUEUE_STANDARD, DURABLE_SYNC},       {"KAFKA_HA", QUEUE_STREAM, DURABLE_SYNC},
        {"KAFKA_HT", QUEUE_STREAM, DURABLE_INTERVAL}, {"standard", QUEUE_STANDARD, DURABLE_SYNC},
        {"fifo", QUEUE_FIFO, DURABLE_SYNC},           {"stream", QUEUE_STREAM, DURABLE_SYNC},
    };
    for (size_t i = 0; i < sizeof modes / sizeof *modes; i++) {
        if (span_is(mode, modes[i].name)) {
            admin->type = modes[i].type;
            admin->durability = modes[i].durability;
            return true;
        }
    }
    return false;
}

/* queue_mode of DMS; type and durability of ours win over it. */
static bool read_mode(struct change *change)
{
    static const char *const names[] = {"queue_mode", "type"};
    for (size_t i = 0; i < 2; i++) {
        const json_t *mode = json_object_get(change->call.body, names[i]);
        if (mode == NULL || json_is_null(mode))
            continue;
        if (!json_is_string(mode) || !set_mode(&change->admin, json_span(mode))) {
            call_refuse(
                &change->call, 400, 10240009,
                "%s must be NORMAL, FIFO, KAFKA_HA or KAFKA_HT (or standard, fifo or stream).",
                names[i]);
            return false;
        }
    }
    const json_t *durability = json_object_get(change->call.body, "durability");
    if (durability == NULL || json_is_null(durability))
        return true;
    if (json_is_string(durability) && span_is(json_span(durability), "interval")) {
        change->admin.durability = DURABLE_INTERVAL;
    } else if (json_is_string(durability) && span_is(json_span(durability), "sync")) {
        change->admin.durability = DURABLE_SYNC;
    } else {
        call_refuse(&change->call, 400, 10240009, "durability must be sync or interval.");
        return false;
    }
    return true;
}

static bool read_redrive(struct change *change)
{
    const json_t *policy = json_object_get(change->call.body, "redrive_policy");
    const json_t *count = json_object_get(change->call.body, "max_consume_count");
    bool enable = json_is_string(policy) && span_is(json_span(policy), "enable");
    bool disable = policy == NULL || json_is_null(policy) ||
                   (json_is_string(policy) &&
                    (span_is(json_span(policy), "disable") || json_span(policy).size == 0));
    if (!enable && !disable) {
        call_refuse(&change->call, 400, 10240009, "redrive_policy must be enable or disable.");
        return false;
    }
    if (!enable)
        return true;
    if (change->admin.type == QUEUE_STREAM) {
        call_refuse(&change->call, 400, 10240009, "redrive_policy is for NORMAL and FIFO queues.");
        return false;
    }
    json_int_t number = json_is_integer(count) ? json_integer_value(count) : 0;
    if (number < 1 || number > 100) {
        call_refuse(&change->call, 400, 10240022,
                    "max_consume_count must be a number from 1 to 100.");
        return false;
    }
    change->admin.redrive = true;
    change->admin.max_consume_count = (uint32_t)number;
    return true;
}

/* A whole number of ours; absent: 0. */
static bool read_number(struct change *change, const char *name, json_int_t high, unsigned code,
                        uint64_t *number)
{
    const json_t *value = json_object_get(change->call.body, name);
    *number = 0;
    if (value == NULL || json_is_null(value))
        return true;
    if (json_is_integer(value) && json_integer_value(value) >= 1 &&
        json_integer_value(value) <= high) {
        *number = (uint64_t)json_integer_value(value);
        return true;
    }
    call_refuse(&change->call, 400, code, "%s must be a number from 1 to %lld.", name,
                (long long)high);
    return false;
}

static bool read_retention(struct change *change)
{
    uint64_t hours, partitions, ms, bytes;
    if (!read_number(change, "retention_hours", 72, 10240027, &hours) ||
        !read_number(change, "partitions", LIMIT_PARTITIONS, 10240009, &partitions) ||
        !read_number(change, "retention_ms", INT64_MAX / 2, 10240027, &ms) ||
        !read_number(change, "retention_bytes", INT64_MAX / 2, 10240027, &bytes))
        return false;
    if (hours > 0 && change->admin.type != QUEUE_STREAM && !call_is_ours(&change->call)) {
        call_refuse(&change->call, 400, 10240028,
                    "retention_hours is for KAFKA_HA and KAFKA_HT queues.");
        return false;
    }
    if (partitions > 1 && change->admin.type == QUEUE_FIFO) {
        call_refuse(&change->call, 400, 10240009, "A fifo queue has one partition.");
        return false;
    }
    change->admin.partitions = (uint32_t)partitions;
    change->admin.retention_ms = ms > 0 ? ms : hours * HOUR_MS;
    change->admin.retention_bytes = bytes;
    return true;
}

/* Fields that DMS does not have. */

static bool read_overflow(struct change *change)
{
    const json_t *overflow = json_object_get(change->call.body, "overflow");
    if (overflow == NULL || json_is_null(overflow))
        return true;
    bool refuse = json_is_string(overflow) && span_is(json_span(overflow), "refuse");
    change->admin.overflow = refuse ? OVERFLOW_REFUSE : OVERFLOW_DROP_OLDEST;
    if (refuse || (json_is_string(overflow) && span_is(json_span(overflow), "drop_oldest")))
        return true;
    call_refuse(&change->call, 400, 10240009, "overflow must be drop_oldest or refuse.");
    return false;
}

static bool read_own_limits(struct change *change)
{
    struct broker_admin *admin = &change->admin;
    return !call_is_ours(&change->call) ||
           (read_overflow(change) &&
            read_number(change, "max_records", INT64_MAX / 2, 10240009, &admin->max_records) &&
            read_number(change, "protect_bytes", INT64_MAX / 2, 10240009, &admin->protect_bytes) &&
            read_number(change, "dedup_ms", LIMIT_DEDUP_MS, 10240009, &admin->dedup_ms) &&
            read_number(change, "lease_ms", LIMIT_LEASE_MS, 10240009, &admin->lease_ms));
}

static void created(struct change *change)
{
    struct call *call = &change->call;
    const struct queue *queue = change->admin.queue;
    if (call->exchange == NULL)
        return;
    if (call_is_ours(call)) {
        write_queue(call, queue, true);
    } else {
        json_put(call_out(call), "{\"id\":\"");
        json_put(call_out(call), queue->uuid);
        json_put(call_out(call), "\"");
        put_text_field(call_out(call), "name", queue->name);
        if (queue->type == QUEUE_STREAM)
            put_text_field(call_out(call), "kafka_topic", queue->name);
        json_put(call_out(call), "}");
    }
    call_answer(call, 201);
}

static void run_create(struct call *call)
{
    struct change *change = change_of(call);
    change->codes = &queue_codes;
    change->applied = created;
    if (!call_check_project(call) || !call_read_object(call, 10240009) || !read_name(change) ||
        !read_description(change) || !read_mode(change) || !read_redrive(change) ||
        !read_retention(change) || !read_own_limits(change))
        return;
    change_start(change, ADMIN_QUEUE_CREATE);
}

/* ---------------------------------------------------------------- change */

static const struct {
    const char *name;
    enum queue_field field;
} changeable[] = {
    {"description", QUEUE_FIELD_DESCRIPTION},     {"retention_hours", QUEUE_FIELD_RETENTION_MS},
    {"retention_ms", QUEUE_FIELD_RETENTION_MS},   {"retention_bytes", QUEUE_FIELD_RETENTION_BYTES},
    {"redrive_policy", QUEUE_FIELD_REDRIVE},      {"max_consume_count", QUEUE_FIELD_REDRIVE},
    {"overflow", QUEUE_FIELD_OVERFLOW},           {"max_records", QUEUE_FIELD_MAX_RECORDS},
    {"protect_bytes", QUEUE_FIELD_PROTECT_BYTES}, {"dedup_ms", QUEUE_FIELD_DEDUP_MS},
    {"lease_ms", QUEUE_FIELD_LEASE_MS},
};

/* Which fields the body names; refuses what is none or cannot change. */
static bool read_fields(struct change *change)
{
    const char *name;
    json_t *value;
    json_object_foreach(change->call.body, name, value)
    {
        size_t i = 0;
        while (i < sizeof changeable / sizeof *changeable && strcmp(changeable[i].name, name) != 0)
            i++;
        if (i == sizeof changeable / sizeof *changeable) {
            call_refuse(&change->call, 400, 10240009, "%.64s is nothing that can be changed.",
                        name);
            return false;
        }
        change->admin.fields |= changeable[i].field;
    }
    if (change->admin.fields != 0)
        return true;
    call_refuse(&change->call, 400, 10240009, "Nothing is to be changed.");
    return false;
}

/* In a change, 0 stands for no limit, as null does. */
static void drop_zeros(json_t *body)
{
    const char *name;
    json_t *value;
    void *next;
    json_object_foreach_safe(body, next, name, value)
    {
        if (json_is_integer(value) && json_integer_value(value) == 0 &&
            strcmp(name, "max_consume_count") != 0)
            json_object_set_new(body, name, json_null());
    }
}

/* One of the two may stand alone: the other stays. */
static void complete_redrive(json_t *body, const struct queue *queue)
{
    if (json_object_get(body, "redrive_policy") == NULL)
        json_object_set_new(body, "redrive_policy",
                            json_string(queue->redrive ? "enable" : "disable"));
    if (json_object_get(body, "max_consume_count") == NULL)
        json_object_set_new(body, "max_consume_count", json_integer(queue->max_consume_count));
}

static void changed(struct change *change)
{
    if (change->call.exchange == NULL)
        return;
    write_queue(&change->call, change->admin.queue, true);
    call_answer(&change->call, 200);
}

static void run_change(struct call *call)
{
    struct change *change = change_of(call);
    change->codes = &queue_codes;
    change->applied = changed;
    if (!call_check_project(call))
        return;
    const struct queue *queue = call_queue(call, 1);
    if (queue == NULL || !call_read_object(call, 10240009) || !read_fields(change))
        return;
    change->admin.id = queue->id;
    change->admin.type = queue->type;
    drop_zeros(call->body);
    if ((change->admin.fields & QUEUE_FIELD_REDRIVE) != 0)
        complete_redrive(call->body, queue);
    if (read_description(change) && read_redrive(change) && read_retention(change) &&
        read_own_limits(change))
        change_start(change, ADMIN_QUEUE_CHANGE);
}

/* ---------------------------------------------------------------- delete */

static void deleted(struct change *change)
{
    call_answer(&change->call, 204);
}

static void run_delete(struct call *call)
{
    struct change *change = change_of(call);
    if (!call_check_project(call))
        return;
    const struct queue *queue = call_queue(call, 1);
    if (queue == NULL)
        return;
    /* Something that still needs it: DMS has no code of its own for that. */
    static const struct change_codes codes = {.exists = 10540010, .not_found = 10240401};
    change->codes = &codes;
    change->applied = deleted;
    change->admin.id = queue->id;
    change_start(change, ADMIN_QUEUE_DELETE);
}

/* ---------------------------------------------------------------- routes */

void queues_create(struct http_exchange *exchange)
{
    static const struct call_kind kind = {.size = sizeof(struct change), .run = run_create};
    call_start(exchange, &kind);
}

void queues_list(struct http_exchange *exchange)
{
    static const struct call_kind kind = {.size = sizeof(struct call), .run = run_list};
    call_start(exchange, &kind);
}

void queues_show(struct http_exchange *exchange)
{
    static const struct call_kind kind = {.size = sizeof(struct call), .run = run_show};
    call_start(exchange, &kind);
}

void queues_change(struct http_exchange *exchange)
{
    static const struct call_kind kind = {.size = sizeof(struct change), .run = run_change};
    call_start(exchange, &kind);
}

void queues_delete(struct http_exchange *exchange)
{
    static const struct call_kind kind = {.size = sizeof(struct change), .run = run_delete};
    call_start(exchange, &kind);
}

void queues_quota(struct http_exchange *exchange)
{
    static const struct call_kind kind = {.size = sizeof(struct call), .run = run_quota};
    call_start(exchange, &kind);
}
