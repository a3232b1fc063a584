/* SPDX-License-Identifier: Apache-2.0 */
/* Seek, redrive and explain: each a request that the broker carries to the group. */
#include "adapters/rest/position.h"

#include "adapters/rest/call.h"
#include "core/base/check.h"
#include "core/base/utf8.h"

enum { IDS_MAX = 1000, CODE_BODY = 10540010, CODE_QUERY = 10540014 };

static const char *const fates[] = {
#define X(name, text) [RECORD_##name] = text,
    FATE_MAP(X)
#undef X
};

const char *fate_text(enum record_fate fate)
{
    return fates[fate];
}

struct position {
    struct call call;
    struct group_spec *group; /* a reference */
    struct group_seek seek;
    struct group_redrive redrive;
    struct group_explain explain;
    uint64_t index; /* of the partition that is explained */
};

static struct position *position_of(struct call *call)
{
    return container_of(call, struct position, call);
}

/* NULL: refused. */
static const struct queue *find_group(struct position *position)
{
    struct call *call = &position->call;
    if (!call_check_project(call))
        return NULL;
    const struct queue *queue = call_queue(call, 1);
    const struct group_spec *group = queue == NULL ? NULL : call_group(call, queue, 2);
    if (group != NULL)
        position->group = group_spec_ref(group);
    return group == NULL ? NULL : queue;
}

static void deinit_position(struct call *call)
{
    if (position_of(call)->group != NULL)
        group_spec_unref(position_of(call)->group);
}

/* A whole number of the body, at least 0. */
static bool read_number(struct call *call, const char *name, const json_t *value, uint64_t *number)
{
    if (!json_is_integer(value) || json_integer_value(value) < 0) {
        call_refuse(call, 400, CODE_BODY, "%s must be a number, not negative.", name);
        return false;
    }
    *number = (uint64_t)json_integer_value(value);
    return true;
}

/* ---------------------------------------------------------------- seek */

static void seek_done(struct request *request, enum status status)
{
    struct group_seek *seek = container_of(request, struct group_seek, request);
    struct position *position = container_of(seek, struct position, seek);
    if (status == STATUS_OK)
        call_answer(&position->call, 204);
    else if (status == STATUS_UNSUPPORTED)
        call_refuse(&position->call, 400, CODE_BODY,
                    "A broadcast group has none of that; its consumers have: GROUP/CONSUMER.");
    else if (status == STATUS_OUT_OF_RANGE)
        call_refuse(&position->call, 400, CODE_QUERY, "The partition does not reach that offset.");
    else
        call_refuse_status(&position->call, status, NULL);
    call_release(&position->call);
}

static bool read_offset(struct position *position, const struct queue *queue, const json_t *offset)
{
    struct call *call = &position->call;
    struct group_seek *seek = &position->seek;
    const json_t *partition = json_object_get(call->body, "partition");
    uint64_t index = 0;
    if (!read_number(call, "offset", offset, &seek->offset) ||
        (partition != NULL && !read_number(call, "partition", partition, &index)))
        return false;
    if (index >= queue->partition_count || (partition == NULL && queue->partition_count > 1)) {
        call_refuse(call, 400, CODE_BODY, "partition must be a number from 0 to %u.",
                    queue->partition_count - 1);
        return false;
    }
    seek->to = SEEK_OFFSET;
    seek->partition = queue->first_partition + index;
    return true;
}

/* One of {"offset", "partition"}, {"time"}, {"to": "earliest" or "latest"}. */
static bool read_seek(struct position *position, const struct queue *queue)
{
    struct call *call = &position->call;
    struct group_seek *seek = &position->seek;
    const json_t *offset = json_object_get(call->body, "offset"),
                 *time = json_object_get(call->body, "time"),
                 *to = json_object_get(call->body, "to");
    uint64_t time_ms = 0;
    if ((offset != NULL) + (time != NULL) + (to != NULL) != 1) {
        call_refuse(call, 400, CODE_BODY, "One of offset, time and to is wanted.");
        return false;
    }
    if (offset != NULL)
        return read_offset(position, queue, offset);
    if (time != NULL) {
        seek->to = SEEK_TIME;
        bool good = read_number(call, "time", time, &time_ms);
        seek->time_ms = (int64_t)time_ms;
        return good;
    }
    bool latest = json_is_string(to) && span_is(json_span(to), "latest");
    seek->to = latest ? SEEK_LATEST : SEEK_EARLIEST;
    if (latest || (json_is_string(to) && span_is(json_span(to), "earliest")))
        return true;
    call_refuse(call, 400, CODE_BODY, "to must be earliest or latest.");
    return false;
}

static void run_seek(struct call *call)
{
    struct position *position = position_of(call);
    const struct queue *queue = find_group(position);
    if (queue == NULL || !call_read_object(call, 10540012) || !read_seek(position, queue))
        return;
    request_init(&position->seek.request, call_loop(call), seek_done);
    call_hold(call);
    broker_seek(call->client, position->group, &position->seek);
}

/* ---------------------------------------------------------------- redrive */

static void write_progress(const struct redrive_progress *progress, struct buf *to)
{
    json_put(to, "{\"running\":");
    json_put_bool(to, progress->running);
    json_put(to, ",\"total\":");
    json_put_number(to, (int64_t)progress->total);
    json_put(to, ",\"moved\":");
    json_put_number(to, (int64_t)progress->moved);
    json_put(to, ",\"failed\":");
    json_put_number(to, (int64_t)progress->failed);
    json_put(to, "}");
}

static void progress_done(struct request *request, enum status status)
{
    struct group_explain *explain = container_of(request, struct group_explain, request);
    struct position *position = container_of(explain, struct position, explain);
    struct call *call = &position->call;
    if (status != STATUS_OK) {
        call_refuse_status(call, status, NULL);
    } else if (call->exchange != NULL) {
        write_progress(&explain->redrive, call_out(call));
        call_answer(call, call->exchange->method == HTTP_POST ? 202 : 200);
    }
    call_release(call);
}

static void ask_progress(struct position *position)
{
    struct call *call = &position->call;
    position->explain.progress_only = true;
    request_init(&position->explain.request, call_loop(call), progress_done);
    call_hold(call);
    broker_explain(call->client, position->group, &position->explain);
}

static void redrive_begun(struct request *request, enum status status)
{
    struct group_redrive *redrive = container_of(request, struct group_redrive, request);
    struct position *position = container_of(redrive, struct position, redrive);
    if (status == STATUS_OK)
        ask_progress(position);
    else if (status == STATUS_BUSY)
        call_refuse(&position->call, 429, 10240407, "The group is being redriven already.");
    else if (status == STATUS_UNSUPPORTED)
        call_refuse(&position->call, 400, CODE_BODY, "The group keeps no dead letters.");
    else
        call_refuse_status(&position->call, status, NULL);
    call_release(&position->call);
}

/* Offsets of dead letters, as records and messages show them. */
static bool read_ids(struct position *position, const json_t *ids)
{
    struct call *call = &position->call;
    size_t count = json_array_size(ids);
    if (!json_is_array(ids) || count == 0 || count > IDS_MAX) {
        call_refuse(call, 400, CODE_BODY, "ids must be an array of 1 to %d offsets.", IDS_MAX);
        return false;
    }
    uint64_t *offsets = arena_alloc(&call->arena, count * sizeof *offsets);
    CHECK(offsets != NULL);
    for (size_t i = 0; i < count; i++)
        if (!read_number(call, "Each of ids", json_array_get(ids, i), &offsets[i]))
            return false;
    position->redrive.offsets = offsets;
    position->redrive.offset_count = (uint32_t)count;
    return true;
}

/* One of {"all": true}, {"ids": […]}, {"label"}. */
static bool read_redrive(struct position *position)
{
    struct call *call = &position->call;
    const json_t *all = json_object_get(call->body, "all"),
                 *ids = json_object_get(call->body, "ids"),
                 *label = json_object_get(call->body, "label");
    if (json_is_true(all) + (ids != NULL) + (label != NULL) != 1) {
        call_refuse(call, 400, CODE_BODY, "One of all (true), ids and label is wanted.");
        return false;
    }
    if (ids != NULL)
        return read_ids(position, ids);
    position->redrive.all = true;
    if (label == NULL)
        return true;
    position->redrive.label = json_is_string(label) ? json_span(label) : (struct span){0};
    if (label_is_valid(position->redrive.label))
        return true;
    call_refuse(call, 400, CODE_BODY, "label must be one.");
    return false;
}

static void run_redrive(struct call *call)
{
    struct position *position = position_of(call);
    if (find_group(position) == NULL || !call_read_object(call, 10540012) ||
        !read_redrive(position))
        return;
    request_init(&position->redrive.request, call_loop(call), redrive_begun);
    call_hold(call);
    broker_redrive(call->client, position->group, &position->redrive);
}

static void run_show_redrive(struct call *call)
{
    if (find_group(position_of(call)) != NULL)
        ask_progress(position_of(call));
}

/* ---------------------------------------------------------------- explain */

/* The beginning of a key may end within a character, and need not be text at all. */
static struct span key_text(const char *key)
{
    struct span text = span_from_text(key);
    while (text.size > 0 && !utf8_is_valid(text))
        text.size--;
    return text;
}

static void write_fate(const struct position *position, struct buf *to)
{
    const struct group_explain *explain = &position->explain;
    json_put(to, "{\"partition\":");
    json_put_number(to, (int64_t)position->index);
    json_put(to, ",\"offset\":");
    json_put_number(to, (int64_t)explain->offset);
    json_put(to, ",\"fate\":\"");
    json_put(to, fate_text(explain->fate));
    json_put(to, "\",\"failures\":");
    json_put_number(to, explain->failures);
    if (explain->until_ms > 0) {
        json_put(to, ",\"until\":");
        json_put_number(to, explain->until_ms);
    }
    if (explain->fate == RECORD_BLOCKED) {
        json_put(to, ",\"key\":");
        json_put_text(to, key_text(explain->key));
        if (explain->too_far)
            json_put(to, ",\"look_ahead\":true");
    }
    if (explain->fate == RECORD_DEAD_LETTERED) {
        json_put(to, ",\"dead_offset\":");
        json_put_number(to, (int64_t)explain->dead_offset);
    }
    json_put(to, "}");
}

static void explained(struct request *request, enum status status)
{
    struct group_explain *explain = container_of(request, struct group_explain, request);
    struct position *position = container_of(explain, struct position, explain);
    struct call *call = &position->call;
    if (status != STATUS_OK) {
        call_refuse_status(call, status, NULL);
    } else if (call->exchange != NULL) {
        write_fate(position, call_out(call));
        call_answer(call, 200);
    }
    call_release(call);
}

static void run_explain(struct call *call)
{
    struct position *position = position_of(call);
    const struct queue *queue = find_group(position);
    struct span given;
    if (queue == NULL ||
        !call_query_number(call, "partition", 0, queue->partition_count - 1, 0, CODE_QUERY,
                           &position->index) ||
        !call_query_number(call, "offset", 0, INT64_MAX, 0, CODE_QUERY, &position->explain.offset))
        return;
    if (!http_query(call->exchange, "offset", &given) || given.size == 0) {
        call_refuse(call, 400, CODE_QUERY, "Which record? offset is wanted.");
        return;
    }
    position->explain.partition = queue->first_partition + position->index;
    request_init(&position->explain.request, call_loop(call), explained);
    call_hold(call);
    broker_explain(call->client, position->group, &position->explain);
}

/* ---------------------------------------------------------------- routes */

#define POSITION_CALL(NAME, RUN)                                                                   \
    void NAME(struct http_exchange *exchange)                                                      \
    {                                                                                              \
        static const struct call_kind kind = {                                                     \
            .size = sizeof(struct position), .run = RUN, .deinit = deinit_position};               \
        call_start(exchange, &kind);                                                               \
    }
POSITION_CALL(position_seek, run_seek)
POSITION_CALL(position_redrive, run_redrive)
POSITION_CALL(position_show_redrive, run_show_redrive)
POSITION_CALL(position_explain, run_explain)
