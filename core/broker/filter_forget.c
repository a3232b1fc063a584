/* SPDX-License-Identifier: Apache-2.0 */
/* From a place without holders to a place that is free:
 *
 *   no row of a holder -> not used -> every worker has begun another turn -> row deleted -> free
 *
 * A subscribe pins the places of its filters until the rows of their holders are durable, so what a
 * look at these rows does not find is not about to be there unless it was asked for since. */
#include "core/broker/filter_forget.h"

#include "core/base/heap.h"
#include "core/broker/worker.h"

struct filter_forget {
    struct broker_worker *worker; /* 0 */
    bool busy;
    unsigned place; /* in hand, or the last one */
    uint32_t asked; /* about it, before the look */
    unsigned left;  /* places to look at in this round */
    struct storage_scan scan;
    uint8_t first[FILTER_HOLDER_KEY], end[FILTER_HOLDER_KEY], key[FILTER_PLACE_KEY];
    struct log_rows write;
    struct storage_row row;
    uint32_t confirms;
    struct forget_part {
        struct mail mail;
        struct filter_forget *of;
    } parts[LIMIT_WORKERS];
};

static void next_place(struct filter_forget *forget);

static void forgotten(struct request *request, enum status status)
{
    struct filter_forget *forget = container_of(request, struct filter_forget, write.request);
    (void)status; /* a row that is left is replaced by the next one there, or goes at a start */
    forget->worker->calls--;
    filter_shapes_free_place(&forget->worker->broker->shapes, forget->place);
    next_place(forget);
}

static void confirmed(struct mail *mail)
{
    struct filter_forget *forget = container_of(mail, struct forget_part, mail)->of;
    if (--forget->confirms > 0)
        return;
    filter_place_key(forget->place, forget->key);
    forget->row = (struct storage_row){
        .change = STORAGE_DELETE, .key = span_of(forget->key, sizeof forget->key), .offset_at = -1};
    forget->write = (struct log_rows){.rows = &forget->row, .row_count = 1};
    forget->write.append.durability = DURABLE_SYNC;
    request_init(&forget->write.request, forget->worker->loop, forgotten);
    log_rows_write(forget->worker->broker->log, &forget->write);
}

/* What this worker was matching is done. */
static void passed(struct mail *mail)
{
    struct forget_part *part = container_of(mail, struct forget_part, mail);
    part->mail.deliver = confirmed;
    mailbox_post(part->of->worker->loop, &part->mail);
}

static void wait_for_workers(struct filter_forget *forget)
{
    struct broker *broker = forget->worker->broker;
    forget->confirms = broker->worker_count;
    forget->worker->calls++;
    for (unsigned i = 0; i < broker->worker_count; i++) {
        forget->parts[i].of = forget;
        forget->parts[i].mail.deliver = passed;
        mailbox_post(broker->workers[i].loop, &forget->parts[i].mail);
    }
}

static void looked(struct request *request, enum status status)
{
    struct filter_forget *forget = container_of(request, struct filter_forget, scan.request);
    bool held = status != STATUS_OK || forget->scan.count > 0;
    if (status == STATUS_OK)
        blob_unref(forget->scan.rows);
    forget->worker->calls--;
    if (!held && !forget->worker->ending &&
        filter_shapes_drop(&forget->worker->broker->shapes, forget->place, forget->asked))
        wait_for_workers(forget);
    else
        next_place(forget);
}

static void next_place(struct filter_forget *forget)
{
    struct broker_worker *worker = forget->worker;
    unsigned place = LIMIT_FILTER_SHAPES;
    if (forget->left > 0 && !worker->ending)
        place = filter_shapes_next(&worker->broker->shapes, forget->place, &forget->asked);
    forget->busy = place < LIMIT_FILTER_SHAPES;
    if (!forget->busy)
        return;
    forget->left--;
    forget->place = place;
    uint64_t first = (uint64_t)place << FILTER_PLACE_SHIFT;
    filter_holder_key(first, 0, forget->first);
    filter_holder_key(first | ((1ULL << FILTER_PLACE_SHIFT) - 1), UINT64_MAX, forget->end);
    forget->scan = (struct storage_scan){.first = span_of(forget->first, sizeof forget->first),
                                         .end = span_of(forget->end, sizeof forget->end),
                                         .limit = 1};
    request_init(&forget->scan.request, worker->loop, looked);
    worker->calls++;
    log_rows_scan(worker->broker->log, &forget->scan);
}

void filter_forget_round(struct broker *broker)
{
    struct filter_forget *forget = broker->forget;
    if (forget->busy)
        return;
    forget->left = filter_shapes_crowded(&broker->shapes) ? LIMIT_FILTER_SHAPES : 1;
    next_place(forget);
}

void filter_forget_start(struct broker_worker *worker)
{
    if (worker->index != 0)
        return;
    worker->broker->forget = heap_new(sizeof *worker->broker->forget);
    worker->broker->forget->worker = worker;
}

void filter_forget_free(struct broker *broker)
{
    heap_free(broker->forget);
}
