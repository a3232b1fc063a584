/* SPDX-License-Identifier: Apache-2.0 */
/* Subscriptions to queues with a group: what is delivered is leased. */
#include "adapters/ws/sub.h"
#include "adapters/ws/view.h"

/* The member is told of leases that are over: what it settles of them now is stale. */
static bool group_expired(struct consumer *consumer, uint32_t slot)
{
    struct ws_sub *sub = consumer_context(consumer);
    static const char op[] = "{\"op\":\"deliver\"";
    const struct receipt *receipt = consumer_lease(consumer, slot);
    struct buf text;
    buf_init(&text, 4096);
    json_put(&text, "{\"op\":\"expired\"");
    buf_append(&text, sub->head + sizeof op - 1, sub->head_size - sizeof op + 1);
    json_put(&text, "\"receipt\":\"");
    ws_receipt_put(&text, sub->number, slot, receipt);
    json_put(&text, "\"}");
    if (sub->session->state == WS_UP)
        websocket_send(sub->session->stream, FRAME_TEXT, buf_span(&text), NULL);
    buf_deinit(&text);
    return true;
}

static void group_deliver(struct consumer *consumer, uint32_t slot, const struct group_item *item)
{
    struct ws_sub *sub = consumer_context(consumer);
    struct record record;
    struct buf text;
    const struct queue *queue = catalog_queue_of_partition(
        broker_catalog(sub->session->client.worker), item->batch->partition);
    struct ws_view_place place = {.queue = queue == NULL ? NULL : queue->name};
    if (queue != NULL)
        place.partition = (uint32_t)(item->batch->partition - queue->first_partition);
    batch_record(item->batch, item->index, &record);
    buf_init(&text, WS_RECORD_TEXT_MAX);
    if (buf_reserve(&text, record.value.size + record.headers.size + 512) != STATUS_OK) {
        consumer_settle(consumer, slot, SETTLE_RELEASED, 0, 0);
        return;
    }
    buf_append(&text, sub->head, sub->head_size);
    json_put(&text, "\"receipt\":\"");
    ws_receipt_put(&text, sub->number, slot, &item->receipt);
    json_put(&text, "\",\"delivery_count\":");
    json_put_number(&text, item->failures);
    json_put(&text, ",");
    ws_view_write(&record, &place, sub->binary, &text);
    json_put(&text, "}");
    if (sub->session->state == WS_UP) {
        websocket_send(sub->session->stream, FRAME_TEXT, buf_span(&text), NULL);
        if (sub->binary)
            websocket_send(sub->session->stream, FRAME_BINARY, record.value, NULL);
    }
    buf_deinit(&text);
    if (sub->unlimited)
        consumer_credit(consumer, WS_CREDIT_MAX, false);
}

static void group_ended(struct consumer *consumer, enum status why)
{
    ws_sub_ended(consumer_context(consumer), why);
}

static const struct consumer_ops group_ops = {
    .deliver = group_deliver,
    .settled = ws_settled,
    .expired = group_expired,
    .ended = group_ended,
};

static void group_joined(struct request *request, enum status status)
{
    struct ws_sub *sub = container_of(request, struct ws_sub, join.request);
    struct ws_session *session = sub->session;
    struct group_spec *group = sub->join.group;
    sub->pending = false;
    if (sub->closed) {
        ws_sub_free(sub);
    } else if (status != STATUS_OK) {
        ws_sub_refuse(sub, status);
    } else {
        sub->options.group = group;
        sub->consumer = consumer_open(&session->client, &group_ops, sub, &sub->options);
        ws_sub_holds(sub);
        consumer_credit(sub->consumer, sub->unlimited ? WS_CREDIT_MAX : sub->credit, false);
    }
    if (group != NULL)
        group_spec_unref(group);
    connection_release(session);
}

/* A group that is new begins at from. */
void ws_sub_group(struct ws_sub *sub, const struct queue *queue, enum seek_to from)
{
    struct ws_session *session = sub->session;
    sub->join = (struct broker_join){
        .client = &session->client,
        .queue = queue->id,
        .name = span_from_text(sub->address),
        .start = from == SEEK_LATEST ? GROUP_LATEST : GROUP_EARLIEST,
    };
    request_init(&sub->join.request, broker_loop(session->client.worker), group_joined);
    sub->pending = true;
    connection_hold(session); /* the join looks at its client when it is back */
    broker_join(&sub->join);
}
