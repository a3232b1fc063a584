/* SPDX-License-Identifier: Apache-2.0 */
/* What the gateway says to a frame. */
#include "adapters/ws/session.h"
#include "adapters/ws/view.h"

const char *ws_code(enum status status)
{
    switch (status) {
    case STATUS_OK:
        return "ok";
    case STATUS_CANCELED:
        return "canceled";
    case STATUS_TIMED_OUT:
        return "timed_out";
    case STATUS_CLOSED:
        return "closed";
    case STATUS_NO_MEMORY:
    case STATUS_BUSY:
        return "busy";
    case STATUS_TOO_LARGE:
        return "too_large";
    case STATUS_MALFORMED:
        return "malformed";
    case STATUS_INVALID:
        return "invalid";
    case STATUS_UNSUPPORTED:
        return "unsupported";
    case STATUS_NOT_FOUND:
        return "not_found";
    case STATUS_EXISTS:
        return "exists";
    case STATUS_UNAUTHENTICATED:
        return "unauthenticated";
    case STATUS_DENIED:
        return "denied";
    case STATUS_OVER_QUOTA:
        return "over_quota";
    case STATUS_STALE:
        return "stale";
    case STATUS_OUT_OF_RANGE:
        return "out_of_range";
    case STATUS_CORRUPT:
    case STATUS_STORAGE_FAILED:
    case STATUS_NO_SPACE:
        return "storage";
    case STATUS_SHUTTING_DOWN:
        return "shutting_down";
    case STATUS_INTERNAL:
    case STATUS_COUNT:
        break;
    }
    return "internal";
}

enum { ANSWER_MAX = WS_RECORD_TEXT_MAX + 8 * 1024 * 1024 };

static void put_id(struct buf *to, uint64_t id)
{
    if (id == WS_NO_ID)
        return;
    json_put(to, ",\"id\":");
    json_put_number(to, (int64_t)id);
}

static void send(struct ws_session *session, struct buf *answer)
{
    if (session->state != WS_DOWN)
        websocket_send(session->stream, FRAME_TEXT, buf_span(answer), NULL);
    buf_deinit(answer);
}

void ws_ok_with(struct ws_session *session, uint64_t id, struct span more)
{
    struct buf answer;
    if (id == WS_NO_ID)
        return;
    buf_init(&answer, ANSWER_MAX);
    json_put(&answer, "{\"op\":\"ok\"");
    put_id(&answer, id);
    buf_append(&answer, more.data, more.size);
    json_put(&answer, "}");
    send(session, &answer);
}

void ws_ok(struct ws_session *session, uint64_t id)
{
    ws_ok_with(session, id, (struct span){0});
}

void ws_error(struct ws_session *session, uint64_t id, enum status status, const char *text)
{
    struct buf answer;
    buf_init(&answer, ANSWER_MAX);
    json_put(&answer, "{\"op\":\"error\"");
    put_id(&answer, id);
    json_put(&answer, ",\"code\":\"");
    json_put(&answer, ws_code(status));
    json_put(&answer, "\",\"text\":");
    json_put_text(&answer, span_from_text(text == NULL ? status_text(status) : text));
    json_put(&answer, status_is_retriable(status) ? ",\"retry\":true}" : "}");
    send(session, &answer);
}
