/* SPDX-License-Identifier: Apache-2.0 */
/* What came whole on its way to the broker: one message, or a batch of Azure's clients, whose
 * messages are stored together or not at all and have the one outcome of their delivery. A batch is
 * no message itself: what its own sections say its clients take from the first one. */
#include "adapters/amqp/publish.h"
#include "adapters/amqp/address.h"
#include "adapters/amqp/connection.h"
#include "adapters/amqp/link.h"
#include "adapters/amqp/resume.h"
#include "adapters/amqp/target.h"
#include "adapters/amqp/transaction.h"
#include "adapters/amqp/view.h"
#include "core/base/limits.h"

enum { ARENA_MAX = 3 * LIMIT_RECORD_BYTES /* for one message */ };

/* ------------------------------------------------ which messages there are */

struct messages {
    bool is_batch;
    struct span alone;  /* the message, where it is none, until it has been taken */
    struct reader body; /* of a batch, what is left of it */
    uint32_t count;     /* that were taken */
};

static enum status messages_read(const struct amqp_link *link, struct span bytes,
                                 struct messages *messages, struct err *err)
{
    struct amqp_message batch;
    *messages = (struct messages){.alone = bytes};
    if (link->format == AMQP_FORMAT_MESSAGE)
        return STATUS_OK;
    if (link->format != AMQP_FORMAT_BATCH)
        return err_set(err, STATUS_UNSUPPORTED, "message-format is 0, or 0x80013700 of a batch");
    if (amqp_message_read(bytes, &batch) != STATUS_OK || batch.body_count == 0 ||
        batch.body_kind != AMQP_SECTION_DATA)
        return err_set(err, STATUS_MALFORMED, "a batch has a message in each data section");
    if (batch.body_count > LIMIT_UNIT_MESSAGES)
        return err_set(err, STATUS_TOO_LARGE, "a batch has at most %u messages",
                       LIMIT_UNIT_MESSAGES);
    messages->is_batch = true;
    messages->body = reader_of(batch.body);
    return STATUS_OK;
}

static bool messages_next(struct messages *messages, struct span *message)
{
    struct amqp_value value;
    struct span raw;
    bool is_there =
        messages->is_batch ? amqp_body_next(&messages->body, &value, &raw) : messages->count == 0;
    if (is_there)
        *message = messages->is_batch ? value.bytes : messages->alone;
    messages->count += is_there;
    return is_there;
}

/* ------------------------------------------------ where they go */

/* Where the message goes; the relay's says it itself. */
static enum status find_destination(const struct amqp_link *link, struct span to,
                                    struct publish *publish)
{
    const struct client *client = &link->connection->client;
    const struct catalog *catalog = broker_catalog(client->worker);
    struct amqp_address address = {.at = AMQP_AT_NOTHING};
    switch (link->kind) {
    case AMQP_TO_QUEUE:
        publish->queue = catalog_queue(catalog, link->queue);
        return publish->queue == NULL ? STATUS_NOT_FOUND : STATUS_OK;
    case AMQP_TO_TOPIC:
        publish->topic = span_from_text(link->topic);
        return STATUS_OK;
    default:
        break;
    }
    if (to.size == 0 || !amqp_address_parse(to, false, &address) || address.group.size > 0)
        return STATUS_NOT_FOUND;
    publish->topic = address.topic;
    if (address.at == AMQP_AT_QUEUE)
        publish->queue = catalog_queue_by_text(catalog, client->tenant, address.queue);
    if (address.at == AMQP_AT_TOPIC || publish->queue != NULL)
        return STATUS_OK;
    return link->unmade == STATUS_OK ? STATUS_NOT_FOUND : link->unmade;
}

/* Its message names a queue that there is not, and that is made then. */
static bool makes_queue(struct amqp_link *link, struct span bytes)
{
    const struct client *client = &link->connection->client;
    struct amqp_message message;
    struct amqp_address address;
    if (amqp_message_read(bytes, &message) != STATUS_OK ||
        !amqp_address_parse(message.properties[AMQP_TO].bytes, false, &address) ||
        address.at != AMQP_AT_QUEUE || address.group.size > 0 || !amqp_makes_queue(address.queue) ||
        catalog_queue_by_text(broker_catalog(client->worker), client->tenant, address.queue) !=
            NULL)
        return false;
    amqp_queue_make(link, address.queue);
    return true;
}

bool amqp_publish_waits(struct amqp_link *link, struct span bytes)
{
    struct messages messages;
    struct span message;
    if (link->kind != AMQP_TO_ANYWHERE || !amqp_settings.auto_create || link->unmade != STATUS_OK ||
        messages_read(link, bytes, &messages, NULL) != STATUS_OK)
        return false;
    while (messages_next(&messages, &message)) {
        if (messages.count <= link->looked)
            continue;
        link->looked = messages.count;
        if (makes_queue(link, message))
            return true;
    }
    return false;
}

/* A topic or a queue decides what becomes of the property `to`, so the destination is known before
 * the rest of the message is read; the relay reads it twice. */
static enum status read_message(const struct amqp_link *link, struct arena *arena,
                                struct span bytes, struct publish *publish, struct err *err)
{
    struct span to = {0};
    if (link->kind == AMQP_TO_ANYWHERE) {
        struct amqp_message message;
        if (amqp_message_read(bytes, &message) != STATUS_OK)
            return err_set(err, STATUS_MALFORMED, "the message cannot be decoded");
        to = message.properties[AMQP_TO].bytes;
    }
    enum status status = find_destination(link, to, publish);
    if (status != STATUS_OK)
        return err_set(err, status, "there is no such node");
    return amqp_view_read(arena, bytes, publish, &to, err);
}

/* ------------------------------------------------ to the broker */

/* A part of a transaction, or of a unit; what it refuses it has counted. */
typedef enum status add_message(void *to, const struct publish *publish);

static enum status add_to_unit(void *unit, const struct publish *publish)
{
    return broker_unit_add(unit, publish);
}

static enum status add_to_transaction(void *transaction, const struct publish *publish)
{
    return broker_publish_within(transaction, publish);
}

/* All of them, up to the first that is refused. */
static enum status add_all(const struct amqp_link *link, struct span bytes,
                           const struct publish *how, add_message *add, void *to, struct err *err)
{
    struct messages messages;
    struct span message;
    struct arena arena;
    struct err why = {0};
    enum status status = messages_read(link, bytes, &messages, err);
    bool is_counted = false;
    arena_init(&arena, ARENA_MAX);
    while (status == STATUS_OK && messages_next(&messages, &message)) {
        struct publish publish = *how;
        status = read_message(link, &arena, message, &publish, &why);
        if (status == STATUS_OK && (status = add(to, &publish)) != STATUS_OK) {
            is_counted = true;
            err_set(&why, status, "%s", status_text(status));
        }
        arena_reset(&arena);
    }
    arena_deinit(&arena);
    if (status != STATUS_OK && !is_counted)
        amqp_count_refusal(status);
    if (status != STATUS_OK && messages.is_batch)
        err_set(err, status, "message %u of the batch: %.400s", messages.count, why.text);
    else if (status != STATUS_OK && messages.count > 0)
        *err = why;
    return status;
}

static void publish_within(struct amqp_link *link, pn_delivery_t *delivery, struct span bytes)
{
    const struct publish how = {.guarantee = GUARANTEE_AT_LEAST_ONCE};
    struct err err = {0};
    const char *condition;
    struct broker_transaction *within = amqp_transaction_named(link, delivery, &condition, &err);
    enum status status = STATUS_NOT_FOUND;
    if (within != NULL) {
        status = add_all(link, bytes, &how, add_to_transaction, within, &err);
        condition = amqp_condition_of(status);
        if (status == STATUS_OK)
            amqp_transaction_sent(within, delivery);
        else
            amqp_transaction_fail(link->connection, delivery, status);
    }
    amqp_resumption_settled(link, delivery); /* it ends with its transaction */
    if (status != STATUS_OK)
        amqp_target_reject(link, delivery, condition, err.text);
    else
        amqp_let_go(link, delivery);
}

/* unit: of what came as a batch, else NULL. Takes it. */
static void publish_read(struct amqp_link *link, pn_delivery_t *delivery, struct span bytes,
                         struct publish *publish, struct broker_unit *unit)
{
    struct amqp_connection *connection = link->connection;
    if (!publish->answer) {
        amqp_resumption_settled(link, delivery);
    } else if (!amqp_resumption_sent(link, delivery, bytes, publish)) {
        broker_unit_free(unit);
        return;
    } else {
        publish->token = connection->answered + connection->waiting_count;
        amqp_waiting_push(connection, (struct amqp_waiting){.link = link, .delivery = delivery});
    }
    if (unit == NULL)
        broker_publish(&connection->client, publish);
    else
        broker_unit_publish(unit, publish);
    if (!publish->answer)
        amqp_target_settle(link, delivery, STATUS_OK, "");
}

static void publish_message(struct amqp_link *link, pn_delivery_t *delivery, struct span bytes)
{
    struct client *client = &link->connection->client;
    bool settled = pn_delivery_settled(delivery);
    struct broker_unit *unit = NULL;
    struct arena arena;
    struct err err = {0};
    struct publish publish = {
        .guarantee = settled ? GUARANTEE_AT_MOST_ONCE : GUARANTEE_AT_LEAST_ONCE,
        .answer = !settled,
    };
    enum status status;
    arena_init(&arena, ARENA_MAX);
    if (link->format == AMQP_FORMAT_MESSAGE) {
        status = read_message(link, &arena, bytes, &publish, &err);
        if (status != STATUS_OK)
            amqp_count_refusal(status);
    } else {
        unit = broker_unit_new(client);
        status = add_all(link, bytes, &publish, add_to_unit, unit, &err);
    }
    if (status == STATUS_OK) {
        publish_read(link, delivery, bytes, &publish, unit);
    } else {
        broker_unit_free(unit);
        amqp_resumption_settled(link, delivery);
        amqp_target_settle(link, delivery, status, err.text);
    }
    arena_deinit(&arena);
}

void amqp_publish(struct amqp_link *link, pn_delivery_t *delivery, struct span bytes)
{
    if (pn_delivery_remote_state(delivery) == AMQP_TRANSACTIONAL)
        publish_within(link, delivery, bytes);
    else
        publish_message(link, delivery, bytes);
}
