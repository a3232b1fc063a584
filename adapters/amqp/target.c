/* SPDX-License-Identifier: Apache-2.0 */
/* What clients send: deliveries as they come, their outcomes when the broker has answered. */
#include "adapters/amqp/target.h"
#include "adapters/amqp/address.h"
#include "adapters/amqp/connection.h"
#include "adapters/amqp/dynamic.h"
#include "adapters/amqp/link.h"
#include "adapters/amqp/manage.h"
#include "adapters/amqp/publish.h"
#include "adapters/amqp/resume.h"
#include "adapters/amqp/source.h"
#include "adapters/amqp/transaction.h"
#include "adapters/amqp/view.h"
#include "core/base/check.h"
#include "core/base/heap.h"
#include "core/base/limits.h"
#include "core/broker/topic.h"

enum {
    WAITING_FIRST = 64,
    PARTIAL_MAX = 4 * LIMIT_RECORD_BYTES /* of all links of a connection */
};

/* ------------------------------------------------ answers */

void amqp_waiting_push(struct amqp_connection *connection, struct amqp_waiting waiting)
{
    uint32_t capacity = connection->waiting_capacity;
    if (connection->waiting_count == capacity) {
        uint32_t more = capacity == 0 ? WAITING_FIRST : 2 * capacity;
        struct amqp_waiting *ring = heap_array(more, sizeof *ring);
        for (uint32_t i = 0; i < capacity; i++)
            ring[i] = connection->waiting[(connection->waiting_first + i) % capacity];
        heap_free(connection->waiting);
        connection->waiting = ring;
        connection->waiting_capacity = capacity = more;
        connection->waiting_first = 0;
    }
    uint32_t at = (connection->waiting_first + connection->waiting_count++) % capacity;
    connection->waiting[at] = waiting;
    waiting.link->refs++;
}

void amqp_waiting_free(struct amqp_connection *connection)
{
    for (uint32_t i = 0; i < connection->waiting_count; i++) {
        uint32_t at = (connection->waiting_first + i) % connection->waiting_capacity;
        amqp_link_unref(connection->waiting[at].link);
    }
    heap_free(connection->waiting);
    connection->waiting = NULL;
    connection->waiting_count = connection->waiting_capacity = 0;
}

uint32_t amqp_waiting_resumable(const struct amqp_connection *connection)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < connection->waiting_count; i++) {
        uint32_t at = (connection->waiting_first + i) % connection->waiting_capacity;
        count += connection->waiting[at].link->resumption != NULL;
    }
    return count;
}

/* Half of the credit at once: a flow for each message would be dear. */
static void give_back(struct amqp_link *link)
{
    if (++link->owed < LIMIT_AMQP_CREDIT / 2)
        return;
    pn_link_flow(link->pn, (int)link->owed);
    link->owed = 0;
}

/* Until Proton has said so, the sender may settle it over and over: it is marked. */
void amqp_let_go(struct amqp_link *link, pn_delivery_t *delivery)
{
    if (pn_delivery_get_context(delivery) != NULL)
        return;
    pn_delivery_set_context(delivery, link);
    pn_delivery_settle(delivery);
    link->connection->let_go++;
    give_back(link);
    amqp_wake(link->connection);
}

/* Proton keeps such a delivery, and each link may have its whole credit of them. */
static void unsettled_more(struct amqp_link *link)
{
    struct amqp_connection *connection = link->connection;
    link->unsettled++;
    if (++connection->unsettled > LIMIT_SENDER_UNSETTLED)
        amqp_end(connection, "amqp:resource-limit-exceeded",
                 "too many deliveries are answered, and not settled by their sender");
    amqp_wake(connection);
}

/* It has its outcome; with receiver-settle-mode second amqp_target_settled() comes. */
static void conclude(struct amqp_link *link, pn_delivery_t *delivery)
{
    if (link->settles_second && !pn_delivery_settled(delivery))
        unsettled_more(link);
    else
        amqp_let_go(link, delivery);
}

void amqp_target_reject(struct amqp_link *link, pn_delivery_t *delivery, const char *condition,
                        const char *text)
{
    if (!pn_delivery_settled(delivery)) {
        pn_condition_t *error = pn_disposition_condition(pn_delivery_local(delivery));
        pn_condition_set_name(error, condition);
        pn_condition_set_description(error, text);
        pn_delivery_update(delivery, PN_REJECTED);
    }
    conclude(link, delivery);
}

void amqp_target_settle(struct amqp_link *link, pn_delivery_t *delivery, enum status status,
                        const char *text)
{
    if (status != STATUS_OK && status != STATUS_SHUTTING_DOWN) {
        amqp_target_reject(link, delivery, amqp_condition_of(status), text);
        return;
    }
    if (!pn_delivery_settled(delivery)) /* released: nothing was done, it is to be sent again */
        pn_delivery_update(delivery, status == STATUS_OK ? PN_ACCEPTED : PN_RELEASED);
    conclude(link, delivery);
}

void amqp_target_settled(struct amqp_link *link, pn_delivery_t *delivery)
{
    if (pn_delivery_local_state(delivery) == 0)
        return; /* it waits for its answer, or has not been looked at */
    if (link->settles_second && pn_delivery_get_context(delivery) == NULL) {
        link->unsettled--;
        link->connection->unsettled--;
    }
    amqp_resumption_settled(link, delivery);
    amqp_let_go(link, delivery);
}

void amqp_answered(struct client *client, uint64_t token, enum status status, uint64_t partition,
                   uint64_t offset)
{
    struct amqp_connection *connection = amqp_connection_of(client);
    (void)partition;
    (void)offset;
    CHECK(connection->waiting_count > 0 && token == connection->answered);
    struct amqp_waiting waiting = connection->waiting[connection->waiting_first];
    connection->waiting_first = (connection->waiting_first + 1) % connection->waiting_capacity;
    connection->waiting_count--;
    connection->answered++;
    amqp_resumption_answered(waiting.link, status,
                             waiting.link->pn != NULL && pn_delivery_settled(waiting.delivery));
    /* After a failed sync nobody knows whether the next start will find the message: it is neither
     * accepted nor rejected, and its connection ends. */
    if (status == STATUS_STORAGE_FAILED)
        amqp_end(connection, amqp_condition_of(status), status_text(status));
    else if (waiting.link->pn != NULL)
        amqp_target_settle(waiting.link, waiting.delivery, status, status_text(status));
    bool is_last = connection->lingering > 0 && waiting.link->resumption != NULL &&
                   --connection->lingering == 0;
    amqp_link_unref(waiting.link);
    if (is_last)
        amqp_linger_end(connection);
}

/* ------------------------------------------------ what came whole */

/* A temporary one that has gone does not come back. */
bool amqp_makes_queue(struct span name)
{
    return amqp_settings.auto_create && !queue_name_is_temporary(name);
}

static void take_request(struct amqp_link *link, pn_delivery_t *delivery, struct span bytes)
{
    struct err err = {0};
    bool within = pn_delivery_remote_state(delivery) == AMQP_TRANSACTIONAL;
    enum status status =
        within ? err_set(&err, STATUS_UNSUPPORTED, "requests cannot be part of a transaction")
               : amqp_manage(link, bytes, &err);
    if (within)
        amqp_transaction_fail(link->connection, delivery, status);
    if (status != STATUS_OK)
        amqp_count_refusal(status);
    amqp_target_settle(link, delivery, status, err.text);
}

/* It is one of a link before; true: there is no more to do. */
static bool has_come(struct amqp_link *link, pn_delivery_t *delivery, struct span bytes)
{
    enum status outcome = STATUS_OK;
    switch (amqp_resumption_came(link, delivery, bytes, &outcome)) {
    case AMQP_COME_NEW:
        return false;
    case AMQP_COME_AGAIN:
        amqp_target_settle(link, delivery, outcome, status_text(outcome));
        break;
    case AMQP_COME_IGNORED: /* whoever waits for it sends it as a delivery of its own */
        amqp_transaction_fail(link->connection, delivery, STATUS_STALE);
        if (!pn_delivery_settled(delivery))
            pn_delivery_update(delivery, PN_RELEASED);
        amqp_let_go(link, delivery);
        break;
    case AMQP_COME_REFUSED:
        amqp_transaction_fail(link->connection, delivery, STATUS_STALE);
        break;
    }
    return true;
}

static void take_message(struct amqp_link *link, pn_delivery_t *delivery, struct span bytes)
{
    if (has_come(link, delivery, bytes))
        return;
    if (link->kind == AMQP_TO_COORDINATOR)
        amqp_coordinate(link, delivery, bytes);
    else if (link->kind == AMQP_TO_MANAGEMENT)
        take_request(link, delivery, bytes);
    else
        amqp_publish(link, delivery, bytes);
}

/* ------------------------------------------------ deliveries, whole or in pieces */

static void partial_drop(struct amqp_link *link)
{
    link->connection->partial_bytes -= link->partial.size;
    buf_deinit(&link->partial);
}

/* Too large: by the book the link ends, and with it what it had sent. */
static bool keep_piece(struct amqp_link *link, struct span bytes)
{
    enum status status = link->connection->partial_bytes + bytes.size > PARTIAL_MAX
                             ? STATUS_OVER_QUOTA
                             : buf_append(&link->partial, bytes.data, bytes.size);
    if (status != STATUS_OK) {
        amqp_transaction_fail(link->connection, pn_link_current(link->pn), status);
        amqp_link_refuse_status(link, status);
        return false;
    }
    link->connection->partial_bytes += bytes.size;
    return true;
}

/* What came last of the delivery, where Proton does not have it. */
static struct span payload_take(struct amqp_connection *connection)
{
    struct span payload = connection->payload;
    connection->payload = span_of(NULL, 0);
    return payload;
}

static bool take_piece(struct amqp_link *link)
{
    uint8_t scratch[AMQP_FRAME_MAX];
    ssize_t size;
    while ((size = pn_link_recv(link->pn, (char *)scratch, sizeof scratch)) > 0)
        if (!keep_piece(link, span_of(scratch, (size_t)size)))
            return false;
    struct span payload = payload_take(link->connection);
    return payload.size == 0 || keep_piece(link, payload);
}

static void take_whole(struct amqp_link *link, pn_delivery_t *delivery)
{
    uint8_t small[AMQP_FRAME_MAX];
    size_t pending = pn_delivery_pending(delivery);
    struct span bytes;
    if (link->partial.size == 0 && pending == 0) {
        bytes = payload_take(link->connection);
    } else if (link->partial.size == 0 && link->connection->payload.size == 0 &&
               pending <= sizeof small) {
        ssize_t size = pn_link_recv(link->pn, (char *)small, sizeof small);
        bytes = span_of(small, size > 0 ? (size_t)size : 0);
    } else {
        if (!take_piece(link))
            return;
        bytes = buf_span(&link->partial);
    }
    if (amqp_publish_waits(link, bytes)) { /* it is looked at again then */
        link->makes = true;
        amqp_pause(link->connection);
        if (link->partial.size == 0)
            keep_piece(link, bytes);
        return;
    }
    pn_link_advance(link->pn);
    take_message(link, delivery, bytes);
    link->unmade = STATUS_OK;
    link->looked = 0;
    link->format = AMQP_FORMAT_MESSAGE;
    partial_drop(link);
}

static void take_all(struct amqp_link *link)
{
    struct amqp_connection *connection = link->connection;
    pn_delivery_t *delivery;
    while (link->pn != NULL && !connection->paused &&
           (delivery = pn_link_current(link->pn)) != NULL) {
        if (pn_delivery_aborted(delivery)) {
            partial_drop(link);
            link->resumed = false;
            link->format = AMQP_FORMAT_MESSAGE;
            amqp_resumption_settled(link, delivery);
            pn_link_advance(link->pn);
            pn_delivery_settle(delivery);
            connection->let_go++;
            give_back(link);
            continue;
        }
        if (!pn_delivery_readable(delivery))
            return;
        if (pn_delivery_partial(delivery)) {
            take_piece(link);
            return;
        }
        if (!broker_may_publish(&connection->client)) {
            amqp_pause(connection);
            return;
        }
        take_whole(link, delivery);
    }
}

/* Everything that has come, in order; stops where the broker takes no more. What is too large ends
 * the link. */
void amqp_target_readable(struct amqp_link *link)
{
    link->refs++;
    take_all(link);
    struct span waits = payload_take(link->connection);
    if (waits.size > 0 && link->pn != NULL && pn_link_current(link->pn) != NULL)
        keep_piece(link, waits);
    amqp_link_unref(link);
}

/* ------------------------------------------------ attach */

struct making {
    struct broker_admin admin;
    struct amqp_link *link;
    char *name;
};

static void queue_target(struct amqp_link *link, const struct queue *queue)
{
    enum status status =
        broker_check(&link->connection->client, ACTION_PUBLISH, false, span_from_text(queue->name));
    if (status != STATUS_OK) {
        amqp_link_refuse_status(link, status);
        return;
    }
    link->kind = AMQP_TO_QUEUE;
    amqp_queue_join(link, queue);
    amqp_link_accept(link);
}

static void made(struct request *request, enum status status)
{
    struct making *making = container_of(request, struct making, admin.request);
    struct amqp_link *link = making->link;
    const struct queue *queue = NULL;
    if (link->pn != NULL)
        queue =
            catalog_queue_by_text(broker_catalog(link->connection->client.worker),
                                  link->connection->client.tenant, span_from_text(making->name));
    if (queue == NULL && status == STATUS_OK)
        status = STATUS_INTERNAL;
    if (link->makes) { /* with the delivery that waited */
        link->makes = false;
        link->unmade = queue != NULL ? STATUS_OK : status;
        amqp_go_on(link->connection);
    } else if (link->pn != NULL && queue == NULL) {
        amqp_link_refuse_status(link, status);
    } else if (link->pn != NULL && pn_link_is_receiver(link->pn)) {
        queue_target(link, queue);
    } else if (link->pn != NULL) {
        amqp_source_from(link, queue);
    }
    queue_unref(making->admin.queue);
    heap_free(making->name);
    heap_free(making);
    amqp_link_unref(link);
}

void amqp_queue_make(struct amqp_link *link, struct span name)
{
    struct making *making = heap_new(sizeof *making);
    making->link = link;
    making->name = heap_text((const char *)name.data, name.size);
    making->admin = (struct broker_admin){
        .client = &link->connection->client,
        .action = ADMIN_QUEUE_CREATE,
        .name = span_of(making->name, name.size),
    };
    request_init(&making->admin.request, amqp_loop(link->connection), made);
    link->refs++;
    broker_administer(&making->admin);
}

void amqp_target_open(struct amqp_link *link, const struct amqp_address *address)
{
    struct client *client = &link->connection->client;
    const struct queue *queue;
    enum status status;
    switch (address->at) {
    case AMQP_AT_RELAY:
        link->kind = AMQP_TO_ANYWHERE;
        amqp_link_accept(link);
        break;
    case AMQP_AT_TOPIC:
        status = topic_name_is_valid(address->topic)
                     ? broker_check(client, ACTION_PUBLISH, true, address->topic)
                     : STATUS_INVALID;
        if (status != STATUS_OK) {
            amqp_link_refuse_status(link, status);
            return;
        }
        link->kind = AMQP_TO_TOPIC;
        link->topic = heap_text((const char *)address->topic.data, address->topic.size);
        amqp_link_accept(link);
        break;
    case AMQP_AT_QUEUE:
        queue =
            catalog_queue_by_text(broker_catalog(client->worker), client->tenant, address->queue);
        if (address->group.size > 0)
            amqp_link_refuse(link, "amqp:not-allowed", "a group is a source only");
        else if (queue != NULL)
            queue_target(link, queue);
        else if (amqp_makes_queue(address->queue))
            amqp_queue_make(link, address->queue);
        else
            amqp_link_refuse_status(link, STATUS_NOT_FOUND);
        break;
    case AMQP_AT_MANAGEMENT:
        link->kind = AMQP_TO_MANAGEMENT;
        amqp_link_accept(link);
        break;
    case AMQP_AT_NOTHING:
        amqp_link_refuse_status(link, STATUS_NOT_FOUND);
        break;
    }
}

/* What has come and was not taken will not be. Proton must not have one that nobody has looked at
 * before one that is settled: it would take that for the current one when it gives up the first,
 * and end the process. */
static void pass_over(struct amqp_link *link)
{
    pn_delivery_t *delivery;
    while ((delivery = pn_link_current(link->pn)) != NULL) {
        amqp_transaction_fail(link->connection, delivery, STATUS_STALE);
        pn_link_advance(link->pn);
    }
}

void amqp_target_close(struct amqp_link *link)
{
    pass_over(link);
    link->connection->unsettled -= link->unsettled;
    link->unsettled = 0;
    amqp_resumption_leave(link);
    if (link->kind == AMQP_TO_COORDINATOR)
        amqp_coordinator_close(link);
    partial_drop(link);
}
