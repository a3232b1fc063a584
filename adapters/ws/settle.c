/* SPDX-License-Identifier: Apache-2.0 */
/* Receipts come back. A receipt names the subscription, the lease's slot there, and the hand-out:
 * it is good on the connection that it was given to. */
#include "adapters/ws/session.h"
#include "core/base/heap.h"
#include "core/base/limits.h"

enum { PARTS = 5 };

/* A frame that is answered when all its receipts are settled. */
struct settlement {
    struct link link;
    struct ws_session *session;
    const struct consumer *consumer;
    uint64_t id;
    uint32_t left, stale;
    enum status failure; /* the last other than STALE */
};

/* ---------------------------------------------------------------- receipts as text */

static void put_part(struct buf *to, uint64_t number, bool last)
{
    char digits[17];
    size_t at = sizeof digits;
    if (!last)
        digits[--at] = '.';
    do {
        digits[--at] = "0123456789abcdef"[number & 15];
        number >>= 4;
    } while (number > 0 && at > 0);
    buf_append(to, digits + at, sizeof digits - at);
}

void ws_receipt_put(struct buf *to, uint64_t sub, uint32_t slot, const struct receipt *receipt)
{
    put_part(to, sub, false);
    put_part(to, slot, false);
    put_part(to, receipt->partition, false);
    put_part(to, receipt->offset, false);
    put_part(to, receipt->delivery, true);
}

static int digit_of(uint8_t c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static bool receipt_read(struct span text, uint64_t parts[PARTS])
{
    size_t at = 0;
    for (unsigned i = 0; i < PARTS; i++) {
        size_t digits = 0;
        parts[i] = 0;
        for (; at < text.size && digits < 16 && digit_of(text.data[at]) >= 0; at++, digits++)
            parts[i] = parts[i] << 4 | (uint64_t)digit_of(text.data[at]);
        bool ends = i + 1 == PARTS ? at == text.size : at < text.size && text.data[at++] == '.';
        if (digits == 0 || !ends)
            return false;
    }
    return true;
}

/* ---------------------------------------------------------------- answers */

static void settlement_end(struct settlement *settlement)
{
    struct ws_session *session = settlement->session;
    enum status status = settlement->failure != STATUS_OK ? settlement->failure
                         : settlement->stale > 0          ? STATUS_STALE
                                                          : STATUS_OK;
    if (status == STATUS_OK)
        ws_ok(session, settlement->id);
    else
        ws_error(session, settlement->id, status, NULL);
    link_remove(&settlement->link);
    heap_free(settlement);
}

static void settled_one(struct settlement *settlement, enum status status)
{
    if (status == STATUS_STALE)
        settlement->stale++;
    else if (status != STATUS_OK)
        settlement->failure = status;
    if (--settlement->left == 0)
        settlement_end(settlement);
}

void ws_settled(struct consumer *consumer, uint64_t token, enum status status)
{
    (void)consumer;
    settled_one((struct settlement *)(uintptr_t)token, status);
}

void ws_settlements_close(struct ws_session *session, const struct consumer *consumer)
{
    list_each_safe(link, following, &session->settlements)
    {
        struct settlement *settlement = container_of(link, struct settlement, link);
        if (consumer != NULL && settlement->consumer != consumer)
            continue;
        settlement->failure = STATUS_CLOSED;
        settlement_end(settlement);
    }
}

/* ---------------------------------------------------------------- frames */

/* One receipt; false: it is none, or of another subscription. */
static bool settle_one(struct ws_session *session, const json_t *text, enum ws_settle how,
                       uint32_t argument_ms, struct settlement *settlement)
{
    static const enum settle_outcome outcomes[] = {
        [WS_ACK] = SETTLE_DONE, [WS_NACK] = SETTLE_FAILED, [WS_REJECT] = SETTLE_REJECTED};
    uint64_t parts[PARTS];
    if (!json_is_string(text) || !receipt_read(json_span(text), parts))
        return false;
    struct consumer *consumer = ws_consumer_of(session, parts[0]);
    uint32_t slot = parts[1] < UINT32_MAX ? (uint32_t)parts[1] : UINT32_MAX;
    const struct receipt *receipt = consumer == NULL ? NULL : consumer_lease(consumer, slot);
    uint64_t token = 0;
    if (settlement != NULL && (settlement->consumer == NULL || settlement->consumer == consumer)) {
        settlement->consumer = consumer;
        settlement->left++;
        token = (uint64_t)(uintptr_t)settlement;
    } else if (settlement != NULL) {
        return false;
    }
    if (receipt == NULL || receipt->partition != parts[2] || receipt->offset != parts[3] ||
        receipt->delivery != parts[4]) {
        if (settlement != NULL)
            settled_one(settlement, STATUS_STALE);
    } else if (how == WS_EXTEND) {
        consumer_renew(consumer, slot, argument_ms, token);
    } else {
        consumer_settle(consumer, slot, outcomes[how], argument_ms, token);
    }
    return true;
}

/* delay_ms of nack, seconds of extend. */
static bool read_argument(const json_t *frame, enum ws_settle how, uint32_t *argument_ms)
{
    uint64_t number = 0;
    *argument_ms = 0;
    if (how == WS_EXTEND) {
        if (!ws_number(frame, "seconds", WS_LEASE_MAX_S, &number) || number == 0)
            return false;
        *argument_ms = (uint32_t)number * 1000;
    } else if (how == WS_NACK && json_object_get(frame, "delay_ms") != NULL) {
        if (!ws_number(frame, "delay_ms", LIMIT_DELAY_MS, &number))
            return false;
        *argument_ms = (uint32_t)number;
    }
    return true;
}

void ws_settle(struct ws_session *session, json_t *frame, uint64_t id, enum ws_settle how)
{
    const json_t *receipts = json_object_get(frame, "receipts"),
                 *single = json_object_get(frame, "receipt");
    size_t count = single != NULL ? 1 : json_array_size(receipts);
    uint32_t argument_ms;
    if (count == 0 || count > LIMIT_CALL_RECEIPTS || !read_argument(frame, how, &argument_ms)) {
        ws_error(session, id, STATUS_INVALID,
                 how == WS_EXTEND ? "receipts (1 to 1000) and seconds (1 to 300) are wanted"
                                  : "receipt, or receipts (1 to 1000), is wanted");
        return;
    }
    struct settlement *settlement = NULL;
    if (id != WS_NO_ID) {
        settlement = heap_new(sizeof *settlement);
        settlement->session = session;
        settlement->id = id;
        settlement->left = 1; /* until all are on their way */
        list_push(&session->settlements, &settlement->link);
    }
    bool good = true;
    for (size_t i = 0; good && i < count; i++)
        good = settle_one(session, single != NULL ? single : json_array_get(receipts, i), how,
                          argument_ms, settlement);
    if (!good && settlement == NULL)
        ws_error(session, id, STATUS_INVALID, "not a receipt");
    else if (settlement != NULL)
        settled_one(settlement, good ? STATUS_OK : STATUS_INVALID);
}
