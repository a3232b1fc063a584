/* SPDX-License-Identifier: Apache-2.0 */
/* Clients of the broker that are no protocol's: see group_peer.h. Everything here runs on one
 * worker's loop. */
#include "tests/sim/group_peer.h"

#include "core/base/heap.h"
#include "tests/sim/history.h"
#include "tests/sim/sim.h"

enum { TAKE_MAX = 8, LEASE_MS = 15000 };

static void answered(struct client *client, uint64_t token, enum status status, uint64_t partition,
                     uint64_t offset)
{
    (void)client;
    (void)token;
    (void)status;
    (void)partition;
    (void)offset;
}

static void end(struct client *client, enum status why)
{
    (void)client;
    (void)why;
}

static const struct client_ops ops = {.protocol = "sim", .answered = answered, .end = end};

/* ------------------------------------------------ consumer */

struct consumer {
    struct client client;
    struct broker_worker *worker;
    uint64_t group;
    bool polite, stopped, dead;
    uint64_t due_ms; /* of the settlement; 0: no delay */
    struct broker_login login;
    struct group_take take;
    struct group_item items[TAKE_MAX];
    struct group_settle settle;
    struct receipt receipts[TAKE_MAX];
    enum status results[TAKE_MAX];
    bool stale[TAKE_MAX]; /* the receipt was spoilt on purpose */
    uint64_t until_ms;
};

static void take_more(struct consumer *consumer);

static void settle_done(struct request *request, enum status status)
{
    struct consumer *consumer = container_of(request, struct consumer, settle.request);
    for (uint32_t i = 0; i < consumer->settle.count && status == STATUS_OK; i++) {
        const struct receipt *receipt = &consumer->receipts[i];
        if (consumer->stale[i] && consumer->results[i] == STATUS_OK)
            history_fail("a stale receipt was accepted");
        if (!consumer->stale[i] && consumer->results[i] != STATUS_OK &&
            sim_now_ms() < consumer->until_ms)
            history_fail("a live receipt was refused: %s", status_text(consumer->results[i]));
        if (consumer->results[i] == STATUS_OK)
            history_settled(receipt->partition, receipt->offset,
                            consumer->settle.outcome == SETTLE_DONE);
    }
    for (uint32_t i = 0; i < consumer->settle.count && consumer->due_ms != 0; i++)
        if (!consumer->stale[i])
            history_delayed(consumer->receipts[i].partition, consumer->receipts[i].offset,
                            consumer->due_ms,
                            status == STATUS_OK && consumer->results[i] == STATUS_OK);
    take_more(consumer);
}

static void settle_some(void *context)
{
    struct consumer *consumer = context;
    const struct group_spec *group =
        catalog_group(broker_catalog(consumer->worker), consumer->group);
    if (group == NULL || consumer->settle.count == 0) {
        take_more(consumer);
        return;
    }
    consumer->settle.receipts = consumer->receipts;
    consumer->settle.results = consumer->results;
    consumer->settle.outcome = consumer->polite || sim_chance(70) ? SETTLE_DONE
                               : sim_chance(50)                   ? SETTLE_FAILED
                               : sim_chance(70)                   ? SETTLE_RELEASED
                                                                  : SETTLE_REJECTED;
    bool may_delay =
        consumer->settle.outcome == SETTLE_FAILED || consumer->settle.outcome == SETTLE_RELEASED;
    bool is_delayed = may_delay && sim_chance(40) && sim_now_ms() + 1000 < consumer->until_ms;
    consumer->settle.delay_ms = is_delayed ? (uint32_t)sim_below(5000) + 1 : 0;
    consumer->due_ms = is_delayed ? sim_now_ms() + consumer->settle.delay_ms : 0;
    /* From here on the group may hand it out again at any moment, though the answer is still on its
     * way. */
    for (uint32_t i = 0; i < consumer->settle.count; i++) {
        const struct receipt *receipt = &consumer->receipts[i];
        if (!consumer->stale[i] && consumer->settle.outcome == SETTLE_DONE)
            history_settling(receipt->partition, receipt->offset);
        else if (!consumer->stale[i])
            history_settled(receipt->partition, receipt->offset, false);
        if (!consumer->stale[i] && is_delayed)
            history_delaying(receipt->partition, receipt->offset, consumer->due_ms);
    }
    request_init(&consumer->settle.request, broker_loop(consumer->worker), settle_done);
    broker_settle(&consumer->client, group, &consumer->settle);
}

static void settle_later(void *context)
{
    struct consumer *consumer = context;
    sim_on(broker_loop(consumer->worker), settle_some, consumer);
}

static uint64_t header_number(const struct record *record, const char *name)
{
    struct span text;
    uint64_t number = 0;
    if (!record_find(record, name, &text))
        history_fail("a dead letter without %s", name);
    for (size_t i = 0; i < text.size; i++)
        number = number * 10 + (uint64_t)(text.data[i] - '0');
    return number;
}

static void take_done(struct request *request, enum status status)
{
    struct consumer *consumer = container_of(request, struct consumer, take.request);
    consumer->settle.count = 0;
    for (uint32_t i = 0; i < consumer->take.count; i++) {
        struct group_item *item = &consumer->items[i];
        struct record record;
        batch_record(item->batch, item->index, &record);
        if (record.offset != item->receipt.offset)
            history_fail("a receipt names another offset than its record");
        history_read(item->receipt.partition, record.offset, record.value);
        if (consumer->dead)
            history_dead(header_number(&record, "dead-letter-partition"),
                         header_number(&record, "dead-letter-offset"), record.offset, record.value);
        history_handed_out(item->receipt.partition, record.offset, item->failures,
                           consumer->until_ms);
        batch_unref(item->batch);
        uint32_t at = consumer->settle.count++;
        consumer->receipts[at] = item->receipt;
        consumer->stale[at] = !consumer->polite && sim_chance(5);
        if (consumer->stale[at])
            consumer->receipts[at].delivery += 1u << 20; /* the next one may come to be */
    }
    if (status == STATUS_NOT_FOUND || status == STATUS_SHUTTING_DOWN || consumer->stopped)
        return;
    /* Sometimes the lease is left to run out. */
    uint64_t delay = !consumer->polite && sim_chance(5) ? LEASE_MS * 2 : sim_below(20);
    sim_after(delay, settle_later, consumer);
}

static void take_more(struct consumer *consumer)
{
    const struct group_spec *group =
        catalog_group(broker_catalog(consumer->worker), consumer->group);
    if (consumer->stopped || group == NULL)
        return;
    consumer->take = (struct group_take){
        .max_records = (uint32_t)(1 + sim_below(TAKE_MAX)),
        .max_bytes = 64 * 1024,
        .wait_ms = (uint32_t)sim_below(2000),
        .lease_ms = LEASE_MS,
        .items = consumer->items,
        .dead = consumer->dead,
    };
    /* The lease begins when the group hands out, which is later than now: a bound that is safe for
     * the checker is the earliest end. */
    consumer->until_ms = sim_now_ms() + LEASE_MS;
    request_init(&consumer->take.request, broker_loop(consumer->worker), take_done);
    broker_take(&consumer->client, group, &consumer->take);
}

static void login_done(struct request *request, enum status status)
{
    struct consumer *consumer = container_of(request, struct consumer, login.request);
    if (status == STATUS_OK)
        take_more(consumer);
}

static void consumer_begin(void *context)
{
    struct consumer *consumer = context;
    client_init(&consumer->client, consumer->worker, &ops);
    consumer->login.client = &consumer->client;
    request_init(&consumer->login.request, broker_loop(consumer->worker), login_done);
    broker_login(&consumer->login);
}

struct consumer *consumer_new(struct broker_worker *worker, uint64_t group, bool polite, bool dead)
{
    struct consumer *consumer = heap_new(sizeof *consumer);
    consumer->worker = worker;
    consumer->group = group;
    consumer->polite = polite;
    consumer->dead = dead;
    sim_on(broker_loop(worker), consumer_begin, consumer);
    return consumer;
}

void consumer_stop(struct consumer *consumer)
{
    consumer->stopped = true;
}

/* ------------------------------------------------ reader */

struct reading {
    struct client client;
    struct broker_login login;
    struct log_read read;
    struct broker_worker *worker;
    uint64_t queue;
    uint32_t index;
    show_record *show;
    unsigned *left;
};

static void read_on(struct reading *reading)
{
    const struct queue *queue = catalog_queue(broker_catalog(reading->worker), reading->queue);
    request_init(&reading->read.request, broker_loop(reading->worker), reading->read.request.done);
    reading->read.partition = queue->first_partition + reading->index;
    reading->read.max_bytes = 4096;
    broker_read(&reading->client, queue, &reading->read);
}

static void read_done(struct request *request, enum status status)
{
    struct reading *reading = container_of(request, struct reading, read.request);
    struct log_read *read = &reading->read;
    if (status != STATUS_OK)
        history_fail("a partition cannot be read: %s", status_text(status));
    for (uint32_t i = 0; i < read->count; i++) {
        for (uint32_t k = 0; k < read->batches[i]->record_count; k++) {
            struct record record;
            batch_record(read->batches[i], k, &record);
            if (record.offset < read->offset)
                continue;
            reading->show(read->partition, record.offset, record.value);
        }
        read->offset = batch_end(read->batches[i]);
        batch_unref(read->batches[i]);
    }
    if (read->offset < read->end) {
        read_on(reading);
        return;
    }
    --*reading->left;
    client_close(&reading->client);
}

static void reader_login_done(struct request *request, enum status status)
{
    struct reading *reading = container_of(request, struct reading, login.request);
    if (status != STATUS_OK)
        history_fail("the reader cannot log in");
    reading->read.request.done = read_done;
    read_on(reading);
}

static void reading_begin(void *context)
{
    struct reading *reading = context;
    client_init(&reading->client, reading->worker, &ops);
    reading->login.client = &reading->client;
    request_init(&reading->login.request, broker_loop(reading->worker), reader_login_done);
    broker_login(&reading->login);
}

void read_everything(struct broker_worker *worker, const struct queue *queue, show_record *show,
                     unsigned *left)
{
    *left = queue->partition_count;
    for (uint32_t i = 0; i < queue->partition_count; i++) {
        struct reading *reading = heap_new(sizeof *reading);
        reading->worker = worker;
        reading->queue = queue->id;
        reading->index = i;
        reading->show = show;
        reading->left = left;
        sim_on(broker_loop(worker), reading_begin, reading);
    }
}
