/* SPDX-License-Identifier: Apache-2.0 */
/* The rows that go with a batch which holds retained records, made when it is written. */
#include "core/base/trace.h"
#include "core/broker/retained.h"
#include "core/broker/retained_sweep.h"
#include "core/broker/worker.h"

/* The record alone, in the form of a batch. NULL: no memory for it. */
static struct batch *single(struct batch_builder *builder, const struct record *record)
{
    struct header headers[LIMIT_HEADERS];
    struct record_input input = record_input_of(record, headers);
    return batch_builder_add(builder, &input) == STATUS_OK ? batch_builder_seal(builder) : NULL;
}

/* Not before a scan of the sweep would find them. */
static void rows_over(void *context, int64_t expires_at_ms)
{
    struct broker_worker *worker = context;
    retained_sweep_expect(worker->broker, expires_at_ms);
}

static void derive_expiry(int64_t expires_at_ms, struct log_derived *derived)
{
    if (expires_at_ms == INT64_MAX || (derived->over != NULL && derived->note <= expires_at_ms))
        return;
    derived->over = rows_over;
    derived->note = expires_at_ms;
}

static void derive_record(struct broker_worker *worker, uint64_t tenant, uint64_t partition,
                          uint32_t index, const struct record *record, struct log_derived *derived)
{
    struct span topic;
    if (!record_find(record, HEADER_TOPIC, &topic) || topic.size == 0)
        return;
    uint8_t key[RETAINED_KEY_MAX];
    size_t key_size = retained_key(tenant, topic, key);
    struct storage_row *row;
    if (record->value.size == 0) {
        row = log_derived_add(derived, STORAGE_DELETE, key_size, 0);
        memcpy(log_derived_key(row), key, key_size);
        return;
    }
    struct batch *batch = single(&worker->retained.builder, record);
    if (batch == NULL) {
        trace(TRACE_ERROR, "no memory to retain a record");
        return;
    }
    size_t size = batch->bytes->size;
    row = log_derived_add(derived, STORAGE_PUT, key_size, RETAINED_VALUE_HEAD + size);
    memcpy(log_derived_key(row), key, key_size);
    retained_value_head(partition, log_derived_value(row));
    memcpy(log_derived_value(row) + RETAINED_VALUE_HEAD, batch->bytes->bytes, size);
    derive_expiry(deliver_expiry(record), derived);
    row->offset_at = RETAINED_OFFSET_AT;
    row->commit_in_value = RETAINED_COMMIT_AT;
    row->patch_record = index;
    batch_unref(batch);
}

void retained_derive(void *context, uint64_t partition, const struct batch *batch,
                     struct log_derived *derived)
{
    struct broker_worker *worker = context;
    if (!batch->retains || dead_partition_group(partition) != 0)
        return;
    const struct queue *queue = catalog_queue_of_partition(worker->catalog, partition);
    if (queue == NULL)
        return;
    atomic_store_explicit(&worker->broker->retained_any, true, memory_order_release);
    for (uint32_t i = 0; i < batch->record_count; i++) {
        struct record record;
        batch_record(batch, i, &record);
        if (record.attributes & RECORD_RETAIN)
            derive_record(worker, queue->tenant, partition, i, &record, derived);
    }
}
