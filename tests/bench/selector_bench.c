/* SPDX-License-Identifier: Apache-2.0 */
/* Finding a few records among many on one core: by labels (batch footers, then records) and by
 * selectors. Prints one JSON object per case; rates are of CPU time, so that a busy machine counts
 * less. With a directory (new, empty) the records also go into a store there and are found through
 * the log, all threads counted. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "core/base/check.h"
#include "core/base/hash.h"
#include "core/log/log.h"
#include "core/queue/label.h"
#include "core/queue/selector.h"
#include "storage/rocksdb/rocksdb.h"

enum { BATCH_RECORDS = 500, COMMON = 32, MATCHES = 10, ROUNDS = 3, EVALUATIONS = 2000000 };

/* The queue: batches that repeat, and among them as many rare ones as there are matches. */
struct queue {
    struct batch *common[COMMON];
    struct batch *rare;
    uint64_t batches;
};

static const char *const regions[] = {"eu-1", "eu-2", "us-1", "us-2", "ap-1"};
static const char *const kinds[] = {"telemetry", "state", "event", "audit", "billing", "debug"};

static void add_record(struct batch_builder *builder, unsigned number, bool rare)
{
    char serial[16], temperature[16], topic[48], labels[40];
    static const uint8_t value[100];
    snprintf(serial, sizeof serial, "%08u", number * 7919);
    snprintf(temperature, sizeof temperature, "%.1f", rare ? 97.5 : (number % 900) / 10.0);
    snprintf(topic, sizeof topic, "site/%u/device/%u/data", number % 40, number);
    snprintf(labels, sizeof labels, "%s,shift-%u", rare ? "alarm" : kinds[number % 6], number % 3);
    const struct header headers[] = {
        {span_from_text(HEADER_TOPIC), span_from_text(topic)},
        {span_from_text(HEADER_PUBLISHER), span_from_text("device-user")},
        {span_from_text(HEADER_CONTENT_TYPE), span_from_text("application/json")},
        {span_from_text(HEADER_LABELS), span_from_text(labels)},
        {span_from_text("serial"), span_from_text(serial)},
        {span_from_text("region"), span_from_text(regions[number % 5])},
        {span_from_text("temperature"), span_from_text(temperature)},
    };
    struct record_input input = {.timestamp_ms = 1700000000000 + number,
                                 .value = span_of(value, sizeof value),
                                 .headers = headers,
                                 .header_count = sizeof headers / sizeof headers[0]};
    CHECK(batch_builder_add(builder, &input) == STATUS_OK);
}

static void queue_make(struct queue *queue, uint64_t records)
{
    struct batch_builder builder;
    batch_builder_init(&builder);
    for (unsigned i = 0; i <= COMMON; i++) {
        for (unsigned k = 0; k < BATCH_RECORDS; k++)
            add_record(&builder, i * BATCH_RECORDS + k, i == COMMON && k == BATCH_RECORDS / 2);
        struct batch *batch = batch_builder_seal(&builder);
        if (i < COMMON)
            queue->common[i] = batch;
        else
            queue->rare = batch;
    }
    queue->batches = records / BATCH_RECORDS;
    batch_builder_deinit(&builder);
}

static struct batch *queue_at(const struct queue *queue, uint64_t number)
{
    if (number % (queue->batches / MATCHES) == 0)
        return queue->rare;
    return queue->common[number % COMMON];
}

struct search {
    const char *name;
    const struct label_filter *labels; /* or NULL */
    const char *selector;              /* or NULL */
    bool reopen;     /* each batch is opened as after a storage read: CRC and framing are checked */
    bool footerless; /* as batches that a foreign producer built */
};

static bool matches(const struct search *search, const struct selector *selector,
                    const struct record *record)
{
    if (search->labels != NULL && !label_matches(search->labels, record))
        return false;
    return selector == NULL || selector_matches(selector, record);
}

static unsigned search_batch(const struct search *search, const struct selector *selector,
                             const struct batch *batch)
{
    unsigned found = 0;
    if (search->labels != NULL && !search->footerless &&
        !label_footer_may_match(search->labels, batch))
        return 0;
    for (uint32_t i = 0; i < batch->record_count; i++) {
        struct record record;
        batch_record(batch, i, &record);
        found += matches(search, selector, &record);
    }
    return found;
}

static double cpu_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static void run(const struct queue *queue, const struct search *search)
{
    struct selector *selector = NULL;
    if (search->selector != NULL)
        CHECK(selector_compile(span_from_text(search->selector), &selector, NULL) == STATUS_OK);
    double best = 0;
    unsigned found = 0;
    for (unsigned round = 0; round < ROUNDS; round++) {
        double start = cpu_seconds();
        found = 0;
        for (uint64_t i = 0; i < queue->batches; i++) {
            struct batch *batch = queue_at(queue, i), *opened = NULL;
            if (search->reopen) {
                CHECK(batch_open(batch->bytes, 0, &opened) == STATUS_OK);
                opened->footer = batch->footer;
                opened->unlabelled = batch->unlabelled;
            }
            found += search_batch(search, selector, opened != NULL ? opened : batch);
            batch_unref(opened);
        }
        double seconds = cpu_seconds() - start;
        best = round == 0 || seconds < best ? seconds : best;
    }
    CHECK(found == MATCHES);
    double records = (double)(queue->batches * BATCH_RECORDS);
    printf("{\"case\": \"%s\", \"records\": %.0f, \"found\": %u, \"million_records_s\": %.1f, "
           "\"ns_per_record\": %.2f}\n",
           search->name, records, found, records / best / 1e6, best / records * 1e9);
    selector_unref(selector);
}

/* One record, the same selector again and again. */
static void evaluate(const struct queue *queue, const char *text)
{
    struct selector *selector;
    struct record record;
    double best = 0;
    unsigned found = 0;
    CHECK(selector_compile(span_from_text(text), &selector, NULL) == STATUS_OK);
    for (unsigned round = 0; round < ROUNDS; round++) {
        double start = cpu_seconds();
        for (unsigned i = 0; i < EVALUATIONS; i++) {
            if (i % BATCH_RECORDS == 0)
                batch_record(queue->common[i / BATCH_RECORDS % COMMON], 7, &record);
            found += selector_matches(selector, &record);
        }
        double seconds = cpu_seconds() - start;
        best = round == 0 || seconds < best ? seconds : best;
    }
    printf("{\"selector\": \"%s\", \"ns_per_evaluation\": %.0f, \"true\": %s}\n", text,
           best / EVALUATIONS * 1e9, found > 0 ? "true" : "false");
    selector_unref(selector);
}

/* Through log and engine */

struct store {
    struct storage *storage;
    struct loop *loop;
    struct log *log;
    struct log_worker *worker;
    struct partition_stat stat;
};

static struct loop *running;

static void end(struct request *request, enum status status)
{
    (void)request;
    CHECK(status == STATUS_OK);
    loop_stop(running);
}

static void store_open(struct store *store)
{
    static const struct partition_spec spec = {.id = 1, .class = STORAGE_3_DAYS};
    store->log = log_new(store->storage, 1);
    store->worker = log_worker_new(store->log, 0, store->loop, NULL, NULL);
    log_partition_open(store->worker, &spec, &store->stat);
}

static void store_close(struct store *store)
{
    log_worker_free(store->worker);
    log_free(store->log);
}

static void store_fill(struct store *store, const struct queue *queue)
{
    for (uint64_t i = 0; i < queue->batches; i++) {
        struct blob *bytes =
            blob_copy(span_of(queue_at(queue, i)->bytes->bytes,
                              queue_at(queue, i)->bytes->size + queue_at(queue, i)->footer.size));
        struct log_append append = {.partition = 1};
        bytes->size = queue_at(queue, i)->bytes->size;
        CHECK(batch_open(bytes, 0, &append.batch) == STATUS_OK);
        append.batch->footer = span_of(bytes->bytes + bytes->size, queue_at(queue, i)->footer.size);
        request_init(&append.request, store->loop, end);
        log_append(store->worker, &append);
        loop_run(store->loop);
        batch_unref(append.batch);
        blob_unref(bytes);
    }
}

static unsigned read_all(struct store *store, const struct search *search,
                         const struct selector *selector)
{
    unsigned found = 0;
    struct log_read read = {.partition = 1};
    do {
        request_init(&read.request, store->loop, end);
        log_read(store->worker, &read);
        loop_run(store->loop);
        for (uint32_t i = 0; i < read.count; i++) {
            found += search_batch(search, selector, read.batches[i]);
            read.offset = batch_end(read.batches[i]);
            batch_unref(read.batches[i]);
        }
    } while (read.count > 0);
    return found;
}

static void run_stored(struct store *store, const struct queue *queue, const struct search *search)
{
    struct selector *selector = NULL;
    struct timespec cpu[2], wall[2];
    if (search->selector != NULL)
        CHECK(selector_compile(span_from_text(search->selector), &selector, NULL) == STATUS_OK);
    store_open(store); /* without a tail cache */
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu[0]);
    clock_gettime(CLOCK_MONOTONIC, &wall[0]);
    CHECK(read_all(store, search, selector) == MATCHES);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu[1]);
    clock_gettime(CLOCK_MONOTONIC, &wall[1]);
    store_close(store);
    double records = (double)(queue->batches * BATCH_RECORDS), rates[2];
    const struct timespec *times[] = {cpu, wall};
    for (unsigned i = 0; i < 2; i++)
        rates[i] = records / ((double)(times[i][1].tv_sec - times[i][0].tv_sec) * 1e6 +
                              (double)(times[i][1].tv_nsec - times[i][0].tv_nsec) / 1e3);
    printf("{\"case\": \"%s\", \"records\": %.0f, \"million_records_cpu_s\": %.1f, "
           "\"million_records_wall_s\": %.1f}\n",
           search->name, records, rates[0], rates[1]);
    selector_unref(selector);
}

static void through_the_log(const char *directory, const struct queue *queue,
                            const struct search *searches, size_t count)
{
    struct store store = {0};
    struct storage_options options = {.directory = directory};
    struct err err = {""};
    if (rocksdb_storage_ops.open(&options, &store.storage, &err) != STATUS_OK) {
        fprintf(stderr, "%s\n", err.text);
        exit(1);
    }
    running = store.loop = loop_new();
    store_open(&store);
    store_fill(&store, queue);
    store_close(&store);
    for (size_t i = 0; i < count; i++)
        run_stored(&store, queue, &searches[i]);
    store.storage->ops->close(store.storage);
    loop_free(store.loop);
}

int main(int argc, char **argv)
{
    static struct queue queue;
    uint64_t records = argc > 1 ? strtoull(argv[1], NULL, 10) : 10000000;
    if (records < BATCH_RECORDS * MATCHES) {
        fprintf(stderr, "selector_bench [RECORDS, at least %u [DIRECTORY]]\n",
                BATCH_RECORDS * MATCHES);
        return 2;
    }
    hash_init();
    queue_make(&queue, records);
    const struct label_filter alarm = {.labels = {span_from_text("alarm")}, .count = 1};
    const char *by_property =
        "temperature > 95 AND region IN ('eu-1', 'us-1', 'ap-1', 'eu-2', 'us-2')";
    const struct search searches[] = {
        {"labels, tail", &alarm, NULL, false, false},
        {"labels, read from storage", &alarm, NULL, true, false},
        {"labels, no footer, tail", &alarm, NULL, false, true},
        {"labels, no footer, read from storage", &alarm, NULL, true, true},
        {"selector, tail", NULL, by_property, false, false},
        {"selector, read from storage", NULL, by_property, true, false},
        {"labels and selector, read from storage", &alarm, by_property, true, false},
    };
    for (size_t i = 0; i < sizeof searches / sizeof searches[0]; i++)
        run(&queue, &searches[i]);
    const struct search stored[] = {
        {"labels, through the log", &alarm, NULL, false, false},
        {"labels, no footer, through the log", &alarm, NULL, false, true},
        {"selector, through the log", NULL, by_property, false, false},
    };
    if (argc > 2)
        through_the_log(argv[2], &queue, stored, sizeof stored / sizeof stored[0]);
    static const char *const selectors[] = {
        "JMSPriority = 4",
        "region = 'eu-1'",
        "temperature > 95",
        "temperature > 95 AND region IN ('eu-1', 'us-1')",
        "serial LIKE '%55%' OR topic LIKE 'site/_/device/%/data'",
        "(temperature - 32) * 5 / 9 BETWEEN -10 AND 40 AND region <> 'eu-2' AND missing IS NULL",
    };
    for (size_t i = 0; i < sizeof selectors / sizeof selectors[0]; i++)
        evaluate(&queue, selectors[i]);
    for (unsigned i = 0; i < COMMON; i++)
        batch_unref(queue.common[i]);
    batch_unref(queue.rare);
    return 0;
}
