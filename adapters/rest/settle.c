/* SPDX-License-Identifier: Apache-2.0 */
/* Settling: receipts come back, as the DMS acknowledgement or in our own verbs. */
#include "adapters/rest/call.h"
#include "adapters/rest/consume.h"
#include "core/base/check.h"
#include "core/base/limits.h"

enum { CODE_HANDLER = 10542209 };

struct settle {
    struct call call;
    struct group_spec *group; /* a reference */
    struct receipt *receipts;
    enum status *results;
    uint32_t count;
    uint32_t done; /* DMS: the first done are to be done, the others have failed */
    struct group_settle settle;
};

static void settle_start(struct settle *settle, uint32_t first, uint32_t count,
                         void (*ended)(struct request *request, enum status status))
{
    settle->settle.receipts = settle->receipts + first;
    settle->settle.results = settle->results + first;
    settle->settle.count = count;
    request_init(&settle->settle.request, call_loop(&settle->call), ended);
    call_hold(&settle->call);
    broker_settle(settle->call.client, settle->group, &settle->settle);
}

static void deinit_settle(struct call *call)
{
    struct settle *settle = container_of(call, struct settle, call);
    if (settle->group != NULL)
        group_spec_unref(settle->group);
}

/* ---------------------------------------------------------------- request */

static bool read_receipt(struct settle *settle, const json_t *handler, uint32_t index)
{
    struct receipt *receipt = &settle->receipts[index];
    if (json_is_string(handler) && receipt_parse(json_span(handler), receipt) &&
        broker_is_receipt(settle->call.client, settle->group, receipt))
        return true;
    call_refuse(&settle->call, 400, CODE_HANDLER,
                "The handler of entry %u does not exist: it cannot be read, or is another group's.",
                index);
    return false;
}

/* Makes room for the receipts of the array; refuses when it is none, or too long. */
static bool prepare(struct settle *settle, const json_t *array, const char *name)
{
    struct call *call = &settle->call;
    size_t count = json_array_size(array);
    if (!json_is_array(array) || count == 0 || count > LIMIT_CALL_RECEIPTS) {
        call_refuse(call, 400, 10540010, "%s must be an array of 1 to %u entries.", name,
                    LIMIT_CALL_RECEIPTS);
        return false;
    }
    settle->receipts = arena_alloc(&call->arena, count * sizeof *settle->receipts);
    settle->results = arena_alloc(&call->arena, count * sizeof *settle->results);
    CHECK(settle->receipts != NULL && settle->results != NULL);
    settle->count = (uint32_t)count;
    return true;
}

static bool find_group(struct settle *settle)
{
    struct call *call = &settle->call;
    if (!call_check_project(call))
        return false;
    const struct group_spec *group = call_queue_group(call);
    if (group != NULL)
        settle->group = group_spec_ref(group);
    return group != NULL;
}

static void refuse_stale(struct settle *settle)
{
    call_refuse(&settle->call, 400, CODE_HANDLER,
                "The handler does not exist: it has timed out or was acknowledged before.");
}

/* ---------------------------------------------------------------- DMS */

/* Entries count in their order up to the first that has failed, or that is stale; the rest fails
 * with it. */

static void answer_ack(struct settle *settle, uint32_t success)
{
    struct buf *to = call_out(&settle->call);
    json_put(to, "{\"success\":");
    json_put_number(to, success);
    json_put(to, ",\"fail\":");
    json_put_number(to, settle->count - success);
    json_put(to, "}");
    call_answer(&settle->call, 200);
}

static uint32_t settled(const struct settle *settle)
{
    uint32_t count = 0;
    while (count < settle->done && settle->results[count] == STATUS_OK)
        count++;
    return count;
}

static void rest_failed(struct request *request, enum status status)
{
    struct settle *settle = container_of(request, struct settle, settle.request);
    uint32_t success = settled(settle);
    if (status != STATUS_OK)
        call_refuse_status(&settle->call, status, NULL);
    else if (settle->done == 0 && settle->results[0] == STATUS_STALE)
        refuse_stale(settle);
    else if (settle->call.exchange != NULL)
        answer_ack(settle, success);
    call_release(&settle->call);
}

static void fail_rest(struct settle *settle, uint32_t first)
{
    settle->settle.outcome = SETTLE_FAILED;
    settle->settle.ordered = false;
    settle_start(settle, first, settle->count - first, rest_failed);
}

static void first_done(struct request *request, enum status status)
{
    struct settle *settle = container_of(request, struct settle, settle.request);
    uint32_t success = settled(settle);
    if (status != STATUS_OK) {
        call_refuse_status(&settle->call, status, NULL);
    } else if (success == 0) {
        refuse_stale(settle);
    } else if (success < settle->count) {
        settle->done = success;
        fail_rest(settle, success);
    } else if (settle->call.exchange != NULL) {
        answer_ack(settle, success);
    }
    call_release(&settle->call);
}

static bool read_outcome(struct settle *settle, const json_t *entry, uint32_t index)
{
    const json_t *status = json_object_get(entry, "status");
    bool failed = json_is_string(status) && span_is(json_span(status), "fail");
    bool good = status == NULL || json_is_null(status) ||
                (json_is_string(status) && span_is(json_span(status), "success"));
    if (!failed && !good) {
        call_refuse(
            &settle->call, 400, 10540003,
            "Message ack status must be either 'success' or 'fail'. It should not be '%.100s'.",
            json_is_string(status) ? json_string_value(status) : "not a string");
        return false;
    }
    if (failed && index < settle->done)
        settle->done = index;
    return true;
}

static void acknowledge(struct call *call, bool dead)
{
    struct settle *settle = container_of(call, struct settle, call);
    if (!find_group(settle) || !call_read_object(call, 10540012))
        return;
    const json_t *entries = json_object_get(call->body, "message");
    if (!prepare(settle, entries, "message"))
        return;
    settle->done = settle->count;
    for (uint32_t i = 0; i < settle->count; i++) {
        const json_t *entry = json_array_get(entries, i);
        if (!read_receipt(settle, json_object_get(entry, "handler"), i))
            return;
        if (dead != (settle->receipts[i].partition == settle->group->dead_partition)) {
            refuse_stale(settle);
            return;
        }
        if (!read_outcome(settle, entry, i))
            return;
    }
    if (settle->done == 0) {
        fail_rest(settle, 0);
        return;
    }
    settle->settle.outcome = SETTLE_DONE;
    settle->settle.ordered = true;
    settle_start(settle, 0, settle->done, first_done);
}

static void run_ack(struct call *call)
{
    acknowledge(call, false);
}

static void run_dead_ack(struct call *call)
{
    acknowledge(call, true);
}

/* ---------------------------------------------------------------- ours */

/* Each receipt for itself, in any order; those that are stale are named. */
static void answer_own(struct settle *settle)
{
    struct buf *to = call_out(&settle->call);
    uint32_t stale = 0;
    json_put(to, "{\"stale\":[");
    for (uint32_t i = 0; i < settle->count; i++) {
        if (settle->results[i] == STATUS_OK)
            continue;
        if (stale++ > 0)
            json_put(to, ",");
        json_put_number(to, i);
    }
    json_put(to, "],\"success\":");
    json_put_number(to, settle->count - stale);
    json_put(to, ",\"fail\":");
    json_put_number(to, stale);
    json_put(to, "}");
    if (stale == settle->count)
        refuse_stale(settle);
    else
        call_answer(&settle->call, 200);
}

static void own_ended(struct request *request, enum status status)
{
    struct settle *settle = container_of(request, struct settle, settle.request);
    if (status != STATUS_OK)
        call_refuse_status(&settle->call, status, NULL);
    else if (settle->call.exchange != NULL)
        answer_own(settle);
    call_release(&settle->call);
}

/* A whole number of the body; absent: fallback. */
static bool read_number(struct call *call, const char *name, json_int_t low, json_int_t high,
                        json_int_t fallback, uint32_t *number)
{
    const json_t *value = json_object_get(call->body, name);
    json_int_t given = fallback;
    if (json_is_integer(value))
        given = json_integer_value(value);
    else if (value != NULL && !json_is_null(value))
        given = low - 1;
    if (given < low || given > high) {
        call_refuse(call, 400, 10540010, "%s must be a number from %lld to %lld.", name,
                    (long long)low, (long long)high);
        return false;
    }
    *number = (uint32_t)given;
    return true;
}

static void settle_all(struct call *call, enum settle_outcome outcome)
{
    struct settle *settle = container_of(call, struct settle, call);
    uint32_t seconds = 0;
    if (!find_group(settle) || !call_read_object(call, 10540012))
        return;
    const json_t *receipts = json_object_get(call->body, "receipts");
    if (!prepare(settle, receipts, "receipts") ||
        (outcome == SETTLE_FAILED &&
         !read_number(call, "delay_ms", 0, LIMIT_DELAY_MS, 0, &settle->settle.delay_ms)) ||
        (outcome == SETTLE_RENEWED && !read_number(call, "seconds", 15, 300, 30, &seconds)))
        return;
    for (uint32_t i = 0; i < settle->count; i++) {
        if (!read_receipt(settle, json_array_get(receipts, i), i))
            return;
    }
    settle->settle.outcome = outcome;
    settle->settle.lease_ms = seconds * 1000;
    settle_start(settle, 0, settle->count, own_ended);
}

static void run_done(struct call *call)
{
    settle_all(call, SETTLE_DONE);
}

static void run_nack(struct call *call)
{
    settle_all(call, SETTLE_FAILED);
}

static void run_reject(struct call *call)
{
    settle_all(call, SETTLE_REJECTED);
}

static void run_renew(struct call *call)
{
    settle_all(call, SETTLE_RENEWED);
}

/* ---------------------------------------------------------------- routes */

#define SETTLE_CALL(NAME, RUN)                                                                     \
    void NAME(struct http_exchange *exchange)                                                      \
    {                                                                                              \
        static const struct call_kind kind = {                                                     \
            .size = sizeof(struct settle), .run = RUN, .deinit = deinit_settle};                   \
        call_start(exchange, &kind);                                                               \
    }
SETTLE_CALL(settle_ack, run_ack)
SETTLE_CALL(settle_dead_ack, run_dead_ack)
SETTLE_CALL(settle_done, run_done)
SETTLE_CALL(settle_nack, run_nack)
SETTLE_CALL(settle_reject, run_reject)
SETTLE_CALL(settle_renew, run_renew)
