/* SPDX-License-Identifier: Apache-2.0 */
/* Groups of a queue: create, list, change, delete. */
#include "adapters/http/codec.h"
#include "adapters/rest/change.h"
#include "adapters/rest/queues.h"
#include "core/base/check.h"

enum { GROUPS_PER_CALL = 3, DMS_NAME_MAX = 32, CODE_FIELD = 10240009 };

static const struct change_codes group_codes = {
    .exists = 10240018, .over_quota = 10240019, .not_found = 10240405, .invalid = 10240012};

/* ---------------------------------------------------------------- create */

static const json_t *group_at(const struct change *change, size_t index)
{
    return json_array_get(json_object_get(change->call.body, "groups"), index);
}

static bool check_name(struct change *change, const struct queue *queue, const json_t *entry)
{
    struct call *call = &change->call;
    const json_t *name = json_object_get(entry, "name");
    struct span text = json_is_string(name) ? json_span(name) : (struct span){0};
    size_t limit = call_is_ours(call) ? LIMIT_GROUP_NAME : DMS_NAME_MAX;
    if (text.size == 0 || text.size > limit) {
        call_refuse(call, 400, 10240012, "The name of a group must be 1 to %zu characters.", limit);
        return false;
    }
    if (!queue_name_is_valid(text, limit) ||
        (!call_is_ours(call) && memchr(text.data, '.', text.size) != NULL)) {
        call_refuse(call, 400, 10240007, "The name of a group may have letters, digits, - and _.");
        return false;
    }
    if (catalog_group_by_text(call_catalog(call), queue->id, text) != NULL) {
        call_refuse(call, 400, 10240018, "The group %.*s exists already.", (int)text.size,
                    (const char *)text.data);
        return false;
    }
    return true;
}

/* Fields of ours: which of two words stands there; first when there is none. */
static bool read_choice(struct change *change, const json_t *entry, const char *name,
                        const char *first_word, const char *second_word, bool *second)
{
    const json_t *value = json_object_get(entry, name);
    *second = false;
    if (value == NULL || json_is_null(value) || !call_is_ours(&change->call))
        return true;
    *second = json_is_string(value) && span_is(json_span(value), second_word);
    if (*second || (json_is_string(value) && span_is(json_span(value), first_word)))
        return true;
    call_refuse(&change->call, 400, 10240009, "%s must be %s or %s.", name, first_word,
                second_word);
    return false;
}

/* A field of ours. Missing, null and empty: every record. */
static bool read_selector(struct change *change, const json_t *entry)
{
    const json_t *value = json_object_get(entry, "selector");
    change->admin.selector = (struct span){0};
    if (value == NULL || json_is_null(value) || !call_is_ours(&change->call))
        return true;
    struct selector *selector;
    struct err err = {.text = "it is no text"};
    struct span text = json_is_string(value) ? json_span(value) : (struct span){0};
    if (json_is_string(value) &&
        (text.size == 0 || selector_compile(text, &selector, &err) == STATUS_OK)) {
        if (text.size > 0)
            selector_unref(selector);
        change->admin.selector = text;
        return true;
    }
    call_refuse(&change->call, 400, CODE_FIELD, "That is no selector: %s", err.text);
    return false;
}

/* Likewise. Missing, null and 0: the default. */
static bool read_idle(struct change *change, const json_t *entry)
{
    const json_t *value = json_object_get(entry, "consumer_idle_ms");
    change->admin.consumer_idle_ms = 0;
    if (value == NULL || json_is_null(value) || !call_is_ours(&change->call))
        return true;
    if (json_is_integer(value) && json_integer_value(value) >= 0 &&
        json_integer_value(value) <= LIMIT_CONSUMER_IDLE_MS) {
        change->admin.consumer_idle_ms = (uint64_t)json_integer_value(value);
        return true;
    }
    call_refuse(&change->call, 400, CODE_FIELD, "consumer_idle_ms must be a number from 0 to %lld.",
                (long long)LIMIT_CONSUMER_IDLE_MS);
    return false;
}

static bool check_fields(struct change *change, const json_t *entry)
{
    bool second;
    return read_choice(change, entry, "start", "earliest", "latest", &second) &&
           read_choice(change, entry, "mode", "shared", "broadcast", &second) &&
           read_selector(change, entry) && read_idle(change, entry);
}

static bool check_names(struct change *change, const struct queue *queue)
{
    struct call *call = &change->call;
    const json_t *groups = json_object_get(call->body, "groups");
    size_t count = json_array_size(groups);
    if (!json_is_array(groups) || count == 0) {
        call_refuse(call, 400, 10240009, "groups must be an array of groups.");
        return false;
    }
    if (count > GROUPS_PER_CALL) {
        call_refuse(call, 400, 10240019, "There are too many groups: at most %d.", GROUPS_PER_CALL);
        return false;
    }
    for (size_t i = 0; i < count; i++) {
        if (!check_name(change, queue, group_at(change, i)) ||
            !check_fields(change, group_at(change, i)))
            return false;
        for (size_t k = 0; k < i; k++) {
            if (json_equal(json_object_get(group_at(change, i), "name"),
                           json_object_get(group_at(change, k), "name"))) {
                call_refuse(call, 400, 10240018, "A name is given twice.");
                return false;
            }
        }
    }
    return true;
}

static void create_next(struct change *change)
{
    const json_t *entry = group_at(change, change->next);
    bool latest, broadcast;
    read_choice(change, entry, "start", "earliest", "latest", &latest);
    read_choice(change, entry, "mode", "shared", "broadcast", &broadcast);
    read_selector(change, entry);
    read_idle(change, entry);
    change->admin.name = json_span(json_object_get(entry, "name"));
    change->admin.start = latest ? GROUP_LATEST : GROUP_EARLIEST;
    change->admin.mode = broadcast ? GROUP_BROADCAST : GROUP_SHARED;
    change_start(change, ADMIN_GROUP_CREATE);
}

static void created(struct change *change)
{
    struct call *call = &change->call;
    if (call->exchange == NULL)
        return;
    struct buf *to = call_out(call);
    json_put(to, change->next == 0 ? "{\"groups\":[{\"id\":\"" : ",{\"id\":\"");
    json_put(to, change->admin.group->uuid);
    json_put(to, "\",\"name\":");
    json_put_text(to, span_from_text(change->admin.group->name));
    json_put(to, "}");
    if (++change->next < json_array_size(json_object_get(call->body, "groups"))) {
        create_next(change);
        return;
    }
    json_put(to, "]}");
    call_answer(call, 201);
}

static void run_create(struct call *call)
{
    struct change *change = change_of(call);
    if (!call_check_project(call))
        return;
    const struct queue *queue = call_queue(call, 1);
    if (queue == NULL || !call_read_object(call, 10240009) || !check_names(change, queue))
        return;
    change->codes = &group_codes;
    change->applied = created;
    change->admin.id = queue->id;
    change->admin.dms = !call_is_ours(call);
    create_next(change);
}

/* ---------------------------------------------------------------- list */

static uint64_t kept_records(const struct queue *queue)
{
    uint64_t records = 0;
    for (uint32_t i = 0; i < queue->partition_count; i++) {
        const struct partition_stat *stat = &queue->stat->partitions[i];
        uint64_t start = atomic_load(&stat->start), end = atomic_load(&stat->end);
        records += end > start ? end - start : 0;
    }
    return records;
}

static void put_field(struct buf *to, const char *name, uint64_t number)
{
    json_put(to, ",\"");
    json_put(to, name);
    json_put(to, "\":");
    json_put_number(to, (int64_t)number);
}

struct list_options {
    bool numbers, deadletters, ours;
    uint64_t produced;
};

static void write_own_fields(struct call *call, const struct group_spec *group)
{
    struct buf *to = call_out(call);
    const struct group_stat *stat = group->stat;
    const struct selector *selector = catalog_group_selector(call_catalog(call), group);
    put_field(to, "in_flight", atomic_load(&stat->in_flight));
    put_field(to, "oldest_ms", (uint64_t)atomic_load(&stat->oldest_ms));
    put_field(to, "created", (uint64_t)group->created_ms);
    put_field(to, "expired", atomic_load(&stat->expired));
    put_field(to, "lost", atomic_load(&stat->lost));
    put_field(to, "held_bytes", atomic_load(&stat->held_bytes));
    json_put(to,
             group->start == GROUP_LATEST ? ",\"start\":\"latest\"" : ",\"start\":\"earliest\"");
    json_put(to, group->mode == GROUP_BROADCAST ? ",\"mode\":\"broadcast\""
                 : group->parent != 0           ? ",\"mode\":\"consumer\""
                                                : ",\"mode\":\"shared\"");
    json_put(to, ",\"selector\":");
    if (selector == NULL)
        json_put(to, "null");
    else
        json_put_text(to, selector_text(selector));
    if (group->mode == GROUP_BROADCAST)
        put_field(to, "consumer_idle_ms",
                  group->consumer_idle_ms == 0 ? CONSUMER_IDLE_MS : group->consumer_idle_ms);
    if (group->parent != 0) {
        put_field(to, "taken", (uint64_t)atomic_load(&stat->taken_ms));
        json_put(to, ",\"overtaken\":");
        json_put_bool(to, atomic_load(&stat->overtaken));
    }
}

static void write_group(struct call *call, const struct group_spec *group,
                        const struct list_options *options)
{
    struct buf *to = call_out(call);
    const struct group_stat *stat = group->stat;
    json_put(to, "{\"id\":\"");
    json_put(to, group->uuid);
    json_put(to, "\",\"name\":");
    json_put_text(to, span_from_text(group->name));
    put_field(to, "produced_messages", options->produced);
    put_field(to, "consumed_messages", options->numbers ? atomic_load(&stat->acknowledged) : 0);
    put_field(to, "available_messages", options->numbers ? atomic_load(&stat->backlog) : 0);
    if (options->deadletters) {
        put_field(to, "produced_deadletters", atomic_load(&stat->dead_produced));
        put_field(to, "available_deadletters", atomic_load(&stat->dead));
    }
    if (options->ours)
        write_own_fields(call, group);
    json_put(to, "}");
}

static uint64_t page_number(const struct call *call, const char *name)
{
    struct span text;
    uint64_t number;
    return http_query(call->exchange, name, &text) && http_number(text, &number) && number <= 10000
               ? number
               : 0;
}

static void run_list(struct call *call)
{
    if (!call_check_project(call))
        return;
    const struct queue *queue = call_queue(call, 1);
    struct span text;
    if (queue == NULL)
        return;
    if (!broker_may_see_groups(call->client, queue)) {
        call_refuse_status(call, STATUS_DENIED, NULL);
        return;
    }
    struct list_options options = {
        .numbers = !http_query(call->exchange, "include_messages_num", &text) ||
                   call_query_is_true(call, "include_messages_num"),
        .deadletters = call_query_is_true(call, "include_deadletter"),
        .ours = call_is_ours(call),
    };
    options.produced = options.numbers ? kept_records(queue) : 0;
    size_t first = 0, end = catalog_group_count(call_catalog(call), queue->id);
    uint64_t size = page_number(call, "page_size"), page = page_number(call, "current_page");
    if (size > 0 && page > 0) {
        first = (size_t)((page - 1) * size) < end ? (size_t)((page - 1) * size) : end;
        end = end - first > size ? first + (size_t)size : end;
    }
    struct buf *to = call_out(call);
    json_put(to, "{\"queue_id\":\"");
    json_put(to, queue->uuid);
    json_put(to, "\",\"queue_name\":");
    json_put_text(to, span_from_text(queue->name));
    if (options.deadletters)
        json_put(to, queue->redrive ? ",\"redrive_policy\":\"enable\""
                                    : ",\"redrive_policy\":\"disable\"");
    json_put(to, ",\"groups\":[");
    bool begun = false;
    for (size_t i = first; i < end; i++) {
        const struct group_spec *group = catalog_group_at(call_catalog(call), queue->id, i);
        if (group->parent != 0 && !options.ours)
            continue; /* DMS knows no consumers of broadcast groups */
        if (begun)
            json_put(to, ",");
        begun = true;
        write_group(call, group, &options);
    }
    json_put(to, "]}");
    call_answer(call, 200);
}

/* ---------------------------------------------------------------- change */

static void changed(struct change *change)
{
    struct call *call = &change->call;
    const struct group_spec *group = change->admin.group;
    const struct queue *queue = catalog_queue(call_catalog(call), group->queue);
    struct list_options options = {
        .numbers = true,
        .deadletters = true,
        .ours = true,
        .produced = queue == NULL ? 0 : kept_records(queue),
    };
    if (call->exchange == NULL)
        return;
    write_group(call, group, &options);
    call_answer(call, 200);
}

static bool read_change(struct change *change)
{
    struct call *call = &change->call;
    const char *name;
    json_t *value;
    json_object_foreach(call->body, name, value)
    {
        bool selects = strcmp(name, "selector") == 0;
        if (!selects && strcmp(name, "consumer_idle_ms") != 0) {
            call_refuse(call, 400, CODE_FIELD, "%.64s is nothing that can be changed.", name);
            return false;
        }
        change->admin.fields |= selects ? GROUP_FIELD_SELECTOR : GROUP_FIELD_CONSUMER_IDLE;
    }
    if (change->admin.fields != 0)
        return read_selector(change, call->body) && read_idle(change, call->body);
    call_refuse(call, 400, CODE_FIELD, "Nothing is to be changed.");
    return false;
}

static void run_change(struct call *call)
{
    static const struct change_codes codes = {.not_found = 10240405, .invalid = CODE_FIELD};
    struct change *change = change_of(call);
    if (!call_check_project(call))
        return;
    const struct group_spec *group = call_queue_group(call);
    if (group == NULL || !call_read_object(call, CODE_FIELD) || !read_change(change))
        return;
    change->codes = &codes;
    change->applied = changed;
    change->admin.id = group->id;
    change_start(change, ADMIN_GROUP_CHANGE);
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
    const struct group_spec *group = call_queue_group(call);
    if (group == NULL)
        return;
    change->codes = &group_codes;
    change->applied = deleted;
    change->admin.id = group->id;
    change_start(change, ADMIN_GROUP_DELETE);
}

void groups_create(struct http_exchange *exchange)
{
    static const struct call_kind kind = {.size = sizeof(struct change), .run = run_create};
    call_start(exchange, &kind);
}

void groups_list(struct http_exchange *exchange)
{
    static const struct call_kind kind = {.size = sizeof(struct call), .run = run_list};
    call_start(exchange, &kind);
}

void groups_set(struct http_exchange *exchange)
{
    static const struct call_kind kind = {.size = sizeof(struct change), .run = run_change};
    call_start(exchange, &kind);
}

void groups_delete(struct http_exchange *exchange)
{
    static const struct call_kind kind = {.size = sizeof(struct change), .run = run_delete};
    call_start(exchange, &kind);
}
