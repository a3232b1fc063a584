/* SPDX-License-Identifier: Apache-2.0 */
/* What is said within a transaction is kept as it was said; rights, routes and limits are those of
 * the commit, which makes a unit of it.
 *
 *   OPEN --broker_commit--> COMMITTING --every part has ended--> over
 *     \--broker_roll_back, time, the client's end--> over
 */
#include "core/broker/transaction.h"

#include "core/base/clock.h"
#include "core/base/heap.h"

/* A publish with memory of its own, behind it. */
struct message {
    struct link link;
    uint64_t queue;   /* id; 0: to a topic */
    uint64_t sent_ms; /* a delay runs from then on; monotonic */
    struct publish publish;
    struct header headers[];
};

/* A delivery of a session or a share, from the turn of the commit on until that has begun. */
struct kept_settlement {
    const struct client *client;
    struct subscription *shared; /* NULL: of the client's session */
    uint32_t number;             /* or the lease */
};

struct unit_settlement settlement_ref(const struct unit_settlement *settlement)
{
    if (settlement->not_for != NULL)
        taker_ref(settlement->not_for);
    if (settlement->note != NULL)
        blob_ref(settlement->note);
    return *settlement;
}

void settlements_free(struct unit_settlement *settlements, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        taker_unref(settlements[i].not_for);
        blob_unref(settlements[i].note);
    }
    heap_free(settlements);
}

static void contents_free(struct broker_transaction *transaction)
{
    struct link *link;
    while ((link = list_pop(&transaction->messages)) != NULL)
        heap_free(container_of(link, struct message, link));
    settlements_free(transaction->settlements, transaction->settlement_count);
    transaction->settlements = NULL;
    heap_free(transaction->kept);
    transaction->kept = NULL;
    transaction->kept_count = transaction->kept_capacity = transaction->part_count = 0;
    transaction->settlement_count = transaction->settlement_capacity = 0;
    transaction->message_count = 0;
    if (transaction->client != NULL)
        transaction->client->transaction_bytes -= transaction->bytes;
    transaction->worker->transaction_bytes -= transaction->bytes;
    transaction->bytes = 0;
}

/* Room for so many more bytes, for the client and for all of the worker. */
static bool charge(struct broker_transaction *transaction, size_t bytes)
{
    struct client *client = transaction->client;
    struct broker_worker *worker = transaction->worker;
    if (client->transaction_bytes + bytes > LIMIT_CLIENT_IN_BYTES ||
        worker->transaction_bytes + bytes > LIMIT_WORKER_IN_BYTES)
        return false;
    transaction->bytes += bytes;
    client->transaction_bytes += bytes;
    worker->transaction_bytes += bytes;
    return true;
}

static void leave(struct broker_transaction *transaction)
{
    loop_timer_stop(transaction->worker->loop, &transaction->timer);
    contents_free(transaction);
    if (transaction->client == NULL)
        return;
    link_remove(&transaction->of_client);
    transaction->client->transaction_count--;
    transaction->client = NULL;
}

static void timed_out(struct loop_timer *timer)
{
    struct broker_transaction *transaction = container_of(timer, struct broker_transaction, timer);
    leave(transaction);
    transaction->request.done(&transaction->request, STATUS_TIMED_OUT);
}

enum status broker_begin(struct broker_transaction *transaction)
{
    struct client *client = transaction->client;
    struct broker_worker *worker = client->worker;
    CHECK(loop_is_home(worker->loop) && transaction->request.home == worker->loop);
    CHECK(client->open);
    if (client->transaction_count >= LIMIT_TRANSACTIONS)
        return STATUS_OVER_QUOTA;
    *transaction = (struct broker_transaction){
        .request = transaction->request, .client = client, .worker = worker};
    list_init(&transaction->messages);
    list_push(&client->transactions, &transaction->of_client);
    client->transaction_count++;
    uint32_t limit_ms = worker->broker->options.transaction_ms;
    transaction->timer.fired = timed_out;
    loop_timer_start(worker->loop, &transaction->timer,
                     limit_ms == 0 ? LIMIT_TRANSACTION_MS : limit_ms);
    return STATUS_OK;
}

/* Whether the client was told that a part of it is refused or not, it gets nothing of it. */
void broker_refuse_within(struct broker_transaction *transaction, enum status status)
{
    if (transaction->failure == STATUS_OK)
        transaction->failure = status;
}

static enum status fail(struct broker_transaction *transaction, enum status status)
{
    figures_refused(transaction->client->figures, status);
    broker_refuse_within(transaction, status);
    return status;
}

static bool is_full(const struct broker_transaction *transaction)
{
    return transaction->message_count + transaction->settlement_count + transaction->part_count >=
           LIMIT_TRANSACTION_PARTS;
}

/* ------------------------------------------------ messages */

/* NULL stays NULL: nothing is not the same as something empty. */
static struct span keep(uint8_t **at, struct span bytes)
{
    if (bytes.data == NULL)
        return bytes;
    struct span kept = span_of(*at, bytes.size);
    if (bytes.size > 0)
        memcpy(*at, bytes.data, bytes.size);
    *at += bytes.size;
    return kept;
}

static struct message *message_new(const struct publish *publish)
{
    size_t headers = publish->header_count * sizeof(struct header);
    size_t bytes =
        publish->topic.size + publish->key.size + publish->body.size + publish->dedup_id.size;
    for (uint32_t i = 0; i < publish->header_count; i++)
        bytes += publish->headers[i].name.size + publish->headers[i].value.size;
    struct message *message = heap_resize(NULL, sizeof *message + headers + bytes + 1);
    uint8_t *at = (uint8_t *)message + sizeof *message + headers;
    link_init(&message->link);
    message->queue = publish->queue == NULL ? 0 : publish->queue->id;
    message->sent_ms = clock_monotonic_ms();
    message->publish = *publish;
    message->publish.queue = NULL;
    message->publish.headers = message->headers;
    message->publish.answer = false;
    message->publish.number = 0;
    message->publish.topic = keep(&at, publish->topic);
    message->publish.key = keep(&at, publish->key);
    message->publish.body = keep(&at, publish->body);
    message->publish.dedup_id = keep(&at, publish->dedup_id);
    for (uint32_t i = 0; i < publish->header_count; i++)
        message->headers[i] = (struct header){keep(&at, publish->headers[i].name),
                                              keep(&at, publish->headers[i].value)};
    return message;
}

enum status broker_publish_within(struct broker_transaction *transaction,
                                  const struct publish *publish)
{
    struct client *client = transaction->client;
    CHECK(client != NULL && !transaction->committing);
    size_t size = 0;
    enum status status = publish_may_begin(client);
    if (status == STATUS_OK)
        status = publish_check(client, publish, &size);
    size += sizeof(struct message) + publish->header_count * sizeof(struct header);
    if (status == STATUS_OK && publish->producer.data != NULL)
        status = STATUS_UNSUPPORTED;
    if (status == STATUS_OK && publish->delay_ms > LIMIT_DELAY_MS)
        status = STATUS_INVALID;
    if (status == STATUS_OK && (is_full(transaction) || !charge(transaction, size)))
        status = STATUS_OVER_QUOTA;
    if (status != STATUS_OK)
        return fail(transaction, status);
    list_push(&transaction->messages, &message_new(publish)->link);
    transaction->message_count++;
    return STATUS_OK;
}

/* ------------------------------------------------ settlements */

enum status broker_settle_within(struct broker_transaction *transaction,
                                 const struct unit_settlement *settlement)
{
    CHECK(transaction->client != NULL && !transaction->committing);
    CHECK(settlement->outcome != SETTLE_RENEWED);
    if (is_full(transaction) ||
        (settlement->note != NULL && !charge(transaction, settlement->note->size)))
        return fail(transaction, STATUS_OVER_QUOTA);
    if (transaction->settlement_count == transaction->settlement_capacity) {
        uint32_t capacity =
            transaction->settlement_capacity == 0 ? 16 : 2 * transaction->settlement_capacity;
        size_t more =
            (capacity - transaction->settlement_capacity) * sizeof *transaction->settlements;
        if (!charge(transaction, more))
            return fail(transaction, STATUS_OVER_QUOTA);
        transaction->settlements =
            heap_resize(transaction->settlements, capacity * sizeof *transaction->settlements);
        transaction->settlement_capacity = capacity;
    }
    transaction->settlements[transaction->settlement_count++] = settlement_ref(settlement);
    return STATUS_OK;
}

enum status broker_part_within(struct broker_transaction *transaction, size_t bytes)
{
    CHECK(transaction->client != NULL && !transaction->committing);
    if (is_full(transaction) || !charge(transaction, bytes))
        return fail(transaction, STATUS_OVER_QUOTA);
    transaction->part_count++;
    return STATUS_OK;
}

static void settle_kept(struct broker_transaction *transaction, struct kept_settlement settlement)
{
    CHECK(transaction->client != NULL && !transaction->committing);
    CHECK(settlement.client->worker == transaction->worker);
    if (transaction->kept_count == transaction->kept_capacity) {
        transaction->kept_capacity =
            transaction->kept_capacity == 0 ? 16 : 2 * transaction->kept_capacity;
        transaction->kept =
            heap_resize(transaction->kept, transaction->kept_capacity * sizeof *transaction->kept);
    }
    transaction->kept[transaction->kept_count++] = settlement;
}

void broker_settle_kept_within(struct broker_transaction *transaction, const struct client *client,
                               uint32_t number)
{
    settle_kept(transaction, (struct kept_settlement){.client = client, .number = number});
}

void broker_settle_shared_within(struct broker_transaction *transaction,
                                 struct subscription *subscription, uint32_t lease)
{
    settle_kept(transaction, (struct kept_settlement){.client = subscription->client,
                                                      .shared = subscription,
                                                      .number = lease});
}

/* ------------------------------------------------ the end */

/* What is due already is one that is due at once. */
static uint64_t delay_left(const struct message *message)
{
    uint64_t gone_ms = clock_monotonic_ms() - message->sent_ms;
    return message->publish.delay_ms > gone_ms ? message->publish.delay_ms - gone_ms : 1;
}

static enum status add_message(struct unit *unit, const struct catalog *catalog,
                               struct message *message)
{
    struct publish *publish = &message->publish;
    if (publish->delay_ms > 0)
        publish->delay_ms = delay_left(message);
    if (message->queue != 0 && (publish->queue = catalog_queue(catalog, message->queue)) == NULL)
        return STATUS_NOT_FOUND;
    return unit_publish(unit, publish);
}

static enum status add_all(struct broker_transaction *transaction, struct unit *unit)
{
    enum status status = STATUS_OK;
    list_each(link, &transaction->messages)
    {
        status = add_message(unit, transaction->worker->catalog,
                             container_of(link, struct message, link));
        if (status != STATUS_OK)
            return status;
    }
    for (uint32_t i = 0; i < transaction->settlement_count && status == STATUS_OK; i++)
        status = unit_settle(unit, &transaction->settlements[i]);
    for (uint32_t i = 0; i < transaction->kept_count && status == STATUS_OK; i++) {
        const struct kept_settlement *kept = &transaction->kept[i];
        status = kept->shared != NULL ? unit_settle_shared(unit, kept->shared, kept->number)
                                      : unit_settle_kept(unit, kept->client, kept->number);
    }
    return status;
}

static void commit_ended(void *context, struct protocol_figures *figures, enum status status)
{
    struct broker_transaction *transaction = context;
    if (status != STATUS_OK)
        figures_refused(figures, status);
    leave(transaction);
    transaction->request.done(&transaction->request, status);
}

void broker_commit(struct broker_transaction *transaction)
{
    CHECK(loop_is_home(transaction->worker->loop));
    CHECK(transaction->client != NULL && !transaction->committing);
    transaction->committing = true;
    loop_timer_stop(transaction->worker->loop, &transaction->timer);
    struct unit *unit = unit_new(transaction->client, commit_ended, transaction);
    enum status status = transaction->failure;
    if (status == STATUS_OK && transaction->worker->ending)
        status = STATUS_SHUTTING_DOWN;
    if (status == STATUS_OK)
        status = add_all(transaction, unit);
    if (status == STATUS_OK && unit_send(unit)) {
        contents_free(transaction);
        return;
    }
    unit_drop(unit);
    if (status != STATUS_OK && transaction->failure == STATUS_OK)
        figures_refused(transaction->client->figures, status);
    leave(transaction);
    request_complete(&transaction->request, status);
}

void broker_roll_back(struct broker_transaction *transaction)
{
    CHECK(loop_is_home(transaction->worker->loop));
    CHECK(transaction->client != NULL && !transaction->committing);
    leave(transaction);
}

/* A commit under way goes on. */
void transactions_close(struct client *client)
{
    list_each_safe(link, following, &client->transactions)
    {
        struct broker_transaction *transaction =
            container_of(link, struct broker_transaction, of_client);
        if (!transaction->committing) {
            leave(transaction);
            continue;
        }
        link_remove(link);
        transaction->client = NULL;
    }
    client->transaction_count = 0;
}
