/* SPDX-License-Identifier: Apache-2.0 */
/* The registry is a mutex over families of cells; counting itself takes no lock. Text format 0.0.4.
 */
#include "core/broker/metrics.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>

#include "core/base/check.h"
#include "core/base/heap.h"
#include "core/base/map.h"
#include "core/base/utf8.h"

enum { CELLS = 4096, BOUNDS = 64, SHARDS = 8, LINE = 64 };

enum kind { KIND_COUNTER, KIND_GAUGE, KIND_HISTOGRAM };

struct series {
    char *labels;
    struct metric *metric;
};

/* All cells of one name: help and type are written once, before them. */
struct family {
    struct family *next; /* in the order of registration */
    char *name;
    char *help;
    enum kind kind;
    struct series *series;
    size_t count;
    size_t capacity;
    struct metric_histogram *histogram;
};

/* What a thread counts into, so that workers do not fight for cache lines. Bucket i holds what is
 * at most bound i; the last one holds the rest. */
struct shard {
    _Alignas(LINE) _Atomic double sum;
    _Atomic uint64_t buckets[BOUNDS + 1];
};

struct metric_histogram {
    double first_bound;
    unsigned bounds;
    struct shard *shards;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct map families; /* by name */
static struct family *first_family;
static struct family **last_family = &first_family;
static struct map cells; /* by name, line feed, labels */
static _Alignas(LINE) struct metric cell_memory[CELLS];
static size_t cell_count;

static struct family *family_get(const char *name, const char *help, enum kind kind)
{
    struct family *family = map_get(&families, span_from_text(name));
    if (family == NULL) {
        family = heap_new(sizeof *family);
        family->name = heap_text(name, strlen(name));
        family->help = heap_text(help, strlen(help));
        family->kind = kind;
        map_put(&families, span_from_text(family->name), family);
        *last_family = family;
        last_family = &family->next;
    }
    CHECK(family->kind == kind);
    return family;
}

static struct metric *family_add(struct family *family, const char *labels, struct metric *metric)
{
    if (family->count == family->capacity) {
        family->capacity = family->capacity == 0 ? 4 : family->capacity * 2;
        family->series = heap_resize(family->series, family->capacity * sizeof *family->series);
    }
    family->series[family->count++] =
        (struct series){.labels = heap_text(labels, strlen(labels)), .metric = metric};
    return metric;
}

/* The last cell takes everything that finds no room, under a name that says so. */
static struct metric *overflow_cell(void)
{
    struct metric *metric = &cell_memory[CELLS - 1];
    struct family *family = family_get(
        "metrics_overflow", "Updates of metrics beyond the number that is kept", KIND_GAUGE);
    return family->count == 0 ? family_add(family, "labels=\"other\"", metric) : metric;
}

static struct metric *cell_get(const char *name, const char *help, const char *labels,
                               enum kind kind)
{
    size_t name_size = strlen(name), labels_size = strlen(labels);
    size_t key_size = name_size + 1 + labels_size;
    char *key = heap_new(key_size + 1);
    memcpy(key, name, name_size);
    key[name_size] = '\n';
    memcpy(key + name_size + 1, labels, labels_size);

    pthread_mutex_lock(&lock);
    struct metric *metric = map_get(&cells, span_of(key, key_size));
    if (metric == NULL && cell_count == CELLS - 1) {
        metric = overflow_cell();
    } else if (metric == NULL) {
        metric = family_add(family_get(name, help, kind), labels, &cell_memory[cell_count++]);
        map_put(&cells, span_of(key, key_size), metric);
        key = NULL;
    }
    pthread_mutex_unlock(&lock);
    heap_free(key);
    return metric;
}

struct metric *metric_counter(const char *name, const char *help, const char *labels)
{
    return cell_get(name, help, labels, KIND_COUNTER);
}

struct metric *metric_gauge(const char *name, const char *help, const char *labels)
{
    return cell_get(name, help, labels, KIND_GAUGE);
}

/* ---------------------------------------------------------------- histograms */

/* heap_array promises no cache line; the memory lives for ever, so its start may be forgotten. */
static struct shard *shards_new(void)
{
    _Static_assert(sizeof(struct shard) % LINE == 0, "shards do not share lines");
    uint8_t *memory = heap_array(SHARDS + 1, sizeof(struct shard));
    return (struct shard *)(void *)(memory + (LINE - (uintptr_t)memory % LINE));
}

struct metric_histogram *metric_histogram(const char *name, const char *help, double first_bound,
                                          unsigned bounds)
{
    CHECK(first_bound > 0 && bounds > 0 && bounds <= BOUNDS);
    pthread_mutex_lock(&lock);
    struct family *family = family_get(name, help, KIND_HISTOGRAM);
    if (family->histogram == NULL) {
        family->histogram = heap_new(sizeof *family->histogram);
        *family->histogram = (struct metric_histogram){
            .first_bound = first_bound, .bounds = bounds, .shards = shards_new()};
    }
    pthread_mutex_unlock(&lock);
    return family->histogram;
}

/* The first bucket whose bound, first_bound * 2^i, is not below value. */
static unsigned bucket_of(const struct metric_histogram *histogram, double value)
{
    double ratio = value / histogram->first_bound;
    if (ratio <= 1)
        return 0;
    int exponent;
    double fraction =
        frexp(ratio, &exponent); /* ratio = fraction * 2^exponent, fraction in [0.5, 1) */
    if (isinf(ratio) || exponent > (int)histogram->bounds)
        return histogram->bounds;
    unsigned bucket = (unsigned)(fraction == 0.5 ? exponent - 1 : exponent);
    return bucket < histogram->bounds ? bucket : histogram->bounds;
}

static struct shard *shard_of_thread(const struct metric_histogram *histogram)
{
    static atomic_uint threads;
    static _Thread_local unsigned number; /* 0: not numbered yet */
    if (number == 0)
        number = atomic_fetch_add_explicit(&threads, 1, memory_order_relaxed) % SHARDS + 1;
    return &histogram->shards[number - 1];
}

void metric_observe(struct metric_histogram *histogram, double value)
{
    if (isnan(value))
        return;
    struct shard *shard = shard_of_thread(histogram);
    atomic_fetch_add_explicit(&shard->buckets[bucket_of(histogram, value)], 1,
                              memory_order_relaxed);
    double sum = atomic_load_explicit(&shard->sum, memory_order_relaxed);
    while (!atomic_compare_exchange_weak_explicit(&shard->sum, &sum, sum + value,
                                                  memory_order_relaxed, memory_order_relaxed))
        continue;
}

/* ---------------------------------------------------------------- text */

/* Helps may hold any text: backslash and line feed are escaped, as the format asks. */
static enum status help_write(struct buf *to, const char *help)
{
    enum status status = STATUS_OK;
    for (; *help != '\0' && status == STATUS_OK; help++) {
        if (*help == '\\' || *help == '\n')
            status = buf_append_text(to, *help == '\n' ? "\\n" : "\\\\");
        else
            status = buf_append(to, help, 1);
    }
    return status;
}

static enum status head_write(struct buf *to, const struct family *family)
{
    static const char *const kinds[] = {"counter", "gauge", "histogram"};
    enum status status = buf_printf(to, "# HELP polylog_%s ", family->name);
    if (status == STATUS_OK)
        status = help_write(to, family->help);
    if (status == STATUS_OK)
        status = buf_printf(to, "\n# TYPE polylog_%s %s\n", family->name, kinds[family->kind]);
    return status;
}

static enum status series_write(struct buf *to, const char *name, const struct series *series)
{
    int64_t value = atomic_load_explicit(&series->metric->value, memory_order_relaxed);
    if (series->labels[0] == '\0')
        return buf_printf(to, "polylog_%s %lld\n", name, (long long)value);
    return buf_printf(to, "polylog_%s{%s} %lld\n", name, series->labels, (long long)value);
}

/* Buckets are cumulative in the text. The count is their sum, so that it always agrees with +Inf.
 */
static enum status histogram_write(struct buf *to, const char *name,
                                   const struct metric_histogram *histogram)
{
    uint64_t count = 0;
    double bound = histogram->first_bound, sum = 0;
    enum status status = STATUS_OK;
    for (unsigned i = 0; i <= histogram->bounds && status == STATUS_OK; i++, bound *= 2) {
        for (unsigned shard = 0; shard < SHARDS; shard++)
            count +=
                atomic_load_explicit(&histogram->shards[shard].buckets[i], memory_order_relaxed);
        char text[32] = "+Inf";
        if (i < histogram->bounds)
            snprintf(text, sizeof text, "%.9g", bound);
        status = buf_printf(to, "polylog_%s_bucket{le=\"%s\"} %llu\n", name, text,
                            (unsigned long long)count);
    }
    for (unsigned shard = 0; shard < SHARDS; shard++)
        sum += atomic_load_explicit(&histogram->shards[shard].sum, memory_order_relaxed);
    if (status == STATUS_OK)
        status = buf_printf(to, "polylog_%s_sum %.12g\npolylog_%s_count %llu\n", name, sum, name,
                            (unsigned long long)count);
    return status;
}

static enum status family_write(struct buf *to, const struct family *family)
{
    enum status status = head_write(to, family);
    for (size_t i = 0; i < family->count && status == STATUS_OK; i++)
        status = series_write(to, family->name, &family->series[i]);
    if (family->histogram != NULL && status == STATUS_OK)
        status = histogram_write(to, family->name, family->histogram);
    return status;
}

enum status metrics_write(struct buf *to)
{
    enum status status = STATUS_OK;
    pthread_mutex_lock(&lock);
    for (struct family *family = first_family; family != NULL && status == STATUS_OK;
         family = family->next)
        status = family_write(to, family);
    pthread_mutex_unlock(&lock);
    return status;
}

/* How many bytes of value make up the character at its front. */
static size_t character_size(uint8_t first)
{
    return first < 0x80 ? 1 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
}

/* Cuts between characters, never inside one or inside an escape. What is not UTF-8 shows as '?'. */
void metric_label(char *to, size_t size, struct span value)
{
    CHECK(size > 0);
    bool valid = utf8_is_valid(value);
    size_t used = 0;
    for (size_t i = 0; i < value.size;) {
        uint8_t c = value.data[i];
        size_t part = valid ? character_size(c) : 1;
        char text[4] = {'\\', (char)c};
        size_t text_size = 2;
        if (c == '\n') {
            text[1] = 'n';
        } else if (c != '\\' && c != '"') {
            text_size = part;
            memcpy(text, value.data + i, part);
            if (c >= 0x80 && !valid)
                text[0] = '?';
        }
        if (used + text_size >= size)
            break;
        memcpy(to + used, text, text_size);
        used += text_size;
        i += part;
    }
    to[used] = '\0';
}
