/* SPDX-License-Identifier: Apache-2.0 */
/* Prints every record that a stopped gateway's store holds: partition, offset, topic and value, one
 * line each. Topics and values of these tests have neither blanks nor line ends. */
#include <stdio.h>
#include <stdlib.h>

#include "core/log/batch.h"
#include "core/net/loop.h"
#include "storage/rocksdb/rocksdb.h"

enum { PARTITIONS = 64 };

static struct loop *loop;

static void stop(struct request *request, enum status status)
{
    (void)request;
    (void)status;
    loop_stop(loop);
}

static void fail(const char *what, enum status status)
{
    fprintf(stderr, "records: %s: %s\n", what, status_text(status));
    exit(1);
}

static void print_batch(uint64_t partition, const struct storage_read_batch *read)
{
    struct batch *batch;
    enum status status = batch_open(read->bytes, 0, &batch);
    if (status != STATUS_OK)
        fail("a stored batch", status);
    batch->base_offset = read->base_offset;
    for (uint32_t i = 0; i < batch->record_count; i++) {
        struct record record;
        struct span topic = {0};
        batch_record(batch, i, &record);
        record_find(&record, HEADER_TOPIC, &topic);
        printf("%llu %llu %.*s %.*s\n", (unsigned long long)partition,
               (unsigned long long)record.offset, (int)topic.size, (const char *)topic.data,
               (int)record.value.size, (const char *)record.value.data);
    }
    batch_unref(batch);
    blob_unref(read->bytes);
}

static void print_partition(struct storage *storage, uint64_t partition, enum storage_class class)
{
    struct storage_bounds bounds = {.partition = partition, .class = class};
    request_init(&bounds.request, loop, stop);
    storage->ops->bounds(storage, &bounds);
    loop_run(loop);
    if (bounds.request.status != STATUS_OK)
        fail("bounds", bounds.request.status);
    uint64_t offset = bounds.start;
    while (offset < bounds.end) {
        struct storage_read read = {.partition = partition,
                                    .class = class,
                                    .offset = offset,
                                    .end = bounds.end,
                                    .max_bytes = 1024 * 1024};
        request_init(&read.request, loop, stop);
        storage->ops->read(storage, &read);
        loop_run(loop);
        if (read.request.status != STATUS_OK)
            fail("read", read.request.status);
        if (read.count == 0)
            break;
        for (uint32_t i = 0; i < read.count; i++) {
            offset = read.batches[i].base_offset + read.batches[i].record_count;
            print_batch(partition, &read.batches[i]);
        }
    }
}

int main(int count, char **words)
{
    if (count != 2) {
        fputs("usage: records DIRECTORY\n", stderr);
        return 2;
    }
    struct storage_options options = {.directory = words[1]};
    struct storage *storage;
    struct err err = {0};
    if (rocksdb_storage_ops.open(&options, &storage, &err) != STATUS_OK) {
        fprintf(stderr, "records: %s\n", err.text);
        return 1;
    }
    loop = loop_new();
    for (uint64_t partition = 0; partition < PARTITIONS; partition++)
        for (unsigned class = 0; class < STORAGE_CLASSES; class ++)
            print_partition(storage, partition, (enum storage_class) class);
    storage->ops->close(storage);
    loop_free(loop);
    return 0;
}
