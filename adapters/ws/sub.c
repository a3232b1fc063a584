/* SPDX-License-Identifier: Apache-2.0 */
/* A subscription of any kind: its end, and frames as they leave. */
#include "adapters/ws/sub.h"
#include "adapters/ws/view.h"
#include "core/base/heap.h"

enum { SHARED_MIN = 512 }; /* bodies from here on are compressed once for all who take it */
enum { VARIANT_BINARY = 1, VARIANT_DEFLATED = 2 };

void ws_sub_free(struct ws_sub *sub)
{
    selector_unref(sub->options.selector);
    heap_free(sub->label_text);
    heap_free(sub->address);
    heap_free(sub);
}

/* No frame of it any more. */
void ws_sub_close(struct ws_sub *sub)
{
    struct ws_session *session = sub->session;
    if (sub->closed)
        return;
    sub->closed = true;
    link_remove(&sub->link);
    session->sub_count--;
    if (sub->consumer != NULL)
        ws_settlements_close(session, sub->consumer);
    consumer_close(sub->consumer, true);
    follower_close(sub->follower);
    if (sub->kind == WS_LIVE)
        client_close(&sub->client);
    if (!sub->pending)
        ws_sub_free(sub);
}

void ws_sub_refuse(struct ws_sub *sub, enum status status)
{
    ws_error(sub->session, sub->id, status, NULL);
    ws_sub_close(sub);
}

void ws_sub_holds(struct ws_sub *sub)
{
    ws_ok(sub->session, sub->id);
    sub->id = WS_NO_ID;
}

/* It ends by itself. */
void ws_sub_ended(struct ws_sub *sub, enum status why)
{
    struct buf text;
    struct ws_session *session = sub->session;
    static const char op[] = "{\"op\":\"deliver\"";
    if (sub->id != WS_NO_ID) {
        ws_sub_refuse(sub, why);
        return;
    }
    buf_init(&text, 4096);
    json_put(&text, "{\"op\":\"closing\"");
    buf_append(&text, sub->head + sizeof op - 1, sub->head_size - sizeof op + 1);
    json_put(&text, "\"code\":\"");
    json_put(&text, ws_code(why));
    json_put(&text, "\",\"text\":");
    json_put_text(&text, span_from_text(status_text(why)));
    json_put(&text, "}");
    if (session->state == WS_UP)
        websocket_send(session->stream, FRAME_TEXT, buf_span(&text), NULL);
    buf_deinit(&text);
    ws_sub_close(sub);
}

/* ---------------------------------------------------------------- frames */

uint32_t ws_sub_variant(const struct ws_sub *sub, size_t body_size)
{
    return (sub->binary ? VARIANT_BINARY : 0u) |
           (!sub->binary && body_size >= SHARED_MIN &&
                    websocket_takes_deflated(sub->session->stream)
                ? VARIANT_DEFLATED
                : 0u);
}

/* What follows the head of a subscription: shared by all of that variant. */
struct blob *ws_sub_tail(uint32_t variant, const struct ws_view_place *place,
                         const struct record *record)
{
    struct buf text;
    struct blob *blob;
    buf_init(&text, WS_RECORD_TEXT_MAX);
    if (buf_reserve(&text, record->value.size + record->headers.size + 256) != STATUS_OK)
        return NULL;
    ws_view_write(record, place, (variant & VARIANT_BINARY) != 0, &text);
    json_put(&text, "}");
    if ((variant & VARIANT_DEFLATED) != 0)
        blob = websocket_deflate(buf_span(&text));
    else
        blob = blob_copy(buf_span(&text));
    buf_deinit(&text);
    return blob;
}

void ws_sub_send(struct ws_sub *sub, uint32_t variant, struct span head, struct blob *tail,
                 const struct record *record)
{
    struct stream *stream = sub->session->stream;
    if (sub->session->state != WS_UP)
        return;
    if ((variant & VARIANT_DEFLATED) != 0)
        websocket_send_deflated(stream, FRAME_TEXT, head, tail);
    else
        websocket_send(stream, FRAME_TEXT, head, tail);
    if ((variant & VARIANT_BINARY) != 0)
        websocket_send(stream, FRAME_BINARY, record->value, NULL);
}
