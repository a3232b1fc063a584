/* SPDX-License-Identifier: Apache-2.0 */
/* Large messages leave in pieces. */
#include "adapters/amqp/sending.h"
#include "adapters/amqp/connection.h"
#include "adapters/amqp/link.h"
#include "adapters/amqp/source.h"
#include "core/base/check.h"
#include "core/base/heap.h"
#include "core/base/limits.h"

enum {
    TAG_MAX = 32,
    HEAD_ROOM = 128, /* of a frame: header and performative */
    PIECE_MIN = 512  /* with it: what Proton has for a delivery anyway is more */
};

/* A message, the first of its link begun or not. */
struct sending {
    struct link of_link;
    pn_delivery_t *delivery; /* NULL: not begun */
    struct blob *frame;
    size_t at; /* what Proton has had */
    uint32_t slot;
    bool settled;
    uint8_t tag_size;
    char tag[TAG_MAX];
};

static struct sending *first_of(const struct amqp_link *link)
{
    struct link *first = list_first(&link->sending);
    return first == NULL ? NULL : container_of(first, struct sending, of_link);
}

/* Proton never has fewer deliveries again than it has had, each with the largest buffer that it has
 * needed: so one is as large as all of them together may be, divided by how many there have been.
 * What a link has is known as of its last message or flow, and not less since. */
static size_t piece_bytes(struct amqp_link *link)
{
    struct amqp_connection *connection = link->connection;
    int unsettled = pn_link_unsettled(link->pn), queued = pn_link_queued(link->pn);
    uint32_t now = (uint32_t)(unsettled > queued ? unsettled : queued);
    connection->delivery_count += now - link->delivery_count;
    link->delivery_count = now;
    uint32_t all =
        connection->delivery_count + connection->waiting_count + connection->unsettled + 1;
    if (all > connection->delivery_peak)
        connection->delivery_peak = all;
    size_t piece = AMQP_FRAME_MAX;
    while (piece > PIECE_MIN && piece * connection->delivery_peak > LIMIT_SENT_BYTES)
        piece /= 2;
    return piece - HEAD_ROOM;
}

static pn_delivery_t *begin(struct amqp_link *link, const char *tag, size_t tag_size, uint32_t slot,
                            bool settled)
{
    pn_delivery_t *delivery = pn_delivery(link->pn, pn_dtag(tag, tag_size));
    if (!settled)
        amqp_slot_set(delivery, slot);
    return delivery;
}

static void finish(struct amqp_link *link, pn_delivery_t *delivery, bool settled)
{
    if (settled) /* which goes on to the next, too */
        pn_delivery_settle(delivery);
    else
        pn_link_advance(link->pn);
}

static void drop(struct amqp_link *link, struct sending *sending)
{
    link->sending_count--;
    link->connection->sending_bytes -= sending->frame->size - sending->at;
    link_remove(&sending->of_link);
    blob_unref(sending->frame);
    heap_free(sending);
}

void amqp_send_on(struct amqp_link *link)
{
    struct sending *sending;
    size_t most = piece_bytes(link);
    while ((sending = first_of(link)) != NULL) {
        if (sending->delivery == NULL && pn_link_credit(link->pn) <= 0)
            return;
        if (sending->delivery == NULL)
            sending->delivery =
                begin(link, sending->tag, sending->tag_size, sending->slot, sending->settled);
        if (pn_delivery_pending(sending->delivery) > 0)
            return;
        size_t left = sending->frame->size - sending->at, size = left < most ? left : most;
        pn_link_send(link->pn, (const char *)sending->frame->bytes + sending->at, size);
        sending->at += size;
        link->connection->sending_bytes -= size;
        amqp_wake(link->connection);
        if (size < left)
            return;
        finish(link, sending->delivery, sending->settled);
        drop(link, sending);
    }
    if (link->drains) {
        link->drains = false;
        /* Of less credit than none Proton would say that less has been sent. */
        if (pn_link_credit(link->pn) > 0 && pn_link_drained(link->pn) > 0)
            link->drain.drains = false;
    }
}

static void wait(struct amqp_link *link, const struct amqp_outgoing *outgoing)
{
    struct sending *sending = heap_new(sizeof *sending);
    CHECK(outgoing->tag.size <= TAG_MAX);
    memcpy(sending->tag, outgoing->tag.data, outgoing->tag.size);
    sending->tag_size = (uint8_t)outgoing->tag.size;
    sending->slot = outgoing->slot;
    sending->settled = outgoing->settled;
    sending->frame =
        outgoing->frame == NULL ? blob_copy(outgoing->message) : blob_ref(outgoing->frame);
    link->sending_count++;
    link->connection->sending_bytes += sending->frame->size;
    list_push(&link->sending, &sending->of_link);
}

void amqp_send(struct amqp_link *link, const struct amqp_outgoing *outgoing)
{
    struct span tag = outgoing->tag, message = outgoing->message;
    if (link->sending_count == 0 && message.size <= piece_bytes(link)) {
        pn_delivery_t *delivery =
            begin(link, (const char *)tag.data, tag.size, outgoing->slot, outgoing->settled);
        pn_link_send(link->pn, (const char *)message.data, message.size);
        finish(link, delivery, outgoing->settled);
    } else {
        wait(link, outgoing);
        amqp_send_on(link);
    }
    amqp_wake(link->connection);
}

uint32_t amqp_send_credit(const struct amqp_link *link)
{
    int64_t credit = (int64_t)pn_link_credit(link->pn) - link->sending_count;
    return credit > 0 ? (uint32_t)credit : 0;
}

uint32_t amqp_sending_count(const struct amqp_link *link)
{
    return (uint32_t)pn_link_queued(link->pn) + link->sending_count;
}

void amqp_send_drained(struct amqp_link *link)
{
    link->drains = true;
    amqp_send_on(link);
    amqp_wake(link->connection);
}

bool amqp_send_not(struct amqp_link *link, uint32_t slot)
{
    list_each(at, &link->sending)
    {
        struct sending *sending = container_of(at, struct sending, of_link);
        if (sending->delivery == NULL && !sending->settled && sending->slot == slot) {
            drop(link, sending);
            return true;
        }
    }
    return false;
}

void amqp_send_no_more(struct amqp_link *link, pn_delivery_t *delivery, bool is_over)
{
    struct sending *sending = first_of(link);
    if (sending == NULL || sending->delivery != delivery)
        return;
    drop(link, sending);
    if (is_over)
        pn_delivery_abort(delivery);
    else
        pn_link_advance(link->pn);
    amqp_wake(link->connection);
}

void amqp_send_end(struct amqp_link *link)
{
    struct sending *sending = first_of(link);
    link->drains = false;
    if (sending != NULL && sending->delivery != NULL)
        amqp_send_no_more(link, sending->delivery, true);
    while ((sending = first_of(link)) != NULL)
        drop(link, sending);
    link->connection->delivery_count -= link->delivery_count;
    link->delivery_count = 0;
}
