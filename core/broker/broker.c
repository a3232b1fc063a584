/* SPDX-License-Identifier: Apache-2.0 */
/* The broker as a whole: it opens over a store, becomes ready, shows its figures, and ends in
 * order. */
#include "core/broker/filter_forget.h"
#include "core/broker/retained_sweep.h"
#include "core/broker/session.h"
#include "core/broker/share.h"
#include "core/broker/temporary.h"
#include "core/broker/will_wait.h"

#include "core/base/hash.h"
#include "core/base/heap.h"
#include "core/base/rng.h"
#include "core/base/trace.h"

enum { READY_POLL_MS = 2, END_POLL_MS = 2, GOODBYE_MS = 8000 };

static bool prepare(void *context, uint64_t partition, const struct batch *batch)
{
    return filter_index_prepare(context, partition, batch);
}

/* What is stored with a batch beside its records. */
static void derive(void *context, uint64_t partition, const struct batch *batch,
                   struct log_derived *derived)
{
    retained_derive(context, partition, batch, derived);
    filter_index_derive(context, partition, derived);
    struct span notes = span_of(batch->notes, batch->notes_size), key, value;
    while (session_note_row(&notes, &key, &value)) {
        struct storage_row *row = log_derived_add(derived, STORAGE_PUT, key.size, value.size);
        memcpy(log_derived_key(row), key.data, key.size);
        memcpy(log_derived_value(row), value.data, value.size);
    }
}

static void worker_init(struct broker_worker *worker, struct broker *broker, unsigned index)
{
    worker->broker = broker;
    worker->index = index;
    worker->loop = broker->options.loops[index];
    worker->catalog = catalog_new();
    list_init(&worker->clients);
    worker->budget = (struct group_budget){.note_bytes_max = LIMIT_WORKER_NOTES,
                                           .released.max = LIMIT_WORKER_RELEASED};
    map_init(&worker->seen);
    follow_init(worker);
    map_init(&worker->groups);
    map_init(&worker->queue_groups);
    publish_init(worker);
    delayed_init(worker);
    deduped_init(worker);
    retained_init(worker);
    wills_init(worker);
    catch_up_init(worker);
    selection_init(worker);
    share_init(worker);
    share_taken_init(worker);
    worker->trie = topic_trie_new(sizeof(struct interest));
    worker->log = log_worker_new(broker->log, index, worker->loop, deliver_committed, worker);
    filter_index_init(worker);
    log_worker_ask(worker->log, groups_undone);
    log_worker_prepare(worker->log, prepare);
    log_worker_derive(worker->log, derive);
}

static void worker_deinit(struct broker_worker *worker)
{
    publish_deinit(worker);
    delayed_deinit(worker);
    deduped_deinit(worker);
    retained_deinit(worker);
    wills_deinit(worker);
    deliver_deinit(worker);
    follow_deinit(worker);
    filter_index_deinit(worker);
    share_deinit(worker);
    share_taken_deinit(worker);
    map_deinit(&worker->groups);
    map_deinit(&worker->queue_groups);
    topic_trie_free(worker->trie);
    for (unsigned i = 0; worker->credentials != NULL && i < CREDENTIALS; i++)
        principal_unref(worker->credentials[i].principal);
    heap_free(worker->credentials);
    log_worker_free(worker->log);
    catalog_unref(worker->catalog);
}

struct broker *broker_open(const struct broker_options *options, struct err *err)
{
    CHECK(options->workers > 0 && options->workers <= LIMIT_WORKERS);
    hash_init();
    struct broker *broker = heap_new(sizeof *broker);
    broker->options = *options;
    broker->storage = options->storage;
    broker->worker_count = options->workers;
    broker->run = rng_u64() >> 1;
    broker->log = log_new(options->storage, options->workers);
    broker->workers = heap_array(options->workers, sizeof *broker->workers);
    list_init(&broker->changes);
    broker->retained_due_ms = INT64_MAX;
    filter_shapes_init(&broker->shapes);
    session_names_init(&broker->names);
    session_names_init(&broker->own_ids);
    entry_init(&broker->desk, options);
    broker->metrics = (struct broker_metrics){
        .dropped_slow = metric_counter("dropped_total", "Records not delivered", "reason=\"slow\""),
        .dropped_retention =
            metric_counter("dropped_total", "Records not delivered", "reason=\"retention\""),
        .dropped_encode =
            metric_counter("dropped_total", "Records not delivered", "reason=\"encode\""),
        .dropped_storage =
            metric_counter("dropped_total", "Records not delivered", "reason=\"storage\""),
        .dropped_denied =
            metric_counter("dropped_total", "Records not delivered", "reason=\"denied\""),
        .dropped_session =
            metric_counter("dropped_total", "Records not delivered", "reason=\"session_records\""),
        .dropped_bytes =
            metric_counter("dropped_total", "Records not delivered", "reason=\"session_bytes\""),
        .dropped_will = metric_counter("dropped_total", "Records not delivered", "reason=\"will\""),
        .dropped_too_large =
            metric_counter("dropped_total", "Records not delivered", "reason=\"too_large\""),
        .subscriptions = metric_gauge("subscriptions", "Subscriptions to topic filters", ""),
        .live_records =
            metric_counter("live_records_total", "Records passed on without being stored", ""),
        .stored_records = metric_counter("stored_records_total", "Records handed to the log", ""),
        .duplicates = metric_counter("duplicate_records_total",
                                     "Records not stored because they were already", ""),
        .retained_expired = metric_counter(
            "retained_expired_total", "Retained records removed because they have expired", ""),
        .batch_records = metric_histogram("batch_records", "Records in one stored batch", 1, 13),
        .delay_lateness =
            metric_histogram("delay_lateness_seconds",
                             "From when a delayed record was due to its commit", 0.001, 16),
    };
    for (unsigned i = 0; i < options->workers; i++)
        worker_init(&broker->workers[i], broker, i);
    if (administer_load(broker, err) != STATUS_OK) {
        broker_free(broker);
        return NULL;
    }
    return broker;
}

void broker_free(struct broker *broker)
{
    if (broker == NULL)
        return;
    for (unsigned i = 0; i < broker->worker_count; i++)
        worker_deinit(&broker->workers[i]);
    log_free(broker->log);
    filter_forget_free(broker);
    session_sweep_free(broker);
    will_sweep_free(broker);
    retained_sweep_free(broker);
    session_names_deinit(&broker->names);
    session_names_deinit(&broker->own_ids);
    entry_deinit(&broker->desk);
    filter_shapes_deinit(&broker->shapes);
    heap_free(broker->workers);
    heap_free(broker);
}

struct broker_worker *broker_worker(struct broker *broker, unsigned index)
{
    CHECK(index < broker->worker_count);
    return &broker->workers[index];
}

struct loop *broker_loop(const struct broker_worker *worker)
{
    return worker->loop;
}

unsigned broker_worker_index(const struct broker_worker *worker)
{
    return worker->index;
}

const struct catalog *broker_catalog(const struct broker_worker *worker)
{
    CHECK(loop_is_home(worker->loop));
    return worker->catalog;
}

enum status broker_storage_health(const struct broker_worker *worker)
{
    struct storage *storage = worker->broker->storage;
    return storage->ops->health(storage);
}

/* ------------------------------------------------ ready */

/* The last worker answers; one that ends before it was ready says so instead. */
static void ready_answer(struct broker_worker *worker)
{
    struct broker *broker = worker->broker;
    if (atomic_fetch_add(&broker->answered_workers, 1) + 1 == broker->worker_count)
        request_complete(broker->ready, atomic_load(&broker->ready_workers) == broker->worker_count
                                            ? STATUS_OK
                                            : STATUS_SHUTTING_DOWN);
}

static void ready_check(struct broker_worker *worker)
{
    if (!log_worker_is_ready(worker->log)) {
        loop_timer_start(worker->loop, &worker->timer, READY_POLL_MS);
        return;
    }
    atomic_fetch_add(&worker->broker->ready_workers, 1);
    if (worker->index == 0) {
        filter_forget_start(worker);
        session_sweep_start(worker);
        will_sweep_start(worker);
        retained_sweep_start(worker);
        temporary_sweep(worker);
    }
    ready_answer(worker);
}

static void ready_timer(struct loop_timer *timer)
{
    ready_check(container_of(timer, struct broker_worker, timer));
}

static void ready_deliver(struct mail *mail)
{
    struct broker_worker *worker = container_of(mail, struct broker_worker, start);
    worker->timer.fired = ready_timer;
    ready_check(worker);
}

void broker_when_ready(struct broker *broker, struct request *request)
{
    broker->ready = request;
    for (unsigned i = 0; i < broker->worker_count; i++) {
        broker->workers[i].start.deliver = ready_deliver;
        mailbox_post(broker->workers[i].loop, &broker->workers[i].start);
    }
}

uint32_t broker_queue_limit(const struct broker *broker)
{
    return broker->options.queue_limit == 0 ? LIMIT_QUEUES : broker->options.queue_limit;
}

bool broker_is_ready(const struct broker *broker)
{
    return atomic_load(&broker->ready_workers) == broker->worker_count &&
           atomic_load(&broker->ended_workers) == 0 &&
           broker->storage->ops->health(broker->storage) == STATUS_OK;
}

/* ------------------------------------------------ the end */

static void say_goodbye(struct broker_worker *worker)
{
    /* One that goes may take others along, so each is put back before it is told. */
    struct list told;
    list_init(&told);
    struct link *link;
    while ((link = list_pop(&worker->clients)) != NULL)
        list_push(&told, link);
    while ((link = list_pop(&told)) != NULL) {
        struct client *client = container_of(link, struct client, link);
        list_push(&worker->clients, link);
        client->ops->end(client, STATUS_SHUTTING_DOWN);
    }
}

static bool is_busy(const struct broker_worker *worker)
{
    return worker->jobs > 0 || worker->calls > 0 || worker->reads > 0 || worker->closing > 0 ||
           worker->unconfirmed > 0 || !list_is_empty(&worker->dirty) || delayed_is_busy(worker) ||
           deduped_is_busy(worker) || wills_are_busy(worker);
}

static void end_check(struct broker_worker *worker)
{
    if (is_busy(worker)) {
        loop_timer_start(worker->loop, &worker->timer, END_POLL_MS);
        return;
    }
    if (worker->goodbye_until_ms == 0) {
        say_goodbye(worker);
        worker->goodbye_until_ms = loop_now_ms(worker->loop) + GOODBYE_MS;
    }
    /* Clients stand on the broker until they have gone; their streams end within a time of their
     * own. Their seats in shares go with them, which takes a few mails. */
    bool gone =
        list_is_empty(&worker->clients) && worker->share_seats == 0 && worker->share_members == 0;
    if (!gone && loop_now_ms(worker->loop) < worker->goodbye_until_ms) {
        loop_timer_start(worker->loop, &worker->timer, END_POLL_MS);
        return;
    }
    struct broker *broker = worker->broker;
    if (!worker->left) {
        worker->left = true;
        atomic_fetch_add(&broker->left_workers, 1);
    }
    /* Wills with an id, or for later, come from any worker to the owner of their partition. */
    bool all_left = atomic_load(&broker->left_workers) == broker->worker_count;
    if (all_left) {
        deduped_close_delays(worker);
        delayed_close(worker);
        deduped_close(worker);
    }
    if (!all_left || delayed_is_busy(worker) || deduped_is_busy(worker)) {
        loop_timer_start(worker->loop, &worker->timer, END_POLL_MS);
        return;
    }
    if (atomic_fetch_add(&broker->ended_workers, 1) + 1 == broker->worker_count)
        request_complete(broker->down, STATUS_OK);
}

static void end_timer(struct loop_timer *timer)
{
    end_check(container_of(timer, struct broker_worker, timer));
}

static void end_deliver(struct mail *mail)
{
    struct broker_worker *worker = container_of(mail, struct broker_worker, stop);
    worker->ending = true;
    session_sweep_stop(worker);
    will_sweep_stop(worker);
    retained_sweep_stop(worker);
    groups_close_all(worker);
    delayed_hold(worker);
    if (worker->timer.fired == ready_timer && loop_timer_is_running(&worker->timer))
        ready_answer(worker);
    loop_timer_stop(worker->loop, &worker->timer);
    loop_timer_stop(worker->loop, &worker->retry_timer);
    selection_stop(worker);
    worker->timer.fired = end_timer;
    end_check(worker);
}

void broker_shut_down(struct broker *broker, struct request *request)
{
    broker->down = request;
    for (unsigned i = 0; i < broker->worker_count; i++) {
        broker->workers[i].stop.deliver = end_deliver;
        mailbox_post(broker->workers[i].loop, &broker->workers[i].stop);
    }
}

/* ------------------------------------------------ figures */

static void write_queue(struct buf *to, const char *name, struct span queue, double value)
{
    char label[256];
    metric_label(label, sizeof label, queue);
    buf_printf(to, "polylog_%s{queue=\"%s\"} %.0f\n", name, label, value);
}

uint64_t broker_stored(const struct broker_worker *worker, uint64_t *bytes)
{
    const struct catalog *catalog = worker->catalog;
    uint64_t records = *bytes = 0;
    for (size_t i = 0; i < catalog_queue_count(catalog); i++) {
        const struct queue *queue = catalog_queue_at(catalog, i);
        for (uint32_t k = 0; k < queue->partition_count; k++) {
            const struct partition_stat *stat = &queue->stat->partitions[k];
            records += atomic_load(&stat->end) - atomic_load(&stat->start);
            *bytes += atomic_load(&stat->bytes);
        }
    }
    return records;
}

/* Names that come and go would be series without an end. */
static bool has_figures(const struct queue *queue)
{
    return !queue_name_is_temporary(span_from_text(queue->name));
}

static void write_queues(const struct catalog *catalog, struct buf *to)
{
    buf_append_text(to, "# HELP polylog_queue_records Records kept in a queue\n"
                        "# TYPE polylog_queue_records gauge\n");
    for (size_t i = 0; i < catalog_queue_count(catalog); i++) {
        const struct queue *queue = catalog_queue_at(catalog, i);
        uint64_t records = 0;
        if (!has_figures(queue))
            continue;
        for (uint32_t k = 0; k < queue->partition_count; k++)
            records += atomic_load(&queue->stat->partitions[k].end) -
                       atomic_load(&queue->stat->partitions[k].start);
        write_queue(to, "queue_records", span_from_text(queue->name), (double)records);
    }
    buf_append_text(to, "# HELP polylog_queue_delayed Records of a queue that wait for their time\n"
                        "# TYPE polylog_queue_delayed gauge\n");
    for (size_t i = 0; i < catalog_queue_count(catalog); i++) {
        const struct queue *queue = catalog_queue_at(catalog, i);
        if (!has_figures(queue))
            continue;
        write_queue(to, "queue_delayed", span_from_text(queue->name),
                    (double)atomic_load(&queue->stat->delayed));
    }
    buf_append_text(to, "# HELP polylog_queue_bytes Stored bytes of a queue's records\n"
                        "# TYPE polylog_queue_bytes gauge\n");
    for (size_t i = 0; i < catalog_queue_count(catalog); i++) {
        const struct queue *queue = catalog_queue_at(catalog, i);
        uint64_t bytes = 0;
        if (!has_figures(queue))
            continue;
        for (uint32_t k = 0; k < queue->partition_count; k++)
            bytes += atomic_load(&queue->stat->partitions[k].bytes);
        write_queue(to, "queue_bytes", span_from_text(queue->name), (double)bytes);
    }
}

static double group_backlog(const struct group_stat *stat)
{
    return (double)atomic_load(&stat->backlog);
}

static double group_in_flight(const struct group_stat *stat)
{
    return (double)atomic_load(&stat->in_flight);
}

static double group_oldest(const struct group_stat *stat)
{
    int64_t oldest_ms = atomic_load(&stat->oldest_ms);
    int64_t age_ms = oldest_ms == 0 ? 0 : clock_wall_ms() - oldest_ms;
    return age_ms > 0 ? (double)(age_ms / 1000) : 0;
}

static double group_held(const struct group_stat *stat)
{
    return (double)atomic_load(&stat->held_bytes);
}

static double group_lost(const struct group_stat *stat)
{
    return (double)atomic_load(&stat->lost);
}

static void write_groups(const struct catalog *catalog, struct buf *to, const char *name,
                         const char *type, const char *help,
                         double (*value)(const struct group_stat *))
{
    buf_printf(to, "# HELP polylog_%s %s\n# TYPE polylog_%s %s\n", name, help, name, type);
    for (size_t i = 0; i < catalog_queue_count(catalog); i++) {
        const struct queue *queue = catalog_queue_at(catalog, i);
        for (size_t k = 0; has_figures(queue) && k < catalog_group_count(catalog, queue->id); k++) {
            const struct group_spec *group = catalog_group_at(catalog, queue->id, k);
            buf_printf(to, "polylog_%s{queue=\"%s\",group=\"%s\"} %.0f\n", name, queue->name,
                       group->name, value(group->stat));
        }
    }
}

/* What storage emits: plain numbers, and the buckets, sum and count of one histogram. */
struct storage_text {
    struct buf *to;
    bool histogram; /* its line was written */
};

static void emit_storage(void *context, const char *name, double value)
{
    struct storage_text *text = context;
    bool histogram = strncmp(name, "sync_seconds_", strlen("sync_seconds_")) == 0;
    if (histogram && !text->histogram)
        buf_printf(text->to, "# TYPE polylog_sync_seconds histogram\n");
    text->histogram |= histogram;
    if (!histogram && strchr(name, '{') == NULL)
        buf_printf(text->to, "# TYPE polylog_%s untyped\n", name);
    buf_printf(text->to, "polylog_%s %.9g\n", name, value);
}

enum status broker_metrics(struct broker_worker *worker, struct buf *to)
{
    struct broker *broker = worker->broker;
    enum status status = metrics_write(to);
    write_queues(worker->catalog, to);
    write_groups(worker->catalog, to, "group_backlog", "gauge", "Records a group has not done",
                 group_backlog);
    write_groups(worker->catalog, to, "group_in_flight", "gauge", "Records under lease",
                 group_in_flight);
    write_groups(worker->catalog, to, "group_oldest_seconds", "gauge",
                 "Age of the oldest record that a group has not done", group_oldest);
    struct storage_text storage = {.to = to};
    write_groups(worker->catalog, to, "group_held_bytes", "gauge",
                 "Bytes of the log from the oldest record on that a group has not done",
                 group_held);
    write_groups(worker->catalog, to, "group_lost_total", "counter",
                 "Records that were gone before a group had done them", group_lost);
    if (broker->storage->ops->metrics != NULL)
        broker->storage->ops->metrics(broker->storage, emit_storage, &storage);
    buf_printf(to, "# TYPE polylog_build_info gauge\npolylog_build_info{version=\"%s\"} 1\n",
               POLYLOG_VERSION);
    return status;
}
