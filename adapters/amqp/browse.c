/* SPDX-License-Identifier: Apache-2.0 */
/* Sources that read along: browsers, also of dead letters, streams, topics from a position on.
 * Nothing is leased, and what the receiver makes of a delivery changes nothing. */
#include "adapters/amqp/browse.h"
#include "adapters/amqp/connection.h"
#include "adapters/amqp/filter.h"
#include "adapters/amqp/link.h"
#include "adapters/amqp/sending.h"
#include "adapters/amqp/source.h"
#include "adapters/amqp/view.h"
#include "core/base/clock.h"
#include "core/base/pack.h"
#include "core/broker/follow.h"

static struct blob *encode(uint32_t variant, const struct follow_place *place,
                           const struct record *record)
{
    struct amqp_shown shown = {
        .first_acquirer = true,
        .positions = true,
        .partition = place->partition,
        .now_ms = clock_wall_ms(),
    };
    (void)variant;
    return amqp_message_frame(record, &shown);
}

static void deliver(struct follower *follower, struct blob *frame, const struct follow_place *place,
                    const struct record *record)
{
    struct amqp_link *link = follower_context(follower);
    uint8_t tag[8];
    (void)place;
    (void)record;
    if (amqp_is_too_large(link, frame->size)) { /* passed over */
        if (!link->settles)
            follower_settled(follower);
        follower_credit(follower, follower_credit_left(follower) + 1);
        return;
    }
    store_u64(tag, link->tag++);
    amqp_send(link, &(struct amqp_outgoing){.tag = span_of(tag, sizeof tag),
                                            .message = blob_span(frame),
                                            .frame = frame,
                                            .settled = link->settles});
    if (follower_credit_left(follower) == 0)
        link->draining = false;
}

static void drained(struct amqp_link *link)
{
    link->draining = false;
    follower_credit(link->follower, 0);
    amqp_send_drained(link);
}

static void caught_up(struct follower *follower)
{
    struct amqp_link *link = follower_context(follower);
    if (link->draining)
        drained(link);
}

static void ended(struct follower *follower, enum status why)
{
    struct amqp_link *link = follower_context(follower);
    if (why == STATUS_SHUTTING_DOWN)
        return; /* the connection is told */
    if (why == STATUS_NOT_FOUND)
        amqp_link_refuse(link, "amqp:resource-deleted", "the queue has gone");
    else
        amqp_link_refuse_status(link, why);
}

static const struct follow_ops follow_ops = {
    .encode = encode,
    .deliver = deliver,
    .caught_up = caught_up,
    .ended = ended,
};

void amqp_browse_flow(struct amqp_link *link, uint32_t credit, bool drain)
{
    link->draining = drain && credit > 0;
    follower_credit(link->follower, credit);
    if (link->draining && !follower_is_behind(link->follower))
        drained(link);
}

bool amqp_browse_drain_ends(struct amqp_link *link)
{
    bool ends = link->draining && !follower_may_be_shown(link->follower);
    if (ends)
        drained(link);
    return ends;
}

/* Whatever was made of it. */
void amqp_browse_settled(struct amqp_link *link, pn_delivery_t *delivery)
{
    bool counts = pn_delivery_get_context(delivery) != NULL;
    pn_delivery_set_context(delivery, NULL);
    pn_delivery_settle(delivery);
    if (counts && link->follower != NULL)
        follower_settled(link->follower);
}

bool amqp_is_plain_stream(const struct amqp_link *link, const struct queue *queue)
{
    return queue->type == QUEUE_STREAM && !link->dead && !link->names_group;
}

/* Without a position a browser sees what its group has not done yet. */
static void begin_at(const struct amqp_link *link, const struct queue *queue,
                     const struct group_spec *group, struct follow_options *options)
{
    const struct amqp_filter *filter = &link->filter;
    if (filter->has_position) {
        options->from = filter->from;
        options->last = filter->last;
        options->offset = filter->offset;
        options->time_ms = filter->time_ms;
    } else if (queue != NULL && amqp_is_plain_stream(link, queue)) {
        options->from = SEEK_LATEST;
    } else {
        options->undone_by = group;
    }
}

void amqp_browse_open(struct amqp_link *link, const struct queue *queue,
                      const struct group_spec *group, struct span filter)
{
    struct follow_options options = {
        .queue = queue,
        .filter = filter,
        .partition = FOLLOW_ALL_PARTITIONS,
        .from = SEEK_EARLIEST,
        .selector = link->filter.selector,
        .no_local = link->filter.no_local,
        .dead_of = link->dead ? group : NULL,
    };
    link->settles = pn_link_remote_snd_settle_mode(link->pn) == PN_SND_SETTLED;
    options.settled_later = !link->settles;
    begin_at(link, queue, group, &options);
    enum status status =
        follower_open(&link->connection->client, &follow_ops, link, &options, &link->follower);
    if (status != STATUS_OK) {
        amqp_link_refuse_status(link, status);
        return;
    }
    link->kind = AMQP_FROM_LOG;
    amqp_link_accept(link);
    amqp_source_flow(link);
}
