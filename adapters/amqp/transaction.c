/* SPDX-License-Identifier: Apache-2.0 */
/* Local transactions (part 4 of the standard). What is sent and settled within one is kept until it
 * is discharged. Then the messages are published in one turn, and when all of them are stored, the
 * settlements follow; a failure of the first keeps the second from happening. Records of one
 * partition become durable together; those of several, and the settlements, one after the other.
 *
 *   OPEN --discharge--> PUBLISHING --all stored--> SETTLING --all durable--> gone (accepted)
 *   any --rollback, failure, time, end of the coordinator--> gone (what was settled counts as
 * failed)
 */
#include "adapters/amqp/connection.h"
#include "core/base/pack.h"

enum {
    TRANSACTIONS_MAX = 64,
    TRANSACTION_PARTS_MAX = 10000,
    TRANSACTION_MS = 300000,
    DECLARE = 0x31,
    DISCHARGE = 0x32,
    DECLARED = 0x33,
    STATE_BYTES_MAX = 1024
};

/* A message to be published, or a lease to be settled. */
struct part {
    struct link of_transaction;
    struct amqp_transaction *transaction;
    /* Messages: */
    struct amqp_place place;
    char *topic;
    struct buf bytes;
    /* Settlements: */
    struct amqp_link *link;  /* a reference; NULL: a message */
    pn_delivery_t *delivery; /* still to be settled by us; NULL: the receiver has done it */
    uint32_t slot, delay_ms;
    enum settle_outcome outcome;
    bool asked; /* the settlement is on its way; its token is this part */
};

struct amqp_transaction {
    struct amqp_connection *connection;
    struct link of_connection;
    struct amqp_link *coordinator; /* a reference */
    pn_delivery_t *discharge;      /* to be answered; NULL: none under way */
    uint64_t id;
    struct list parts;
    uint32_t part_count, left; /* left: answers that are still to come */
    size_t bytes;
    enum status failure;
    bool settling;
    struct loop_timer timer;
};

static void timed_out(struct loop_timer *timer);

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

static void part_free(struct part *part)
{
    link_remove(&part->of_transaction);
    if (part->link != NULL)
        amqp_link_unref(part->link);
    buf_deinit(&part->bytes);
    heap_free(part->topic);
    heap_free(part);
}

static void transaction_free(struct amqp_transaction *transaction)
{
    struct link *at;
    while ((at = list_first(&transaction->parts)) != NULL)
        part_free(container_of(at, struct part, of_transaction));
    loop_timer_stop(amqp_loop(transaction->connection), &transaction->timer);
    link_remove(&transaction->of_connection);
    transaction->connection->transaction_count--;
    amqp_link_unref(transaction->coordinator);
    heap_free(transaction);
}

/* What was settled within it was not: it counts as a failed try, and may come again. What the
 * receiver still holds stays with it. */
static void roll_back(struct amqp_transaction *transaction)
{
    list_each(at, &transaction->parts)
    {
        struct part *part = container_of(at, struct part, of_transaction);
        if (part->link == NULL || part->link->consumer == NULL || part->asked)
            continue;
        if (part->delivery == NULL)
            consumer_settle(part->link->consumer, part->slot, SETTLE_FAILED, 0, 0);
        else
            amqp_slot_set(part->delivery, part->slot);
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
    pn_delivery_settle(delivery);
    pn_link_flow(link->pn, 1);
    amqp_wake(link->connection);
}

static void put_id(pn_data_t *data, uint64_t id)
{
    uint8_t bytes[8];
    store_u64(bytes, id);
    pn_data_put_binary(data, pn_bytes(sizeof bytes, (const char *)bytes));
}

static void declare(struct amqp_link *link, pn_delivery_t *delivery)
{
    struct amqp_connection *connection = link->connection;
    if (connection->transaction_count >= TRANSACTIONS_MAX) {
        amqp_count_refusal(STATUS_OVER_QUOTA);
        answer(link, delivery, "amqp:resource-limit-exceeded", "too many transactions");
        return;
    }
    struct amqp_transaction *transaction = heap_new(sizeof *transaction);
    transaction->connection = connection;
    transaction->coordinator = link;
    link->refs++;
    transaction->id = ++connection->transaction_number;
    list_init(&transaction->parts);
    list_push(&connection->transactions, &transaction->of_connection);
    connection->transaction_count++;
    transaction->timer.fired = timed_out;
    loop_timer_start(amqp_loop(connection), &transaction->timer, TRANSACTION_MS);
    pn_data_t *data = pn_disposition_data(pn_delivery_local(delivery));
    pn_data_clear(data);
    pn_data_put_list(data);
    pn_data_enter(data);
    put_id(data, transaction->id);
    pn_data_exit(data);
    pn_delivery_update(delivery, DECLARED);
    pn_delivery_settle(delivery);
    pn_link_flow(link->pn, 1);
    amqp_wake(connection);
}

/* ------------------------------------------------ commit */

static void finish(struct amqp_transaction *transaction)
{
    struct amqp_link *coordinator = transaction->coordinator;
    pn_delivery_t *discharge = transaction->discharge;
    if (transaction->failure == STATUS_OK)
        answer(coordinator, discharge, NULL, NULL);
    else
        answer(coordinator, discharge, "amqp:transaction:rollback",
               status_text(transaction->failure));
    if (transaction->failure == STATUS_OK)
        transaction_free(transaction);
    else
        roll_back(transaction);
}

static void settle_parts(struct amqp_transaction *transaction)
{
    transaction->settling = true;
    transaction->left = 1; /* so that it does not end before all are asked for */
    list_each(at, &transaction->parts)
    {
        struct part *part = container_of(at, struct part, of_transaction);
        if (part->link == NULL)
            continue;
        if (part->link->consumer == NULL) { /* it left meanwhile, and gave its leases back */
            transaction->failure = STATUS_CLOSED;
            continue;
        }
        transaction->left++;
        part->asked = true;
        consumer_settle(part->link->consumer, part->slot, part->outcome, part->delay_ms,
                        (uint64_t)(uintptr_t)part | AMQP_TOKEN_TRANSACTION);
        if (part->delivery != NULL) {
            pn_delivery_update(part->delivery, pn_delivery_remote_state(part->delivery));
            pn_delivery_settle(part->delivery);
            part->delivery = NULL;
        }
    }
    amqp_transaction_answered(transaction, STATUS_OK);
}

void amqp_transaction_answered(struct amqp_transaction *transaction, enum status status)
{
    if (status != STATUS_OK)
        transaction->failure = status;
    if (--transaction->left > 0)
        return;
    if (!transaction->settling && transaction->failure == STATUS_OK)
        settle_parts(transaction);
    else
        finish(transaction);
}

void amqp_transaction_settled(uint64_t token, enum status status)
{
    struct part *part = (struct part *)(uintptr_t)(token & ~(uint64_t)AMQP_TOKEN_TRANSACTION);
    struct amqp_transaction *transaction = part->transaction;
    part_free(part);
    amqp_transaction_answered(transaction, status);
}

void amqp_transactions_leave(struct amqp_link *link)
{
    list_each_safe(at, following, &link->connection->transactions)
    {
        struct amqp_transaction *transaction =
            container_of(at, struct amqp_transaction, of_connection);
        if (!transaction->settling)
            continue;
        transaction->left++; /* so that it does not end within */
        list_each_safe(other, next, &transaction->parts)
        {
            struct part *part = container_of(other, struct part, of_transaction);
            if (part->link != link || !part->asked)
                continue;
            part_free(part);
            transaction->left--;
            transaction->failure = STATUS_CLOSED;
        }
        amqp_transaction_answered(transaction, STATUS_OK);
    }
}

/* A link that has gone has given its leases back, so nothing can be settled through it. */
static bool has_all_links(const struct amqp_transaction *transaction)
{
    list_each(at, &transaction->parts)
    {
        const struct part *part = container_of(at, struct part, of_transaction);
        if (part->link != NULL && part->link->consumer == NULL)
            return false;
    }
    return true;
}

static void commit(struct amqp_transaction *transaction)
{
    transaction->left = 1;
    loop_timer_stop(amqp_loop(transaction->connection), &transaction->timer);
    if (!has_all_links(transaction))
        transaction->failure = STATUS_CLOSED;
    list_each(at, &transaction->parts)
    {
        struct part *part = container_of(at, struct part, of_transaction);
        if (part->link != NULL || transaction->failure != STATUS_OK)
            continue;
        transaction->left++;
        amqp_publish_part(transaction->connection, &part->place, buf_span(&part->bytes),
                          transaction);
    }
    amqp_transaction_answered(transaction, STATUS_OK);
}

static void discharge(struct amqp_link *link, pn_delivery_t *delivery, struct span id, bool fail)
{
    struct amqp_transaction *transaction = transaction_by_id(link->connection, id);
    if (transaction == NULL) {
        answer(link, delivery, "amqp:transaction:unknown-id", "there is no such transaction");
    } else if (fail) {
        roll_back(transaction);
        answer(link, delivery, NULL, NULL);
    } else {
        transaction->discharge = delivery;
        commit(transaction);
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
        {DECLARE, "amqp:declare:list"},      {DISCHARGE, "amqp:discharge:list"},
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
    if (wanted == DECLARE) {
        declare(link, delivery);
    } else if (wanted == DISCHARGE && id.type == AMQP_BINARY) {
        discharge(link, delivery, id.bytes, fail.type == AMQP_BOOLEAN && fail.number != 0);
    } else {
        amqp_count_refusal(STATUS_MALFORMED);
        answer(link, delivery, "amqp:decode-error", "declare or discharge is expected");
    }
}

static void timed_out(struct loop_timer *timer)
{
    roll_back(container_of(timer, struct amqp_transaction, timer));
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

void amqp_transactions_free(struct amqp_connection *connection)
{
    list_each_safe(at, following, &connection->transactions)
        transaction_free(container_of(at, struct amqp_transaction, of_connection));
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

/* The outcome's code and its first two fields, which modified has. */
static unsigned outcome_read(const struct amqp_value *outcome, bool flags[2])
{
    struct reader at = reader_of(outcome->bytes);
    struct amqp_value descriptor, list, field;
    flags[0] = flags[1] = false;
    if (outcome->type != AMQP_DESCRIBED || !amqp_value_read(&at, &descriptor) ||
        !amqp_value_read(&at, &list) || list.type != AMQP_LIST)
        return 0;
    at = reader_of(list.bytes);
    for (uint32_t i = 0; i < 2 && i < list.count && amqp_value_read(&at, &field); i++)
        flags[i] = field.type == AMQP_BOOLEAN && field.number != 0;
    return descriptor_of(&descriptor);
}

static struct part *part_new(struct amqp_transaction *transaction)
{
    if (transaction->part_count >= TRANSACTION_PARTS_MAX)
        return NULL;
    struct part *part = heap_new(sizeof *part);
    part->transaction = transaction;
    buf_init(&part->bytes, LIMIT_RECORD_BYTES);
    list_push(&transaction->parts, &part->of_transaction);
    transaction->part_count++;
    return part;
}

/* Of the messages in all transactions. */
static size_t bytes_kept(const struct amqp_connection *connection)
{
    size_t bytes = 0;
    list_each(at, &connection->transactions)
    {
        bytes += container_of(at, struct amqp_transaction, of_connection)->bytes;
    }
    return bytes;
}

/* OK: kept, and the sender is told that it is accepted within the transaction. */
enum status amqp_transaction_send(struct amqp_link *link, pn_delivery_t *delivery,
                                  const struct amqp_place *place, struct span bytes,
                                  struct err *err)
{
    struct amqp_connection *connection = link->connection;
    char state[STATE_BYTES_MAX];
    struct amqp_value id, outcome;
    struct amqp_transaction *transaction = NULL;
    if (state_read(pn_delivery_remote(delivery), state, &id, &outcome))
        transaction = transaction_by_id(connection, id.bytes);
    if (transaction == NULL)
        return err_set(err, STATUS_NOT_FOUND, "there is no such transaction");
    struct part *part =
        bytes_kept(connection) + bytes.size > LIMIT_CLIENT_IN_BYTES ? NULL : part_new(transaction);
    if (part == NULL)
        return err_set(err, STATUS_OVER_QUOTA, "the transaction is too large");
    transaction->bytes += bytes.size;
    part->place = *place;
    if (place->topic != NULL)
        part->place.topic = part->topic = heap_text(place->topic, strlen(place->topic));
    buf_append(&part->bytes, bytes.data, bytes.size);
    if (pn_delivery_settled(delivery))
        return STATUS_OK;
    pn_data_t *data = pn_disposition_data(pn_delivery_local(delivery));
    pn_data_clear(data);
    pn_data_put_list(data);
    pn_data_enter(data);
    put_id(data, transaction->id);
    pn_data_put_described(data);
    pn_data_enter(data);
    pn_data_put_ulong(data, PN_ACCEPTED);
    pn_data_put_list(data);
    pn_data_exit(data);
    pn_data_exit(data);
    pn_delivery_update(delivery, AMQP_TRANSACTIONAL);
    return STATUS_OK;
}

void amqp_transaction_settle(struct amqp_link *link, pn_delivery_t *delivery, uint32_t slot)
{
    char state[STATE_BYTES_MAX];
    struct amqp_value id, outcome;
    bool flags[2];
    struct amqp_transaction *transaction = NULL;
    if (state_read(pn_delivery_remote(delivery), state, &id, &outcome))
        transaction = transaction_by_id(link->connection, id.bytes);
    struct part *part = transaction == NULL ? NULL : part_new(transaction);
    if (part == NULL) {
        amqp_count_refusal(STATUS_NOT_FOUND);
        amqp_link_refuse(link, "amqp:transaction:unknown-id", "there is no such transaction");
        return;
    }
    part->link = link;
    link->refs++;
    part->slot = slot;
    part->delivery = pn_delivery_settled(delivery) ? NULL : delivery;
    switch (outcome_read(&outcome, flags)) {
    case PN_ACCEPTED:
        part->outcome = SETTLE_DONE;
        break;
    case PN_REJECTED:
        part->outcome = SETTLE_REJECTED;
        break;
    case PN_MODIFIED:
        part->outcome = flags[0] || flags[1] ? SETTLE_FAILED : SETTLE_RELEASED;
        break;
    default:
        part->outcome = SETTLE_RELEASED;
    }
    if (part->delivery == NULL)
        pn_delivery_settle(delivery);
}
