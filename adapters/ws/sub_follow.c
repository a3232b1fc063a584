/* SPDX-License-Identifier: Apache-2.0 */
/* Subscriptions that follow topics or queues from a position, without leases. */
#include "adapters/ws/sub.h"
#include "adapters/ws/view.h"

static uint32_t follow_variant(struct follower *follower)
{
    const struct ws_sub *sub = follower_context(follower);
    return ws_sub_variant(sub, 0);
}

static struct blob *follow_encode(uint32_t variant, const struct follow_place *place,
                                  const struct record *record)
{
    struct ws_view_place where = {.queue = place->queue->name, .partition = place->partition};
    return ws_sub_tail(variant, &where, record);
}

static void put_position(struct follower *follower, struct buf *to)
{
    json_put(to, "\"position\":\"");
    follower_position(follower, to);
    json_put(to, "\"");
}

static void follow_deliver(struct follower *follower, struct blob *frame,
                           const struct follow_place *place, const struct record *record)
{
    struct ws_sub *sub = follower_context(follower);
    struct buf head;
    (void)place;
    bool position = sub->positions && follower_says_position(follower);
    buf_init(&head, 64 * 1024);
    if (position) {
        buf_append(&head, sub->head, sub->head_size);
        put_position(follower, &head);
        json_put(&head, ",");
    }
    ws_sub_send(sub, ws_sub_variant(sub, 0),
                position ? buf_span(&head) : span_of(sub->head, sub->head_size), frame, record);
    buf_deinit(&head);
    if (sub->unlimited)
        follower_credit(follower, UINT32_MAX);
}

static void follow_ended(struct follower *follower, enum status why)
{
    ws_sub_ended(follower_context(follower), why);
}

static const struct follow_ops follow_ops = {
    .variant = follow_variant,
    .encode = follow_encode,
    .deliver = follow_deliver,
    .ended = follow_ended,
};

void ws_sub_follow(struct ws_sub *sub, struct follow_options *options)
{
    enum status status =
        follower_open(&sub->session->client, &follow_ops, sub, options, &sub->follower);
    if (status != STATUS_OK) {
        ws_sub_refuse(sub, status);
        return;
    }
    struct buf more;
    buf_init(&more, 64 * 1024);
    json_put(&more, ",");
    put_position(sub->follower, &more);
    ws_ok_with(sub->session, sub->id, buf_span(&more));
    sub->id = WS_NO_ID;
    buf_deinit(&more);
    follower_credit(sub->follower, sub->unlimited ? UINT32_MAX : sub->credit);
}
