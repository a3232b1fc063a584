/* SPDX-License-Identifier: Apache-2.0 */
/* One page of a partition: records from an offset or time on, leased to nobody. */
#include "adapters/ws/session.h"
#include "adapters/ws/view.h"
#include "core/base/heap.h"
#include "core/base/limits.h"

enum { FETCH_DEFAULT = 100, FETCH_BYTES = 1024 * 1024 };

struct fetch {
    struct log_read read;
    struct ws_session *session;
    struct queue *queue; /* a reference */
    uint32_t partition, limit;
    struct label_filter labels;
    struct selector *selector;
    json_t *frame; /* what the labels borrow from */
    uint64_t id;
};

static void fetch_free(struct fetch *fetch)
{
    for (uint32_t i = 0; i < fetch->read.count; i++)
        batch_unref(fetch->read.batches[i]);
    queue_unref(fetch->queue);
    selector_unref(fetch->selector);
    json_decref(fetch->frame);
    heap_free(fetch);
}

/* Returns where the next page begins. */
static uint64_t write_records(struct fetch *fetch, struct buf *to)
{
    const struct log_read *read = &fetch->read;
    struct ws_view_place place = {.queue = fetch->queue->name, .partition = fetch->partition};
    uint32_t count = 0;
    uint64_t next = read->offset > read->start ? read->offset : read->start;
    for (uint32_t i = 0; i < read->count; i++) {
        const struct batch *batch = read->batches[i];
        if (i == 0 && read->by_time && batch->base_offset > next)
            next = batch->base_offset;
        for (uint32_t k = batch_find(batch, next); k < batch->record_count; k++) {
            struct record record;
            if (count == fetch->limit || to->size > FETCH_BYTES)
                return next;
            batch_record(batch, k, &record);
            next = record.offset + 1;
            if (!label_matches(&fetch->labels, &record) ||
                (fetch->selector != NULL && !selector_matches(fetch->selector, &record)))
                continue;
            json_put(to, count++ == 0 ? "{" : ",{");
            ws_view_write(&record, &place, false, to);
            json_put(to, "}");
        }
        if (batch_end(batch) > next)
            next = batch_end(batch);
    }
    return next;
}

static void fetched(struct request *request, enum status status)
{
    struct fetch *fetch = container_of(request, struct fetch, read.request);
    struct ws_session *session = fetch->session;
    struct buf more;
    buf_init(&more, WS_RECORD_TEXT_MAX + FETCH_BYTES);
    if (status == STATUS_OK) {
        json_put(&more, ",\"records\":[");
        uint64_t next = write_records(fetch, &more);
        json_put(&more, "],\"next\":");
        json_put_number(&more, (int64_t)next);
        json_put(&more, ",\"start\":");
        json_put_number(&more, (int64_t)fetch->read.start);
        json_put(&more, ",\"end\":");
        json_put_number(&more, (int64_t)fetch->read.end);
        ws_ok_with(session, fetch->id, buf_span(&more));
    } else {
        ws_error(session, fetch->id, status, NULL);
    }
    buf_deinit(&more);
    fetch_free(fetch);
    session->fetch_count--;
    ws_go_on(session);
    connection_release(session);
}

void ws_fetch(struct ws_session *session, json_t *frame, uint64_t id)
{
    struct span name;
    struct follow_options from = {0};
    struct err err = {0};
    uint64_t partition = 0, limit = FETCH_DEFAULT;
    bool given;
    const struct queue *queue = ws_text(frame, "queue", &name)
                                    ? catalog_queue_by_text(broker_catalog(session->client.worker),
                                                            session->client.tenant, name)
                                    : NULL;
    if (queue == NULL) {
        ws_error(session, id, STATUS_NOT_FOUND, "there is no such queue");
        return;
    }
    if (id == WS_NO_ID || !ws_from(frame, &from, &given) || !given || from.from == SEEK_LATEST ||
        (json_object_get(frame, "limit") != NULL &&
         (!ws_number(frame, "limit", LIMIT_CALL_RECORDS, &limit) || limit == 0)) ||
        (json_object_get(frame, "partition") != NULL &&
         !ws_number(frame, "partition", INT32_MAX, &partition)) ||
        partition >= queue->partition_count) {
        ws_error(session, id, STATUS_INVALID,
                 "id, from (earliest, {offset} or {time}), a partition of the queue and a limit of "
                 "1 to 1000 are wanted");
        return;
    }
    struct fetch *fetch = heap_new(sizeof *fetch);
    enum status status = ws_filters(frame, &fetch->labels, &fetch->selector, &err);
    if (status != STATUS_OK) {
        ws_error(session, id, status, err.text);
        heap_free(fetch);
        return;
    }
    fetch->session = session;
    fetch->queue = queue_ref(queue);
    fetch->partition = (uint32_t)partition;
    fetch->limit = (uint32_t)limit;
    fetch->frame = json_incref(frame);
    fetch->id = id;
    request_init(&fetch->read.request, broker_loop(session->client.worker), fetched);
    fetch->read.partition = queue->first_partition + partition;
    fetch->read.offset = from.offset;
    fetch->read.by_time = from.from == SEEK_TIME;
    fetch->read.time_ms = from.time_ms;
    fetch->read.max_bytes = FETCH_BYTES;
    if (from.from == SEEK_EARLIEST)
        fetch->read.offset = atomic_load(&queue->stat->partitions[partition].start);
    connection_hold(session);
    session->fetch_count++;
    broker_read(&session->client, queue, &fetch->read);
}
