/* SPDX-License-Identifier: Apache-2.0 */
/* Consuming: leases go out with their receipts as handlers. */
#include "adapters/rest/consume.h"

#include "adapters/rest/call.h"
#include "adapters/rest/change.h"
#include "adapters/rest/wanted.h"
#include "adapters/rest/view.h"
#include "core/base/check.h"
#include "core/base/limits.h"

enum { DMS_TAKE_MAX = 10, TAKE_BYTES = 512 * 1024, CODE_FAILED = 10542204, CODE_QUERY = 10540014 };

struct consume {
    struct call call;
    struct group_spec *group; /* a reference */
    struct wanted wanted;
    struct group_take take;
    struct group_settle give_back;
    bool dead, ours, taking;
};

/* ---------------------------------------------------------------- answer */

static void given_back(struct request *request, enum status status)
{
    struct consume *consume = container_of(request, struct consume, give_back.request);
    (void)status;
    call_release(&consume->call);
}

/* The client went away while its messages were on their way: others need not wait for the leases to
 * run out. */
static void give_back(struct consume *consume)
{
    uint32_t count = consume->take.count;
    struct receipt *receipts = arena_alloc(&consume->call.arena, count * sizeof *receipts);
    enum status *results = arena_alloc(&consume->call.arena, count * sizeof *results);
    CHECK(receipts != NULL && results != NULL);
    for (uint32_t i = 0; i < count; i++)
        receipts[i] = consume->take.items[i].receipt;
    consume->give_back = (struct group_settle){
        .receipts = receipts,
        .outcome = SETTLE_RELEASED,
        .count = count,
        .results = results,
    };
    request_init(&consume->give_back.request, call_loop(&consume->call), given_back);
    call_hold(&consume->call);
    broker_settle(consume->call.client, consume->group, &consume->give_back);
}

static void write_item(const struct consume *consume, const struct group_item *item, struct buf *to)
{
    struct record record;
    char handler[RECEIPT_TEXT_SIZE];
    batch_record(item->batch, item->index, &record);
    receipt_format(&item->receipt, handler);
    json_put(to, "{\"message\":{");
    view_write(&record, consume->ours, to);
    if (consume->ours) {
        json_put(to, ",\"offset\":");
        json_put_number(to, (int64_t)record.offset);
    }
    if (item->failures > 0) {
        json_put(to, ",\"delivery_count\":");
        json_put_number(to, item->failures);
    }
    json_put(to, "},\"handler\":\"");
    json_put(to, handler);
    json_put(to, "\"}");
}

static void answer(struct consume *consume)
{
    struct buf *to = call_out(&consume->call);
    json_put(to, "[");
    for (uint32_t i = 0; i < consume->take.count; i++) {
        if (i > 0)
            json_put(to, ",");
        write_item(consume, &consume->take.items[i], to);
    }
    json_put(to, "]");
    call_answer(&consume->call, 200);
}

static void refuse(struct consume *consume, enum status status)
{
    if (status == STATUS_INVALID && consume->group->mode == GROUP_BROADCAST)
        call_refuse(&consume->call, 400, CODE_QUERY,
                    "Who asks? Of a broadcast group consumer is wanted, a name like a group's.");
    else if (status == STATUS_INVALID)
        call_refuse(&consume->call, 400, CODE_FAILED,
                    "Failed to consume messages due to labels that are not those the group began "
                    "with.");
    else
        call_refuse_status(&consume->call, status, NULL);
}

static void take_done(struct request *request, enum status status)
{
    struct group_take *take = container_of(request, struct group_take, request);
    struct consume *consume = container_of(take, struct consume, take);
    consume->taking = false;
    if (status != STATUS_OK)
        refuse(consume, status);
    else if (consume->call.exchange != NULL)
        answer(consume);
    else if (take->count > 0)
        give_back(consume);
    for (uint32_t i = 0; i < take->count; i++) {
        batch_unref(take->items[i].batch);
        blob_unref(take->items[i].note);
    }
    call_release(&consume->call);
}

/* ---------------------------------------------------------------- request */

static bool read_wanted(struct consume *consume)
{
    struct call *call = &consume->call;
    if (consume->ours)
        return wanted_read(&consume->wanted, call);
    /* Dead letters are not asked for by tag. */
    return consume->dead || wanted_read_tags(&consume->wanted, call);
}

static void take(struct call *call, bool dead)
{
    struct consume *consume = container_of(call, struct consume, call);
    uint64_t max, wait_s, lease_s;
    consume->ours = call_is_ours(call);
    consume->dead = dead || (consume->ours && call_query_is_true(call, "dead"));
    uint64_t high = consume->ours ? LIMIT_TAKE_RECORDS : DMS_TAKE_MAX;
    if (!call_check_project(call))
        return;
    const struct group_spec *group = call_queue_group(call);
    if (group == NULL ||
        !call_query_number(call, "max_msgs", 1, high, DMS_TAKE_MAX, 10240014, &max) ||
        !call_query_number(call, "time_wait", consume->ours ? 0 : 1, 60, 3, 10240021, &wait_s) ||
        !call_query_number(call, "ack_wait", 15, 300, 0, 10542206, &lease_s) ||
        !read_wanted(consume))
        return;
    consume->group = group_spec_ref(group);
    consume->take = (struct group_take){
        .max_records = (uint32_t)max,
        .max_bytes = TAKE_BYTES,
        .wait_ms = (uint32_t)wait_s * 1000,
        .lease_ms = (uint32_t)lease_s * 1000,
        .dead = consume->dead,
        .selector = consume->wanted.selector,
        .labels = consume->wanted.labels,
        .items = arena_alloc(&call->arena, max * sizeof *consume->take.items),
    };
    CHECK(consume->take.items != NULL);
    http_query(call->exchange, "consumer", &consume->take.consumer);
    request_init(&consume->take.request, call_loop(call), take_done);
    consume->taking = true;
    call_hold(call);
    broker_take(call->client, group, &consume->take);
}

static void run_messages(struct call *call)
{
    take(call, false);
}

static void run_deadletters(struct call *call)
{
    take(call, true);
}

static void cancel_take(struct call *call)
{
    struct consume *consume = container_of(call, struct consume, call);
    if (consume->taking)
        broker_take_cancel(call->client, consume->group, &consume->take);
}

static void deinit_take(struct call *call)
{
    struct consume *consume = container_of(call, struct consume, call);
    wanted_deinit(&consume->wanted);
    if (consume->group != NULL)
        group_spec_unref(consume->group);
}

void consume_messages(struct http_exchange *exchange)
{
    static const struct call_kind kind = {
        .size = sizeof(struct consume),
        .run = run_messages,
        .canceled = cancel_take,
        .deinit = deinit_take,
    };
    call_start(exchange, &kind);
}

void consume_deadletters(struct http_exchange *exchange)
{
    static const struct call_kind kind = {
        .size = sizeof(struct consume),
        .run = run_deadletters,
        .canceled = cancel_take,
        .deinit = deinit_take,
    };
    call_start(exchange, &kind);
}
