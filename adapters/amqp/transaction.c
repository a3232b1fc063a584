/* SPDX-License-Identifier: Apache-2.0 */
/* Local transactions (part 4 of the standard): the coordinator's requests, and which deliveries of
 * sources take part. What is sent and settled within one is the broker's, which commits it as a
 * whole.
 *
 *   OPEN --discharge--> COMMITTING --> gone (accepted, or rejected and rolled back; no answer, but
 * the end of the connection when nobody knows)
 *   OPEN --discharge with fail, time, end of the coordinator--> gone (rolled back: what the
 * receiver had settled counts as failed)
 */
#include "adapters/amqp/transaction.h"
#include "adapters/amqp/connection.h"
#include "adapters/amqp/link.h"
#include "adapters/amqp/source.h"
#include "adapters/amqp/subscriber.h"
#include "adapters/amqp/target.h"
#include "adapters/amqp/topic.h"
#include "adapters/amqp/view.h"
#include "core/base/blob.h"
#include "core/base/heap.h"
#include "core/base/limits.h"
#include "core/base/pack.h"
#include "core/broker/consume.h"

/* A state comes in one frame, and Proton may write it a little longer. */
enum { STATE_BYTES_MAX = AMQP_STATE_ANEW };

/* A delivery that the transaction settles. */
struct settlement {
    struct link of_transaction;
    struct amqp_link *link;  /* a reference */
    pn_delivery_t *delivery; /* still to be settled by us; NULL: the receiver has done it */
    unsigned outcome;        /* its code; 0: none was named */
    bool of_topic;
    bool held; /* of a topic: a session or share has it, so that it may go elsewhere */
    union {
        uint32_t slot; /* of a lease */
        struct amqp_topic_delivery topic;
    };
};

struct amqp_transaction {
    struct broker_transaction broker;
    struct amqp_connection *connection;
    struct link of_connection;
    struct amqp_link *coordinator; /* a reference; from the discharge on, the one that brought it */
    pn_delivery_t *discharge;      /* to be answered; NULL: none under way */
    uint64_t id;
    struct list settlements;
};

static struct amqp_transaction *transaction_by_id(struct amqp_connection *connection,
                                                  struct span id)
{
    if (id.size != sizeof(uint64_t))
        return NULL;
    uint64_t number = load_u64(id.data);
    list_each(at, &connection->transactions)
    {
        struct amqp_transaction *transaction =
            container_of(at, struct amqp_transaction, of_connection);
        if (transaction->id == number && transaction->discharge == NULL)
            return transaction;
    }
    return NULL;
}

/* The last ones of a connection that came to no discharge in time: whoever still names one is told.
 */
struct amqp_overdue {
    uint64_t ids[LIMIT_TRANSACTIONS];
    uint32_t next;
};

static void remember_overdue(struct amqp_connection *connection, uint64_t id)
{
    if (connection->overdue == NULL)
        connection->overdue = heap_new(sizeof *connection->overdue);
    struct amqp_overdue *overdue = connection->overdue;
    overdue->ids[overdue->next] = id;
    overdue->next = (overdue->next + 1) % LIMIT_TRANSACTIONS;
}

/* Why there is none of that id (part 4, 4.5.8). */
static const char *condition_without(const struct amqp_connection *connection, struct span id)
{
    const struct amqp_overdue *overdue = connection->overdue;
    for (uint32_t i = 0; overdue != NULL && id.size == sizeof(uint64_t) && i < LIMIT_TRANSACTIONS;
         i++)
        if (overdue->ids[i] == load_u64(id.data) && overdue->ids[i] != 0) /* the first one is 1 */
            return "amqp:transaction:timeout";
    return "amqp:transaction:unknown-id";
}

static const char there_is_none[] = "there is no such transaction, or no more";

static void transaction_free(struct amqp_transaction *transaction)
{
    struct link *at;
    while ((at = list_pop(&transaction->settlements)) != NULL) {
        struct settlement *settlement = container_of(at, struct settlement, of_transaction);
        amqp_link_unref(settlement->link);
        heap_free(settlement);
    }
    link_remove(&transaction->of_connection);
    amqp_link_unref(transaction->coordinator);
    heap_free(transaction);
}

static bool is_settled(const struct settlement *settlement)
{
    return settlement->delivery == NULL || pn_delivery_settled(settlement->delivery);
}

/* False: it stays with the receiver. */
static bool give_back_one(const struct settlement *settlement, enum settle_outcome outcome)
{
    struct amqp_link *link = settlement->link;
    if (settlement->of_topic && is_settled(settlement))
        amqp_topic_return(link, &settlement->topic, outcome == SETTLE_FAILED);
    else if (settlement->of_topic)
        amqp_number_set(settlement->delivery, settlement->topic.number);
    else if (is_settled(settlement))
        consumer_settle(link->consumer, settlement->slot, outcome, 0, 0);
    else
        amqp_slot_set(settlement->delivery, settlement->slot);
    return is_settled(settlement);
}

/* What its link had, others have; and so it will be when the connection goes. */
static bool has_left(const struct settlement *settlement)
{
    const struct amqp_link *link = settlement->link;
    return settlement->of_topic ? link->subscriber == NULL || link->connection->state != AMQP_UP
                                : link->consumer == NULL;
}

/* What was settled within it was not: what the receiver still holds stays with it, the rest may
 * come again; tried: that counts as a failed try, unless the connection was lost. A link that has
 * gone has given its leases back. */
static void give_back(struct amqp_transaction *transaction, bool tried)
{
    enum settle_outcome outcome =
        tried && transaction->connection->state == AMQP_UP ? SETTLE_FAILED : SETTLE_RELEASED;
    list_each(at, &transaction->settlements)
    {
        const struct settlement *settlement = container_of(at, struct settlement, of_transaction);
        pn_delivery_t *delivery = settlement->delivery;
        if (has_left(settlement) || !give_back_one(settlement, outcome))
            continue;
        if (delivery != NULL) /* it was settled behind the state that took part */
            pn_delivery_settle(delivery);
    }
    transaction_free(transaction);
}

static void roll_back(struct amqp_transaction *transaction)
{
    broker_roll_back(&transaction->broker);
    give_back(transaction, true);
}

static void put_id(pn_data_t *data, uint64_t id)
{
    uint8_t bytes[8];
    store_u64(bytes, id);
    pn_data_put_binary(data, pn_bytes(sizeof bytes, (const char *)bytes));
}

/* transactional-state: this outcome, within the transaction. */
static void put_state(const struct amqp_transaction *transaction, pn_delivery_t *delivery,
                      unsigned outcome)
{
    pn_data_t *data = pn_disposition_data(pn_delivery_local(delivery));
    pn_data_clear(data);
    pn_data_put_list(data);
    pn_data_enter(data);
    put_id(data, transaction->id);
    if (outcome != 0) {
        pn_data_put_described(data);
        pn_data_enter(data);
        pn_data_put_ulong(data, outcome);
        pn_data_put_list(data);
        pn_data_exit(data);
    }
    pn_data_exit(data);
    pn_delivery_update(delivery, AMQP_TRANSACTIONAL);
}

/* All of it is durable. */
static void take(struct amqp_transaction *transaction)
{
    list_each(at, &transaction->settlements)
    {
        const struct settlement *settlement = container_of(at, struct settlement, of_transaction);
        if (has_left(settlement))
            continue;
        if (settlement->of_topic)
            amqp_topic_over(settlement->link, &settlement->topic, true);
        else
            consumer_forget(settlement->link->consumer, settlement->slot);
        if (settlement->delivery != NULL) {
            put_state(transaction, settlement->delivery, settlement->outcome);
            pn_delivery_settle(settlement->delivery);
        }
    }
    transaction_free(transaction);
}

/* ------------------------------------------------ answers of the coordinator */

static void answer(struct amqp_link *link, pn_delivery_t *delivery, const char *condition,
                   const char *text)
{
    if (link->pn == NULL)
        return;
    if (condition == NULL) {
        pn_delivery_update(delivery, PN_ACCEPTED);
    } else {
        pn_condition_t *error = pn_disposition_condition(pn_delivery_local(delivery));
        pn_condition_set_name(error, condition);
        pn_condition_set_description(error, text);
        pn_delivery_update(delivery, PN_REJECTED);
    }
    amqp_let_go(link, delivery);
}

/* The commit has ended, or there was none in time. A refusal says that nothing is there; after a
 * failure of storage nobody knows, so that the connection ends without one. What stood in the way
 * for a while is no fault of the messages. */
static void done(struct request *request, enum status status)
{
    struct amqp_transaction *transaction =
        container_of(request, struct amqp_transaction, broker.request);
    if (transaction->discharge == NULL) {
        remember_overdue(transaction->connection, transaction->id);
        give_back(transaction, true);
    } else if (status == STATUS_OK) {
        answer(transaction->coordinator, transaction->discharge, NULL, NULL);
        take(transaction);
    } else if (status == STATUS_STORAGE_FAILED) {
        amqp_end(transaction->connection, amqp_condition_of(status), status_text(status));
        give_back(transaction, false);
    } else {
        answer(transaction->coordinator, transaction->discharge, "amqp:transaction:rollback",
               status_text(status));
        give_back(transaction, !status_is_retriable(status));
    }
}

static void declare(struct amqp_link *link, pn_delivery_t *delivery)
{
    struct amqp_connection *connection = link->connection;
    struct amqp_transaction *transaction = heap_new(sizeof *transaction);
    transaction->broker.client = &connection->client;
    request_init(&transaction->broker.request, amqp_loop(connection), done);
    if (broker_begin(&transaction->broker) != STATUS_OK) {
        heap_free(transaction);
        amqp_count_refusal(STATUS_OVER_QUOTA);
        answer(link, delivery, "amqp:resource-limit-exceeded", "too many transactions");
        return;
    }
    transaction->connection = connection;
    transaction->coordinator = link;
    link->refs++;
    transaction->id = ++connection->transaction_number;
    list_init(&transaction->settlements);
    list_push(&connection->transactions, &transaction->of_connection);
    pn_data_t *data = pn_disposition_data(pn_delivery_local(delivery));
    pn_data_clear(data);
    pn_data_put_list(data);
    pn_data_enter(data);
    put_id(data, transaction->id);
    pn_data_exit(data);
    pn_delivery_update(delivery, AMQP_DECLARED);
    amqp_let_go(link, delivery);
}

/* What sessions and shares have becomes part of the commit; what went with its link has gone to
 * others. */
static void add_kept(struct amqp_transaction *transaction)
{
    list_each(at, &transaction->settlements)
    {
        const struct settlement *settlement = container_of(at, struct settlement, of_transaction);
        const struct amqp_subscriber *subscriber = settlement->link->subscriber;
        if (!settlement->of_topic || !settlement->held)
            continue;
        if (subscriber == NULL)
            broker_refuse_within(&transaction->broker, STATUS_STALE);
        else if (settlement->topic.again)
            continue; /* it stays with who has it, and goes elsewhere then */
        else if (subscriber->shared != NULL)
            broker_settle_shared_within(&transaction->broker, subscriber->shared,
                                        settlement->topic.number);
        else
            broker_settle_kept_within(&transaction->broker, &subscriber->client,
                                      settlement->topic.number);
    }
}

static void discharge(struct amqp_link *link, pn_delivery_t *delivery, struct span id, bool fail)
{
    struct amqp_transaction *transaction = transaction_by_id(link->connection, id);
    if (transaction == NULL) {
        answer(link, delivery, condition_without(link->connection, id), there_is_none);
    } else if (fail) {
        roll_back(transaction);
        answer(link, delivery, NULL, NULL);
    } else {
        /* The answer is for the link that has asked, which need not be the one that declared it. */
        link->refs++;
        amqp_link_unref(transaction->coordinator);
        transaction->coordinator = link;
        transaction->discharge = delivery;
        add_kept(transaction);
        broker_commit(&transaction->broker);
    }
}

/* Descriptors may be numbers or names. */
static unsigned descriptor_of(const struct amqp_value *descriptor)
{
    static const struct {
        unsigned code;
        const char *name;
    } names[] = {
        {PN_ACCEPTED, "amqp:accepted:list"}, {PN_REJECTED, "amqp:rejected:list"},
        {PN_RELEASED, "amqp:released:list"}, {PN_MODIFIED, "amqp:modified:list"},
        {AMQP_DECLARE, "amqp:declare:list"}, {AMQP_DISCHARGE, "amqp:discharge:list"},
    };
    if (descriptor->type == AMQP_ULONG)
        return descriptor->number > UINT8_MAX ? 0 : (unsigned)descriptor->number;
    for (size_t i = 0; descriptor->type == AMQP_SYMBOL && i < sizeof names / sizeof *names; i++)
        if (span_is(descriptor->bytes, names[i].name))
            return names[i].code;
    return 0;
}

/* The body is a described list: declare, or discharge with id and whether it failed. */
void amqp_coordinate(struct amqp_link *link, pn_delivery_t *delivery, struct span bytes)
{
    struct amqp_message message;
    struct amqp_value descriptor, list, id = {.type = AMQP_NULL}, fail = {.type = AMQP_NULL};
    bool read = amqp_message_read(bytes, &message) == STATUS_OK &&
                message.body_kind == AMQP_SECTION_VALUE && message.value.type == AMQP_DESCRIBED;
    if (read) {
        struct reader at = reader_of(message.value.bytes);
        read = amqp_value_read(&at, &descriptor) && amqp_value_read(&at, &list) &&
               list.type == AMQP_LIST;
    }
    unsigned wanted = read ? descriptor_of(&descriptor) : 0;
    if (read && list.count > 0) {
        struct reader at = reader_of(list.bytes);
        amqp_value_read(&at, &id);
        if (list.count > 1)
            amqp_value_read(&at, &fail);
    }
    if (wanted == AMQP_DECLARE && id.type != AMQP_NULL) {
        amqp_count_refusal(STATUS_UNSUPPORTED);
        answer(link, delivery, "amqp:not-implemented", "a global-id: transactions are local");
    } else if (wanted == AMQP_DECLARE) {
        declare(link, delivery);
    } else if (wanted == AMQP_DISCHARGE && id.type == AMQP_BINARY) {
        discharge(link, delivery, id.bytes, fail.type == AMQP_BOOLEAN && fail.number != 0);
    } else {
        amqp_count_refusal(STATUS_MALFORMED);
        answer(link, delivery, "amqp:decode-error", "declare or discharge is expected");
    }
}

/* A commit under way goes on; its answer then reaches nobody. */
void amqp_coordinator_close(struct amqp_link *link)
{
    list_each_safe(at, following, &link->connection->transactions)
    {
        struct amqp_transaction *transaction =
            container_of(at, struct amqp_transaction, of_connection);
        if (transaction->coordinator == link && transaction->discharge == NULL)
            roll_back(transaction);
    }
}

/* ------------------------------------------------ within a transaction */

/* transactional-state: id, outcome. False: it is not one. */
static bool state_read(pn_disposition_t *disposition, char bytes[STATE_BYTES_MAX],
                       struct amqp_value *id, struct amqp_value *outcome)
{
    pn_data_t *data = pn_disposition_data(disposition);
    struct amqp_value list;
    pn_data_rewind(data);
    ssize_t size = pn_data_encode(data, bytes, STATE_BYTES_MAX);
    pn_data_rewind(data);
    if (size <= 0)
        return false;
    struct reader at = reader_of(span_of(bytes, (size_t)size));
    if (!amqp_value_read(&at, &list) || list.type != AMQP_LIST || list.count < 1)
        return false;
    at = reader_of(list.bytes);
    *outcome = (struct amqp_value){.type = AMQP_NULL};
    if (!amqp_value_read(&at, id) || id->type != AMQP_BINARY)
        return false;
    return list.count < 2 || amqp_value_read(&at, outcome);
}

struct outcome {
    unsigned code; /* 0: none was named */
    /* Of modified: */
    bool failed, undeliverable;
    uint32_t delay_ms;
};

/* What goes with it: an error, or annotations. */
static void detail_read(struct outcome *outcome, const struct amqp_value *detail, struct buf *note)
{
    if (outcome->code == PN_REJECTED) {
        amqp_error_read(detail, note);
    } else if (detail->type == AMQP_MAP) {
        outcome->delay_ms = amqp_delay_read(detail);
        amqp_note_read(detail, note);
    }
}

/* detail: where that is not in the value (lean.h); note: empty, its bytes are what goes with the
 * record. */
static struct outcome outcome_read(const struct amqp_value *value, struct span detail,
                                   struct buf *note)
{
    struct reader at = reader_of(value->bytes);
    struct amqp_value descriptor, list, field;
    struct outcome outcome = {0};
    if (value->type != AMQP_DESCRIBED || !amqp_value_read(&at, &descriptor) ||
        !amqp_value_read(&at, &list) || list.type != AMQP_LIST)
        return outcome;
    outcome.code = descriptor_of(&descriptor);
    bool is_modified = outcome.code == PN_MODIFIED;
    if (!is_modified && outcome.code != PN_REJECTED)
        return outcome;
    at = reader_of(list.bytes);
    for (uint32_t i = 0; i < list.count && amqp_value_read(&at, &field); i++) {
        bool set = field.type == AMQP_BOOLEAN && field.number != 0;
        if (is_modified && i == 0)
            outcome.failed = set;
        else if (is_modified && i == 1)
            outcome.undeliverable = set;
        else if (i == (is_modified ? 2 : 0))
            detail_read(&outcome, &field, note);
    }
    at = reader_of(detail);
    if (detail.size > 0 && amqp_value_read(&at, &field))
        detail_read(&outcome, &field, note);
    return outcome;
}

/* What the receiver's attach says of those without one. */
static struct outcome outcome_unnamed(const struct amqp_default *unnamed)
{
    return (struct outcome){.code = (unsigned)unnamed->outcome,
                            .failed = unnamed->failed,
                            .undeliverable = unnamed->undeliverable,
                            .delay_ms = unnamed->delay_ms};
}

/* NULL: there is no such transaction, of which condition says why. */
static struct amqp_transaction *transaction_of(struct amqp_connection *connection,
                                               pn_delivery_t *delivery, const char **condition)
{
    char state[STATE_BYTES_MAX];
    struct amqp_value id, outcome;
    bool is_named = state_read(pn_delivery_remote(delivery), state, &id, &outcome);
    *condition = condition_without(connection, is_named ? id.bytes : span_of("", 0));
    return is_named ? transaction_by_id(connection, id.bytes) : NULL;
}

void amqp_transaction_fail(struct amqp_connection *connection, pn_delivery_t *delivery,
                           enum status why)
{
    bool within = pn_delivery_remote_state(delivery) == AMQP_TRANSACTIONAL;
    const char *condition;
    struct amqp_transaction *transaction =
        within ? transaction_of(connection, delivery, &condition) : NULL;
    if (transaction != NULL)
        broker_refuse_within(&transaction->broker, why);
}

struct broker_transaction *amqp_transaction_named(struct amqp_link *link, pn_delivery_t *delivery,
                                                  const char **condition, struct err *err)
{
    struct amqp_transaction *transaction = transaction_of(link->connection, delivery, condition);
    if (transaction != NULL)
        return &transaction->broker;
    amqp_count_refusal(STATUS_NOT_FOUND);
    err_set(err, STATUS_NOT_FOUND, there_is_none);
    return NULL;
}

void amqp_transaction_sent(struct broker_transaction *within, pn_delivery_t *delivery)
{
    if (!pn_delivery_settled(delivery))
        put_state(container_of(within, struct amqp_transaction, broker), delivery, PN_ACCEPTED);
}

static enum settle_outcome settled_as(const struct outcome *outcome)
{
    switch (outcome->code) {
    case PN_ACCEPTED:
        return SETTLE_DONE;
    case PN_REJECTED:
        return SETTLE_REJECTED;
    case PN_MODIFIED:
        return outcome->failed ? SETTLE_FAILED : SETTLE_RELEASED;
    default:
        return SETTLE_RELEASED;
    }
}

/* The transaction that the receiver has settled the delivery in; NULL: there is none, and the link
 * has been refused. */
static struct amqp_transaction *settled_in(struct amqp_link *link, pn_delivery_t *delivery,
                                           struct outcome *outcome, struct buf *note)
{
    char state[STATE_BYTES_MAX];
    struct amqp_value id = {.type = AMQP_NULL}, value;
    struct amqp_transaction *transaction = NULL;
    if (state_read(pn_delivery_remote(delivery), state, &id, &value)) {
        transaction = transaction_by_id(link->connection, id.bytes);
        *outcome = outcome_read(&value, link->connection->frames.lean.detail, note);
        if (!amqp_is_outcome(outcome->code))
            *outcome = outcome_unnamed(&link->unnamed);
    }
    if (transaction == NULL) {
        amqp_count_refusal(STATUS_NOT_FOUND);
        amqp_link_refuse(link, condition_without(link->connection, id.bytes), there_is_none);
    }
    return transaction;
}

static struct settlement *settlement_new(struct amqp_transaction *transaction,
                                         struct amqp_link *link, pn_delivery_t *delivery,
                                         unsigned outcome)
{
    struct settlement *settlement = heap_new(sizeof *settlement);
    settlement->link = link;
    link->refs++;
    settlement->outcome = outcome;
    settlement->delivery = pn_delivery_settled(delivery) ? NULL : delivery;
    list_push(&transaction->settlements, &settlement->of_transaction);
    return settlement;
}

static enum status settle_within(struct amqp_transaction *transaction, struct amqp_link *link,
                                 uint32_t slot, const struct outcome *outcome, struct span note)
{
    const struct unit_settlement settlement = {
        .receipt = *consumer_lease(link->consumer, slot),
        .outcome = settled_as(outcome),
        .delay_ms = outcome->delay_ms,
        .not_for = outcome->undeliverable ? consumer_taker(link->consumer) : NULL,
        .note = note.size == 0 ? NULL : blob_copy(note),
    };
    enum status status = broker_settle_within(&transaction->broker, &settlement);
    blob_unref(settlement.note);
    return status;
}

void amqp_transaction_settle(struct amqp_link *link, pn_delivery_t *delivery, uint32_t slot)
{
    struct outcome outcome;
    struct buf note;
    buf_init(&note, LIMIT_GROUP_NOTE_BYTES);
    struct amqp_transaction *transaction = settled_in(link, delivery, &outcome, &note);
    enum status status = transaction == NULL
                             ? STATUS_OK
                             : settle_within(transaction, link, slot, &outcome, buf_span(&note));
    buf_deinit(&note);
    if (transaction == NULL)
        return;
    if (status != STATUS_OK) {
        amqp_link_refuse_status(link, status);
        return;
    }
    struct settlement *settlement = settlement_new(transaction, link, delivery, outcome.code);
    settlement->slot = slot;
    if (settlement->delivery == NULL)
        pn_delivery_settle(delivery);
}

void amqp_transaction_settle_topic(struct amqp_link *link, pn_delivery_t *delivery,
                                   struct amqp_topic_delivery *topic)
{
    struct outcome outcome;
    struct buf note; /* nothing of a topic's is remembered */
    buf_init(&note, LIMIT_GROUP_NOTE_BYTES);
    struct amqp_transaction *transaction = settled_in(link, delivery, &outcome, &note);
    buf_deinit(&note);
    if (transaction == NULL)
        return;
    enum status status = broker_part_within(&transaction->broker, sizeof(struct settlement));
    if (status != STATUS_OK) {
        amqp_link_refuse_status(link, status);
        return;
    }
    amqp_topic_outcome(topic, outcome.code, outcome.failed, outcome.undeliverable);
    struct settlement *settlement = settlement_new(transaction, link, delivery, outcome.code);
    settlement->of_topic = true;
    settlement->held = link->subscriber->shared != NULL || topic->number != 0;
    settlement->topic = *topic;
    if (settlement->delivery == NULL)
        pn_delivery_settle(delivery);
}
