/* SPDX-License-Identifier: Apache-2.0 */
/* Three workers in threads: everybody appends to and reads from everybody's partitions. */
/* links: log storage_memory net_uv */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

#include "core/base/check.h"
#include "core/base/heap.h"
#include "core/base/pack.h"
#include "core/log/log.h"
#include "core/net/worker.h"
#include "storage/memory/memory.h"

enum { WORKERS = 3, PARTITIONS = 6, ROUNDS = 200, WINDOW = 4 };
enum { RECORDS_OF_ONE = WORKERS * ROUNDS }; /* in each partition at the end */

struct client;

/* An append of a client to one partition; the record's value is {client, number}. */
struct put {
    struct log_append append;
    struct client *client;
    uint32_t partition;
};

/* What runs on one worker. CHECK, not assert: cmocka's asserts belong to the main thread. */
struct client {
    struct worker *worker;
    struct log_worker *log;
    unsigned index;
    struct mail mail;
    struct batch_builder builder;
    struct put puts[PARTITIONS][WINDOW];
    uint32_t sent[PARTITIONS], answered[PARTITIONS];
    uint64_t next_offset[PARTITIONS];
    uint64_t observed_end[PARTITIONS];
    struct log_read read;
    uint32_t reading, read_records;
    uint32_t numbers[WORKERS]; /* expected next from each client, in the partition being read */
};

static struct log *log_of_all;
static struct client clients[WORKERS];
static struct partition_stat stats[PARTITIONS];
static atomic_uint finished;

static void put_next(struct client *client, uint32_t partition, struct put *put);

static void observe(void *context, uint64_t partition, struct batch *batch)
{
    struct client *client = context;
    CHECK(log_owner(log_of_all, partition) == client->index);
    CHECK(batch->base_offset == client->observed_end[partition]);
    client->observed_end[partition] = batch_end(batch);
}

static void read_on(struct client *client);

static void put_done(struct request *request, enum status status)
{
    struct put *put = container_of(request, struct put, append.request);
    struct client *client = put->client;
    uint32_t partition = put->partition;
    CHECK(loop_is_home(worker_loop(client->worker)));
    CHECK(status == STATUS_OK);
    /* Answers come in order, after the commit. */
    struct record record;
    batch_record(put->append.batch, 0, &record);
    CHECK(load_u32(record.value.data + 4) == client->answered[partition]);
    CHECK(record.offset >= client->next_offset[partition]);
    client->next_offset[partition] = record.offset + 1;
    CHECK(atomic_load(&stats[partition].end) > record.offset);
    client->answered[partition]++;
    batch_unref(put->append.batch);
    if (client->sent[partition] < ROUNDS)
        put_next(client, partition, put);
    uint32_t answered = 0;
    for (uint32_t i = 0; i < PARTITIONS; i++)
        answered += client->answered[i];
    if (answered == PARTITIONS * ROUNDS)
        atomic_fetch_add(&finished, 1);
}

static void put_next(struct client *client, uint32_t partition, struct put *put)
{
    uint8_t value[8];
    store_u32(value, client->index);
    store_u32(value + 4, client->sent[partition]++);
    struct record_input input = {.value = span_of(value, sizeof value)};
    CHECK(batch_builder_add(&client->builder, &input) == STATUS_OK);
    put->client = client;
    put->partition = partition;
    request_init(&put->append.request, worker_loop(client->worker), put_done);
    put->append.partition = partition;
    put->append.batch = batch_builder_seal(&client->builder);
    log_append(client->log, &put->append);
}

static void start_client(struct mail *mail)
{
    struct client *client = container_of(mail, struct client, mail);
    for (uint32_t partition = 0; partition < PARTITIONS; partition++) {
        if (log_owner(log_of_all, partition) != client->index)
            continue;
        struct partition_spec spec = {.id = partition, .class = STORAGE_3_DAYS};
        log_partition_open(client->log, &spec, &stats[partition]);
    }
    atomic_fetch_add(&finished, 1);
}

static void start_puts(struct mail *mail)
{
    struct client *client = container_of(mail, struct client, mail);
    for (uint32_t partition = 0; partition < PARTITIONS; partition++)
        for (uint32_t i = 0; i < WINDOW; i++)
            put_next(client, partition, &client->puts[partition][i]);
}

/* Each client's records lie in a partition in the order in which it sent them. */
static void check_read(struct client *client)
{
    for (uint32_t i = 0; i < client->read.count; i++) {
        struct batch *batch = client->read.batches[i];
        for (uint32_t j = 0; j < batch->record_count; j++) {
            struct record record;
            batch_record(batch, j, &record);
            CHECK(record.offset == client->read_records++);
            uint32_t sender = load_u32(record.value.data);
            CHECK(load_u32(record.value.data + 4) == client->numbers[sender]++);
        }
        batch_unref(batch);
    }
}

static void read_done(struct request *request, enum status status)
{
    struct client *client = container_of(request, struct client, read.request);
    CHECK(loop_is_home(worker_loop(client->worker)));
    CHECK(status == STATUS_OK);
    check_read(client);
    if (client->read.count > 0) {
        read_on(client);
        return;
    }
    CHECK(client->read_records == RECORDS_OF_ONE);
    memset(client->numbers, 0, sizeof client->numbers);
    client->read_records = 0;
    if (++client->reading < PARTITIONS)
        read_on(client);
    else
        atomic_fetch_add(&finished, 1);
}

static void read_on(struct client *client)
{
    request_init(&client->read.request, worker_loop(client->worker), read_done);
    client->read.partition = client->reading;
    client->read.offset = client->read_records;
    client->read.max_bytes = 3000;
    log_read(client->log, &client->read);
}

static void start_reads(struct mail *mail)
{
    struct client *client = container_of(mail, struct client, mail);
    client->reading = 0;
    read_on(client);
}

/* The second time from storage: nothing is cached of a partition that was opened again. */
static void reopen(struct mail *mail)
{
    struct client *client = container_of(mail, struct client, mail);
    for (uint32_t partition = 0; partition < PARTITIONS; partition++) {
        if (log_owner(log_of_all, partition) != client->index)
            continue;
        log_partition_close(client->log, partition, false);
        struct partition_spec spec = {.id = partition, .class = STORAGE_3_DAYS};
        log_partition_open(client->log, &spec, &stats[partition]);
    }
    atomic_fetch_add(&finished, 1);
}

static void on_all(void (*deliver)(struct mail *mail))
{
    atomic_store(&finished, 0);
    for (unsigned i = 0; i < WORKERS; i++) {
        clients[i].mail.deliver = deliver;
        mailbox_post(worker_loop(clients[i].worker), &clients[i].mail);
    }
    while (atomic_load(&finished) < WORKERS)
        usleep(1000);
}

static void three_workers(void **state)
{
    (void)state;
    struct storage_options options = {0};
    struct storage *storage;
    assert_int_equal(memory_storage_ops.open(&options, &storage, NULL), STATUS_OK);
    log_of_all = log_new(storage, WORKERS);
    unsigned owned[WORKERS] = {0};
    for (uint32_t i = 0; i < PARTITIONS; i++)
        owned[log_owner(log_of_all, i)]++;
    for (unsigned i = 0; i < WORKERS; i++) {
        assert_int_equal(owned[i], PARTITIONS / WORKERS); /* consecutive ids spread evenly */
        struct client *client = &clients[i];
        client->index = i;
        client->worker = worker_new(i);
        struct loop *loop = worker_loop(client->worker);
        client->log = log_worker_new(log_of_all, i, loop, observe, client);
        batch_builder_init(&client->builder);
    }
    for (unsigned i = 0; i < WORKERS; i++)
        worker_start(clients[i].worker);
    on_all(start_client);
    on_all(start_puts);
    on_all(start_reads);
    on_all(reopen);
    on_all(start_reads);
    for (uint32_t i = 0; i < PARTITIONS; i++)
        assert_int_equal(atomic_load(&stats[i].end), RECORDS_OF_ONE);
    for (unsigned i = 0; i < WORKERS; i++)
        worker_stop(clients[i].worker);
    storage->ops->close(storage);
    for (unsigned i = 0; i < WORKERS; i++) {
        log_worker_free(clients[i].log);
        worker_free(clients[i].worker);
        batch_builder_deinit(&clients[i].builder);
    }
    log_free(log_of_all);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(three_workers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
