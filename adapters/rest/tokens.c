/* SPDX-License-Identifier: Apache-2.0 */
/* Tokens: to log in for a while without the password, where there is no place to keep one. */
#include "adapters/rest/admin.h"
#include "adapters/rest/call.h"

enum { DEFAULT_S = 3600 };

static bool read_seconds(struct call *call, uint64_t *seconds)
{
    *seconds = DEFAULT_S;
    if (call->exchange->body.size == 0)
        return true;
    if (!call_read_object(call, 10540012))
        return false;
    const json_t *value = json_object_get(call->body, "expires_in");
    if (value == NULL)
        return true;
    *seconds = json_is_integer(value) && json_integer_value(value) > 0
                   ? (uint64_t)json_integer_value(value)
                   : 0;
    return true;
}

static void run_create(struct call *call)
{
    char token[TOKEN_TEXT];
    int64_t expires_ms;
    uint64_t seconds;
    if (!call_check_project(call) || !read_seconds(call, &seconds))
        return;
    enum status status = broker_make_token(call->client, seconds, token, &expires_ms);
    if (status != STATUS_OK) {
        call_refuse_status(call, status,
                           status == STATUS_DENIED ? "A token cannot make another one."
                           : status == STATUS_UNSUPPORTED
                               ? "There are no users, and nobody is asked who he is."
                               : "expires_in must be a number from 1 to 86400.");
        return;
    }
    json_put(call_out(call), "{\"token\":");
    json_put_text(call_out(call), span_from_text(token));
    json_put(call_out(call), ",\"expires_at\":");
    json_put_number(call_out(call), expires_ms);
    json_put(call_out(call), "}");
    http_header(call->exchange, "Cache-Control", "no-store");
    call_answer(call, 201);
}

void tokens_create(struct http_exchange *exchange)
{
    static const struct call_kind kind = {.size = sizeof(struct call), .run = run_create};
    call_start(exchange, &kind);
}
