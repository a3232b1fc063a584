/* SPDX-License-Identifier: Apache-2.0 */
/* Subscriptions to live topics: a client of its own each, so that each has its own credit. */
#include "adapters/ws/sub.h"
#include "adapters/ws/view.h"

static struct ws_sub *sub_of_client(struct client *client)
{
    return container_of(client, struct ws_sub, client);
}

static uint32_t live_variant(struct client *client, const struct subscription *subscription,
                             const struct record *record)
{
    (void)subscription;
    return ws_sub_variant(sub_of_client(client), record->value.size);
}

static struct blob *live_encode(uint32_t variant, const struct record *record)
{
    static const struct ws_view_place nowhere;
    return ws_sub_tail(variant, &nowhere, record);
}

static bool live_deliver(struct client *client, struct subscription *subscription,
                         struct blob *frame, uint32_t variant, const struct record *record)
{
    struct ws_sub *sub = sub_of_client(client);
    (void)subscription;
    if (sub->unlimited)
        client_settled(client, 1);
    ws_sub_send(sub, variant, span_of(sub->head, sub->head_size), frame, record);
    return true;
}

static size_t live_queued(struct client *client)
{
    return stream_queued(sub_of_client(client)->session->stream);
}

static void live_resume(struct client *client)
{
    (void)client; /* it does not publish */
}

static void live_end(struct client *client, enum status why)
{
    (void)client; /* the session's own client is told too */
    (void)why;
}

static const struct client_ops live_ops = {
    .protocol = "websocket",
    .variant = live_variant,
    .encode = live_encode,
    .deliver = live_deliver,
    .queued = live_queued,
    .resume = live_resume,
    .end = live_end,
};

static void live_done(struct request *request, enum status status)
{
    struct ws_sub *sub = container_of(request, struct ws_sub, subscribe.request);
    sub->pending = false;
    if (status == STATUS_OK)
        status = sub->item.status;
    if (sub->closed)
        ws_sub_free(sub);
    else if (status != STATUS_OK)
        ws_sub_refuse(sub, status);
    else
        ws_sub_holds(sub);
}

void ws_sub_live(struct ws_sub *sub, const json_t *frame)
{
    struct ws_session *session = sub->session;
    client_fork(&sub->client, &live_ops, &session->client,
                sub->unlimited ? UINT32_MAX : sub->credit);
    sub->item = (struct subscribe_item){
        .filter = span_from_text(sub->address),
        .guarantee = GUARANTEE_AT_LEAST_ONCE,
        .no_local = json_is_true(json_object_get(frame, "no_local")),
        .retain_as_published = true,
        .retained =
            json_is_false(json_object_get(frame, "retained")) ? RETAINED_NEVER : RETAINED_ALWAYS};
    sub->subscribe =
        (struct broker_subscribe){.client = &sub->client, .items = &sub->item, .count = 1};
    request_init(&sub->subscribe.request, broker_loop(session->client.worker), live_done);
    sub->pending = true;
    broker_subscribe(&sub->subscribe);
}
