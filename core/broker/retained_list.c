/* SPDX-License-Identifier: Apache-2.0 */
/* The retained set for whoever asks once: slices of rows, in the order of the store. */
#include "core/broker/topic.h"
#include "core/broker/worker.h"

#include "core/base/heap.h"
#include "core/base/trace.h"

enum { SLICE_ROWS = 128, UNCOMMITTED_MS = 2, WAITS_MAX = 5000 };

struct retained_read {
    struct broker_retained *list;
    struct broker_worker *worker;
    struct retained_filter filter;
    struct retained_place next, end;
    struct storage_scan scan;
    size_t position; /* in the rows of scan */
    unsigned waits;  /* for the row there to be committed */
    struct loop_timer timer;
};

static void slice_read(struct request *request, enum status status);
static void rows_show(struct retained_read *read);

static void end(struct retained_read *read, enum status status)
{
    struct broker_retained *list = read->list;
    blob_unref(read->scan.rows);
    read->worker->reads--;
    heap_free(read);
    list->request.done(&list->request, status);
}

static void read_on(struct retained_read *read)
{
    if (read->worker->ending) {
        end(read, STATUS_SHUTTING_DOWN);
        return;
    }
    blob_unref(read->scan.rows);
    read->position = 0;
    read->scan = (struct storage_scan){
        .first = retained_place_span(&read->next),
        .end = retained_place_span(&read->end),
        .limit = SLICE_ROWS,
    };
    request_init(&read->scan.request, read->worker->loop, slice_read);
    log_rows_scan(read->worker->broker->log, &read->scan);
}

enum looked { LOOKED, LOOK_ENOUGH, LOOK_WAIT };

/* What is not committed yet will be in a moment: it was written, and only a sync is missing. */
static enum looked look(struct retained_read *read, struct span value)
{
    struct broker_retained *list = read->list;
    struct batch *batch;
    enum status status = retained_value_open(value, &batch);
    if (status != STATUS_OK) {
        trace(TRACE_ERROR, "a retained record cannot be read: %s", status_text(status));
        return LOOKED;
    }
    struct record record;
    struct span topic;
    enum looked looked = LOOKED;
    batch_record(batch, 0, &record);
    record.attributes |= RECORD_RECALLED;
    if (!deliver_topic(&record, worker_wall_ms(read->worker), &topic) ||
        !topic_matches(list->filter, topic))
        looked = LOOKED;
    else if (record.offset >= retained_committed(read->worker, batch->partition))
        looked = LOOK_WAIT;
    else if (!list->show(list, topic, &record))
        looked = LOOK_ENOUGH;
    batch_unref(batch);
    return looked;
}

static void look_again(struct loop_timer *timer)
{
    struct retained_read *read = container_of(timer, struct retained_read, timer);
    if (read->worker->ending || broker_storage_health(read->worker) == STATUS_STORAGE_FAILED)
        end(read, read->worker->ending ? STATUS_SHUTTING_DOWN : STATUS_STORAGE_FAILED);
    else
        rows_show(read);
}

static void rows_show(struct retained_read *read)
{
    struct span key, value;
    for (;;) {
        size_t behind = read->position;
        if (!storage_scan_next(&read->scan, &behind, &key, &value))
            break;
        if (retained_filter_passes(&read->filter, key, &read->next)) {
            switch (look(read, value)) {
            case LOOKED:
                break;
            case LOOK_ENOUGH:
                end(read, STATUS_OK);
                return;
            case LOOK_WAIT:
                if (++read->waits > WAITS_MAX) { /* its partition cannot be opened */
                    end(read, STATUS_BUSY);
                    return;
                }
                loop_timer_start(read->worker->loop, &read->timer, UNCOMMITTED_MS);
                return;
            }
        }
        read->position = behind;
        read->waits = 0;
    }
    if (read->scan.more && retained_place_is_before(&read->next, &read->end))
        read_on(read);
    else
        end(read, STATUS_OK);
}

static void slice_read(struct request *request, enum status status)
{
    struct retained_read *read = container_of(request, struct retained_read, scan.request);
    if (status == STATUS_OK)
        rows_show(read);
    else
        end(read, status);
}

void broker_list_retained(struct broker_retained *list)
{
    struct client *client = list->client;
    struct broker_worker *worker = client->worker;
    CHECK(loop_is_home(worker->loop) && client->open);
    enum status status = worker->ending ? STATUS_SHUTTING_DOWN
                         : !topic_filter_is_valid(list->filter) ||
                                 (list->after.size > 0 && !topic_name_is_valid(list->after))
                             ? STATUS_INVALID
                             : broker_check(client, ACTION_CONSUME, true, list->filter);
    if (status != STATUS_OK) {
        request_complete(&list->request, status);
        return;
    }
    struct retained_read *read = heap_new(sizeof *read);
    read->list = list;
    read->worker = worker;
    read->timer.fired = look_again;
    retained_filter_init(&read->filter, client->tenant, list->filter, &read->next, &read->end);
    if (list->after.size > 0) {
        struct retained_place after;
        after.size = retained_key(client->tenant, list->after, after.key);
        after.key[after.size++] = 0;
        if (retained_place_is_before(&read->next, &after))
            read->next = after;
    }
    worker->reads++;
    if (retained_place_is_before(&read->next, &read->end)) {
        read_on(read);
        return;
    }
    worker->reads--;
    heap_free(read);
    request_complete(&list->request, STATUS_OK);
}
