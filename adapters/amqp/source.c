/* SPDX-License-Identifier: Apache-2.0 */
/* What clients receive from groups: attach, credit and drain, deliveries and their outcomes. */
#include "adapters/amqp/source.h"
#include "adapters/amqp/address.h"
#include "adapters/amqp/browse.h"
#include "adapters/amqp/connection.h"
#include "adapters/amqp/dynamic.h"
#include "adapters/amqp/filter.h"
#include "adapters/amqp/link.h"
#include "adapters/amqp/resume.h"
#include "adapters/amqp/sending.h"
#include "adapters/amqp/target.h"
#include "adapters/amqp/topic.h"
#include "adapters/amqp/transaction.h"
#include "adapters/amqp/view.h"
#include "core/base/clock.h"
#include "core/base/heap.h"
#include "core/base/limits.h"
#include "core/base/pack.h"
#include "core/broker/administer.h"
#include "core/broker/consume.h"
#include "core/broker/follow.h"

static const char DEFAULT_GROUP[] = "amqp";

/* The token of what was too large to become a delivery, which no delivery lies at. */
enum { TOKEN_TOO_LARGE = 1 };

static _Thread_local uint8_t scratch_memory[64 * 1024];

/* Memory for one message on its way out: room for size bytes, or NULL; release what was given. */
static uint8_t *scratch(size_t size)
{
    return size <= sizeof scratch_memory ? scratch_memory : heap_try(size);
}

static void scratch_release(uint8_t *memory)
{
    if (memory != scratch_memory)
        heap_free(memory);
}

struct blob *amqp_message_frame(const struct record *record, const struct amqp_shown *shown)
{
    uint8_t *message = scratch(amqp_view_bound(record));
    if (message == NULL)
        return NULL;
    struct blob *frame = blob_copy(span_of(message, amqp_view_write(record, shown, message)));
    scratch_release(message);
    return frame;
}

/* ------------------------------------------------ deliveries */

/* Contexts: its lease has run out, and it has not left yet; it is given back, of which its receiver
 * waits to be told. */
#define LATE      ((void *)UINTPTR_MAX)
#define RETURNING ((void *)(UINTPTR_MAX - 1))

/* In its context, plus one: none is NULL. A lease knows the delivery, too. */
void amqp_slot_set(pn_delivery_t *delivery, uint32_t slot)
{
    pn_delivery_set_context(delivery, (void *)((uintptr_t)slot + 1));
    struct consumer *consumer = amqp_link_of(pn_delivery_link(delivery))->consumer;
    if (consumer != NULL)
        consumer_bind(consumer, slot, delivery);
}

static bool slot_get(pn_delivery_t *delivery, uint32_t *slot)
{
    void *context = pn_delivery_get_context(delivery);
    *slot = (uint32_t)((uintptr_t)context - 1);
    return context != NULL && context != LATE && context != RETURNING;
}

/* Of one that is offered again the link may still know the delivery before. What Proton has to say
 * of that it would say behind what is sent in the same turn. */
static bool is_known(struct amqp_link *link, const struct group_item *item)
{
    if (item->failures > 0 || !item->again)
        return item->failures > 0;
    if (link->has_returned && amqp_say_now(link->connection))
        link->has_returned = false;
    return link->has_returned || link->returning > 0;
}

/* A tag names the record, so that one that is offered again keeps it, unless that is known. */
static size_t tag_write(struct amqp_link *link, const struct group_item *item, uint8_t tag[20])
{
    store_u64(tag, item->receipt.offset);
    store_u64(tag + 8, item->receipt.partition);
    store_u32(tag + 16, item->receipt.delivery);
    return is_known(link, item) ? 20 : 16;
}

/* It was not sent, so the link has the credit that it took. */
static void not_sent(struct amqp_link *link)
{
    consumer_credit(link->consumer, amqp_send_credit(link), pn_link_get_drain(link->pn));
}

bool amqp_is_too_large(const struct amqp_link *link, size_t size)
{
    uint64_t most = pn_link_remote_max_message_size(link->pn);
    return most != 0 && size > most;
}

static void deliver(struct consumer *consumer, uint32_t slot, const struct group_item *item)
{
    struct amqp_link *link = consumer_context(consumer);
    struct record record;
    batch_record(item->batch, item->index, &record);
    struct amqp_shown shown = {
        .failures = item->failures,
        .first_acquirer = !item->again,
        .positions = true,
        .partition = item->receipt.partition,
        .now_ms = clock_wall_ms(),
    };
    if (item->note != NULL)
        shown.note = blob_span(item->note);
    uint8_t *message = scratch(amqp_view_bound(&record) + AMQP_NOTE_GROWS * shown.note.size);
    if (message == NULL) {
        consumer_settle(consumer, slot, SETTLE_RELEASED, 0, 0);
        not_sent(link);
        return;
    }
    size_t size = amqp_view_write(&record, &shown, message);
    if (amqp_is_too_large(link, size)) {
        scratch_release(message);
        struct consumer_outcome away = {.outcome = SETTLE_RELEASED, .away = true, .unharmed = true};
        consumer_settle_as(consumer, slot, &away, TOKEN_TOO_LARGE);
        not_sent(link);
        return;
    }
    uint8_t tag[20];
    if (link->settles)
        consumer_settle(consumer, slot, SETTLE_DONE, 0, 0);
    amqp_send(link, &(struct amqp_outgoing){.tag = span_of(tag, tag_write(link, item, tag)),
                                            .message = span_of(message, size),
                                            .slot = slot,
                                            .settled = link->settles});
    scratch_release(message);
}

static void drained(struct consumer *consumer)
{
    amqp_send_drained(consumer_context(consumer));
}

/* Others have it, or there is too much of the kind: then the link would get the same one again and
 * again. */
static void passed_over(struct amqp_link *link, enum status status)
{
    if (status != STATUS_OVER_QUOTA)
        return;
    amqp_count_refusal(STATUS_TOO_LARGE);
    amqp_link_refuse(link, "amqp:link:message-size-exceeded",
                     "too many messages here are larger than the link's max-message-size: attach "
                     "with a larger one, or with none");
}

/* The receiver waits for the sender to settle, and the token is the delivery. After a failed sync
 * nobody knows whether the next start will find it done: its connection ends without an answer. */
static void settled(struct consumer *consumer, uint64_t token, enum status status)
{
    struct amqp_link *link = consumer_context(consumer);
    if (token == TOKEN_TOO_LARGE) {
        passed_over(link, status);
        return;
    }
    if (status == STATUS_STORAGE_FAILED) {
        amqp_end(link->connection, amqp_condition_of(status), status_text(status));
        return;
    }
    pn_delivery_t *delivery = (pn_delivery_t *)(uintptr_t)token;
    if (pn_delivery_get_context(delivery) == RETURNING) {
        link->returning--;
        link->has_returned = true;
    }
    /* What came too late was not done. */
    pn_delivery_update(delivery, status == STATUS_OK ? pn_delivery_remote_state(delivery)
                                                     : (uint64_t)PN_RELEASED);
    pn_delivery_settle(delivery);
    amqp_wake(link->connection);
}

/* Nobody waits for what is made of it any more: it is settled as released, as when the outcome
 * comes too late. What has not left would leave as settled: that it is released is said later. */
static bool expired(struct consumer *consumer, uint32_t slot)
{
    struct amqp_link *link = consumer_context(consumer);
    pn_delivery_t *delivery = consumer_bound(consumer, slot);
    if (delivery == NULL && amqp_send_not(link, slot)) {
        not_sent(link);
        return true;
    }
    if (delivery == NULL)
        return false;
    if (pn_delivery_buffered(delivery) && pn_link_current(link->pn) != delivery) {
        pn_delivery_set_context(delivery, LATE);
        return true;
    }
    pn_delivery_set_context(delivery, NULL);
    pn_delivery_update(delivery, PN_RELEASED);
    amqp_send_no_more(link, delivery, true);
    pn_delivery_settle(delivery);
    amqp_wake(link->connection);
    return true;
}

static void ended(struct consumer *consumer, enum status why)
{
    struct amqp_link *link = consumer_context(consumer);
    if (why == STATUS_SHUTTING_DOWN)
        return; /* the connection is told */
    if (why == STATUS_NOT_FOUND)
        amqp_link_refuse(link, "amqp:resource-deleted", "the queue or its group has gone");
    else
        amqp_link_refuse_status(link, why);
}

static const struct consumer_ops consumer_ops = {
    .deliver = deliver,
    .drained = drained,
    .settled = settled,
    .expired = expired,
    .ended = ended,
};

/* ------------------------------------------------ outcomes */

/* What the annotations of a modified outcome say: x-opt-delivery-delay, and what the record is to
 * be shown with. */
static uint32_t annotations_read(const struct amqp_link *link, pn_disposition_t *disposition,
                                 struct buf *note)
{
    char bytes[AMQP_STATE_ANEW];
    struct span said = link->connection->frames.lean.detail;
    struct amqp_value annotations;
    if (said.size == 0) {
        pn_data_t *data = pn_disposition_annotations(disposition);
        pn_data_rewind(data);
        ssize_t size = pn_data_encode(data, bytes, sizeof bytes);
        pn_data_rewind(data);
        if (size <= 0)
            return 0;
        said = span_of(bytes, (size_t)size);
    }
    struct reader at = reader_of(said);
    if (!amqp_value_read(&at, &annotations))
        return 0;
    amqp_note_read(&annotations, note);
    return amqp_delay_read(&annotations);
}

static void reason_read(const struct amqp_link *link, pn_disposition_t *disposition,
                        struct buf *note)
{
    struct span detail = link->connection->frames.lean.detail;
    struct reader at = reader_of(detail);
    struct amqp_value value;
    if (detail.size > 0) {
        if (amqp_value_read(&at, &value))
            amqp_error_read(&value, note);
        return;
    }
    pn_condition_t *error = pn_disposition_condition(disposition);
    const char *condition = pn_condition_get_name(error);
    const char *description = pn_condition_get_description(error);
    amqp_reason_read(span_from_text(condition == NULL ? "" : condition),
                     span_from_text(description == NULL ? "" : description), note);
}

static struct consumer_outcome modified(bool failed, bool undeliverable, uint32_t delay_ms)
{
    return (struct consumer_outcome){.outcome = failed ? SETTLE_FAILED : SETTLE_RELEASED,
                                     .away = undeliverable,
                                     .delay_ms = delay_ms};
}

/* Settled without a word, and without one for that at the attach: as if it had never come. */
static struct consumer_outcome unnamed_outcome(const struct amqp_default *unnamed)
{
    switch (unnamed->outcome) {
    case AMQP_OUTCOME_ACCEPTED:
        return (struct consumer_outcome){.outcome = SETTLE_DONE};
    case AMQP_OUTCOME_REJECTED:
        return (struct consumer_outcome){.outcome = SETTLE_REJECTED};
    case AMQP_OUTCOME_MODIFIED:
        return modified(unnamed->failed, unnamed->undeliverable, unnamed->delay_ms);
    case AMQP_OUTCOME_RELEASED:
    case AMQP_OUTCOME_NONE:
        break;
    }
    return (struct consumer_outcome){.outcome = SETTLE_RELEASED};
}

/* False: no outcome yet. note: empty, its bytes are the outcome's. */
static bool outcome_of(const struct amqp_link *link, pn_delivery_t *delivery,
                       struct consumer_outcome *outcome, struct buf *note)
{
    pn_disposition_t *remote = pn_delivery_remote(delivery);
    switch (pn_delivery_remote_state(delivery)) {
    case PN_ACCEPTED:
        *outcome = (struct consumer_outcome){.outcome = SETTLE_DONE};
        return true;
    case PN_REJECTED:
        reason_read(link, remote, note);
        *outcome = (struct consumer_outcome){.outcome = SETTLE_REJECTED, .note = buf_span(note)};
        return true;
    case PN_RELEASED:
        *outcome = (struct consumer_outcome){.outcome = SETTLE_RELEASED};
        return true;
    case PN_MODIFIED:
        *outcome =
            modified(pn_disposition_is_failed(remote), pn_disposition_is_undeliverable(remote),
                     annotations_read(link, remote, note));
        outcome->note = buf_span(note);
        return true;
    default:
        *outcome = unnamed_outcome(&link->unnamed);
        return pn_delivery_settled(delivery);
    }
}

/* What it left with is others' by now. */
static void late_updated(struct amqp_link *link, pn_delivery_t *delivery)
{
    uint64_t state = pn_delivery_remote_state(delivery);
    if (!amqp_is_outcome(state) && state != AMQP_TRANSACTIONAL && !pn_delivery_settled(delivery))
        return;
    amqp_transaction_fail(link->connection, delivery, STATUS_STALE);
    pn_delivery_update(delivery, PN_RELEASED);
    pn_delivery_settle(delivery);
}

static void group_updated(struct amqp_link *link, pn_delivery_t *delivery)
{
    struct consumer_outcome outcome;
    uint32_t slot;
    if (pn_delivery_get_context(delivery) == LATE) {
        late_updated(link, delivery);
        return;
    }
    if (pn_delivery_remote_state(delivery) == AMQP_TRANSACTIONAL) {
        if (slot_get(delivery, &slot)) {
            pn_delivery_set_context(delivery, NULL);
            consumer_bind(link->consumer, slot, NULL);
            amqp_transaction_settle(link, delivery, slot);
        }
        return;
    }
    struct buf note;
    buf_init(&note, LIMIT_GROUP_NOTE_BYTES);
    if (!slot_get(delivery, &slot) || !outcome_of(link, delivery, &outcome, &note))
        return;
    bool answered = !pn_delivery_settled(delivery);
    bool returns = answered && outcome.outcome == SETTLE_RELEASED;
    pn_delivery_set_context(delivery, returns ? RETURNING : NULL);
    link->returning += returns;
    uint64_t token = answered ? (uint64_t)(uintptr_t)delivery : 0;
    consumer_settle_as(link->consumer, slot, &outcome, token);
    buf_deinit(&note);
    if (!answered)
        pn_delivery_settle(delivery);
}

/* What becomes of a delivery is said while it is still being sent. */
static void heard_early(struct amqp_link *link, pn_delivery_t *delivery)
{
    uint64_t state = pn_delivery_remote_state(delivery);
    bool is_over = pn_delivery_settled(delivery);
    if (is_over || (state != 0 && state != PN_RECEIVED))
        amqp_send_no_more(link, delivery, is_over);
}

void amqp_source_updated(struct amqp_link *link, pn_delivery_t *delivery)
{
    pn_delivery_clear(delivery);
    if (link->sending_count > 0)
        heard_early(link, delivery);
    if (link->kind == AMQP_FROM_LOG)
        amqp_browse_settled(link, delivery);
    else if (link->kind == AMQP_FROM_TOPIC)
        amqp_topic_settled(link, delivery);
    else if (link->consumer != NULL)
        group_updated(link, delivery);
}

void amqp_source_flow(struct amqp_link *link)
{
    bool drain = pn_link_get_drain(link->pn);
    link->drains = false; /* who drains is asked again */
    amqp_send_on(link);
    uint32_t credit = amqp_send_credit(link);
    if (link->kind == AMQP_FROM_GROUP && link->consumer != NULL)
        consumer_credit(link->consumer, credit, drain);
    else if (link->kind == AMQP_FROM_LOG)
        amqp_browse_flow(link, credit, drain);
    else if (link->kind == AMQP_FROM_TOPIC)
        amqp_topic_flow(link, drain);
    else if (link->kind == AMQP_FROM_MANAGEMENT)
        amqp_send_drained(link); /* where it is to: no answer waits for anything but credit */
    amqp_wake(link->connection);
}

/* ------------------------------------------------ attach */

/* What one consumer does not want stays for others, who would have to be asked who they are: no
 * filter of a group's, and so it is not in the answer (3.5.1). */
static enum status answer_without_no_local(struct amqp_link *link)
{
    struct err err = {0};
    amqp_filter_deinit(&link->filter);
    link->filter = (struct amqp_filter){.of_group = true};
    return amqp_filter_read(pn_link_remote_source(link->pn), pn_link_source(link->pn),
                            &link->filter, &err);
}

static void consume(struct amqp_link *link, const struct group_spec *group)
{
    enum status status = link->filter.no_local ? answer_without_no_local(link) : STATUS_OK;
    if (status != STATUS_OK) {
        amqp_link_refuse_status(link, status);
        return;
    }
    struct amqp_connection *connection = link->connection;
    const char *name = pn_link_name(link->pn);
    struct consumer_options options = {
        .group = group,
        .selector = link->filter.selector,
        .lease_ms = link->lease_ms,
        .dead = link->dead,
        .name = connection->client.id.size > 0 ? connection->client.id : span_from_text(name),
    };
    link->kind = AMQP_FROM_GROUP;
    link->settles = pn_link_remote_snd_settle_mode(link->pn) == PN_SND_SETTLED;
    link->consumer = consumer_open(&connection->client, &consumer_ops, link, &options);
    amqp_link_accept(link);
    amqp_source_flow(link);
}

struct grouping {
    struct broker_admin admin;
    struct amqp_link *link;
};

static void grouped(struct request *request, enum status status)
{
    struct grouping *grouping = container_of(request, struct grouping, admin.request);
    struct amqp_link *link = grouping->link;
    const struct group_spec *group = NULL;
    if (link->pn != NULL)
        group = catalog_group_by_text(broker_catalog(link->connection->client.worker), link->queue,
                                      span_from_text(link->group));
    if (link->pn != NULL && group != NULL)
        consume(link, group);
    else if (link->pn != NULL)
        amqp_link_refuse_status(link, status == STATUS_OK ? STATUS_INTERNAL : status);
    group_spec_unref(grouping->admin.group);
    heap_free(grouping);
    amqp_link_unref(link);
}

/* A group begins with whoever names it first. */
static void group_make(struct amqp_link *link)
{
    struct grouping *grouping = heap_new(sizeof *grouping);
    grouping->link = link;
    grouping->admin = (struct broker_admin){
        .client = &link->connection->client,
        .action = ADMIN_GROUP_CREATE,
        .name = span_from_text(link->group),
        .id = link->queue,
        .start = GROUP_EARLIEST,
        .by_use = true,
    };
    request_init(&grouping->admin.request, amqp_loop(link->connection), grouped);
    link->refs++;
    broker_administer(&grouping->admin);
}

/* Nothing is taken: to browse, from a position, or since a stream is read so. A group of it that is
 * named is one as of any queue. */
static bool reads_along(struct amqp_link *link, const struct queue *queue)
{
    pn_terminus_t *source = pn_link_remote_source(link->pn);
    bool copies = pn_terminus_get_distribution_mode(source) == PN_DIST_MODE_COPY;
    return copies || link->filter.has_position || amqp_is_plain_stream(link, queue);
}

void amqp_source_from(struct amqp_link *link, const struct queue *queue)
{
    struct client *client = &link->connection->client;
    enum status status = broker_check(client, ACTION_CONSUME, false, span_from_text(queue->name));
    if (status != STATUS_OK) {
        amqp_link_refuse_status(link, status);
        return;
    }
    amqp_queue_join(link, queue);
    const struct group_spec *group = catalog_group_by_text(broker_catalog(client->worker),
                                                           queue->id, span_from_text(link->group));
    if (group == NULL && link->dead)
        amqp_link_refuse_status(link, STATUS_NOT_FOUND);
    else if (reads_along(link, queue))
        amqp_browse_open(link, queue, group, span_of(NULL, 0));
    else if (group == NULL)
        group_make(link);
    else
        consume(link, group);
}

void amqp_source_open(struct amqp_link *link, const struct amqp_address *address)
{
    struct client *client = &link->connection->client;
    struct err err = {0};
    enum status status = amqp_filter_read(pn_link_remote_source(link->pn), pn_link_source(link->pn),
                                          &link->filter, &err);
    if (status == STATUS_OK) {
        status = amqp_lease_read(pn_link_remote_properties(link->pn), &link->lease_ms);
        if (status != STATUS_OK)
            err_set(&err, status, "x-opt-lease is a number of ms, from a second to 12 hours");
    }
    if (status != STATUS_OK) {
        amqp_count_refusal(status);
        amqp_link_refuse(link, amqp_condition_of(status), err.text);
        return;
    }
    if (address->at == AMQP_AT_MANAGEMENT) {
        const char *target = pn_terminus_get_address(pn_link_remote_target(link->pn));
        link->kind = AMQP_FROM_MANAGEMENT;
        link->topic = heap_text(target == NULL ? "" : target, target == NULL ? 0 : strlen(target));
        pn_link_set_snd_settle_mode(link->pn, PN_SND_SETTLED); /* which answers are */
        amqp_link_accept(link);
        return;
    }
    if (address->at == AMQP_AT_TOPIC && link->filter.has_position) {
        amqp_browse_open(link, NULL, NULL, address->topic);
        return;
    }
    if (address->at == AMQP_AT_TOPIC) {
        amqp_topic_open(link, address->topic);
        return;
    }
    link->dead = address->dead;
    link->names_group = address->group.size > 0;
    link->group = address->group.size > 0
                      ? heap_text((const char *)address->group.data, address->group.size)
                      : heap_text(DEFAULT_GROUP, sizeof DEFAULT_GROUP - 1);
    const struct queue *queue =
        catalog_queue_by_text(broker_catalog(client->worker), client->tenant, address->queue);
    if (queue != NULL)
        amqp_source_from(link, queue);
    else if (amqp_makes_queue(address->queue) && !address->dead)
        amqp_queue_make(link, address->queue);
    else
        amqp_link_refuse_status(link, STATUS_NOT_FOUND);
}

void amqp_source_close(struct amqp_link *link)
{
    amqp_send_end(link);
    if (link->kind == AMQP_FROM_TOPIC)
        amqp_topic_close(link);
    consumer_close(link->consumer, true);
    link->consumer = NULL;
    follower_close(link->follower);
    link->follower = NULL;
}
