/* SPDX-License-Identifier: Apache-2.0 */
/* Reads the catalog back at start, before the loops run; an empty store gets its first queue. */
#include "core/broker/change.h"
#include "core/broker/worker.h"

#include "core/base/reader.h"
#include "core/log/table.h"

struct load {
    struct storage_scan scan;
    struct log_rows rows;
    struct loop *loop;
    enum status status;
};

static void scan_done(struct request *request, enum status status)
{
    struct load *load = container_of(request, struct load, scan.request);
    load->status = status;
    loop_stop(load->loop);
}

/* Of sessions nothing is loaded; whether there are any says whether a name has to be looked up. */
static enum status load_filter_meta(struct broker *broker, struct catalog *catalog, struct span key,
                                    struct span value)
{
    (void)catalog;
    atomic_store(&broker->sessions_kept, true);
    return filter_shapes_load(&broker->shapes, key, value);
}

typedef enum status load_row(struct broker *broker, struct catalog *catalog, struct span key,
                             struct span value);

static enum status load_counters(struct broker *broker, struct catalog *catalog, struct span key,
                                 struct span value)
{
    (void)catalog;
    if (!span_is(span_from(key, 1), change_counters))
        return STATUS_OK;
    struct reader reader = reader_of(value);
    if (reader_u8(&reader) != 1)
        return STATUS_UNSUPPORTED;
    broker->next_id = reader_u64(&reader);
    broker->next_partition = reader_u64(&reader);
    return reader.failed ? STATUS_CORRUPT : STATUS_OK;
}

static enum status load_queue(struct broker *broker, struct catalog *catalog, struct span key,
                              struct span value)
{
    (void)broker;
    (void)key;
    struct queue *queue;
    enum status status = queue_decode(value, &queue);
    if (status != STATUS_OK)
        return status;
    queue->stat = queue_stat_new(queue->partition_count);
    catalog_put_queue(catalog, queue);
    return STATUS_OK;
}

static enum status load_group(struct broker *broker, struct catalog *catalog, struct span key,
                              struct span value)
{
    (void)broker;
    (void)key;
    struct group_spec *group;
    enum status status = group_spec_decode(value, &group);
    if (status != STATUS_OK)
        return status;
    const struct queue *queue = catalog_queue(catalog, group->queue);
    if (queue == NULL) { /* which is in no write that a queue goes with */
        group_spec_unref(group);
        return STATUS_OK;
    }
    group->stat = group_stat_new(queue->partition_count);
    catalog_put_group(catalog, group);
    return STATUS_OK;
}

static enum status load_route(struct broker *broker, struct catalog *catalog, struct span key,
                              struct span value)
{
    (void)broker;
    (void)key;
    struct route *route;
    enum status status = route_decode(value, &route);
    if (status == STATUS_OK)
        catalog_put_route(catalog, route);
    return status;
}

static enum status load_principal(struct broker *broker, struct catalog *catalog, struct span key,
                                  struct span value)
{
    (void)broker;
    (void)key;
    struct principal *principal;
    enum status status = principal_decode(value, &principal);
    if (status == STATUS_OK)
        catalog_put_principal(catalog, principal);
    return status;
}

static enum status load_table(struct broker *broker, struct catalog *catalog, enum table table,
                              load_row *row)
{
    uint8_t first[512] = {(uint8_t)table};
    size_t first_size = 1;
    uint8_t end[1] = {(uint8_t)(table + 1)};
    struct load load = {.loop = loop_new()};
    enum status status = STATUS_OK;
    bool more = true;
    while (more && status == STATUS_OK) {
        memset(&load.scan, 0, sizeof load.scan);
        request_init(&load.scan.request, load.loop, scan_done);
        load.scan.first = span_of(first, first_size);
        load.scan.end = span_of(end, 1);
        log_rows_scan(broker->log, &load.scan);
        loop_run(load.loop);
        status = load.status;
        more = load.scan.more;
        struct span key, value;
        for (size_t at = 0;
             status == STATUS_OK && storage_scan_next(&load.scan, &at, &key, &value);) {
            status = row(broker, catalog, key, value);
            if (key.size < sizeof first - 1) { /* the next page begins just after this key */
                memcpy(first, key.data, key.size);
                first[key.size] = 0;
                first_size = key.size + 1;
            }
        }
        blob_unref(load.scan.rows);
    }
    loop_free(load.loop);
    return status;
}

static enum status load_retained(struct broker *broker, struct catalog *catalog, struct span key,
                                 struct span value)
{
    (void)catalog;
    (void)key;
    (void)value;
    atomic_store(&broker->retained_any, true);
    atomic_store(&broker->retained_due_ms, 0);
    return STATUS_EXISTS; /* one is enough to know */
}

static void rows_done(struct request *request, enum status status)
{
    struct load *load = container_of(request, struct load, rows.request);
    load->status = status;
    loop_stop(load->loop);
}

/* An empty store: the built-in queue, stored before anybody may use it. */
static enum status make_first(struct broker *broker, struct catalog *catalog)
{
    struct broker_admin admin = {.worker = &broker->workers[0]};
    enum status status = change_first(broker, &admin, catalog);
    if (status != STATUS_OK)
        return status;
    struct load load = {.loop = loop_new()};
    request_init(&load.rows.request, load.loop, rows_done);
    load.rows.rows = admin.row;
    load.rows.row_count = admin.row_count;
    load.rows.append.durability = DURABLE_SYNC;
    log_rows_write(broker->log, &load.rows);
    loop_run(load.loop);
    loop_free(load.loop);
    for (unsigned i = 0; i < 4; i++)
        buf_deinit(&admin.buffers[i]);
    return load.status;
}

/* An id must never be given twice. */
static bool counters_cover(const struct broker *broker, const struct catalog *catalog)
{
    uint64_t highest = 0, partitions = 0;
    for (size_t i = 0; i < catalog_queue_count(catalog); i++) {
        const struct queue *queue = catalog_queue_at(catalog, i);
        uint64_t end = queue->first_partition + queue->partition_count;
        highest = queue->id > highest ? queue->id : highest;
        partitions = end > partitions ? end : partitions;
        for (size_t k = 0; k < catalog_group_count(catalog, queue->id); k++) {
            uint64_t id = catalog_group_at(catalog, queue->id, k)->id;
            highest = id > highest ? id : highest;
        }
    }
    for (size_t i = 0; i < catalog_route_count(catalog); i++)
        if (catalog_route_at(catalog, i)->id > highest)
            highest = catalog_route_at(catalog, i)->id;
    for (size_t i = 0; i < catalog_principal_count(catalog); i++)
        if (catalog_principal_at(catalog, i)->id > highest)
            highest = catalog_principal_at(catalog, i)->id;
    return broker->next_id > highest && broker->next_partition >= partitions;
}

enum status administer_load(struct broker *broker, struct err *err)
{
    static const struct {
        enum table table;
        load_row *row;
        const char *what;
    } tables[] = {
        {TABLE_META, load_counters, "counters"},
        {TABLE_QUEUE, load_queue, "queues"},
        {TABLE_GROUP, load_group, "groups"},
        {TABLE_ROUTE, load_route, "routes"},
        {TABLE_PRINCIPAL, load_principal, "users"},
        {TABLE_FILTER_META, load_filter_meta, "filters"},
    };
    struct catalog *catalog = catalog_new();
    enum status status = STATUS_OK;
    for (unsigned i = 0; i < sizeof tables / sizeof *tables && status == STATUS_OK; i++) {
        status = load_table(broker, catalog, tables[i].table, tables[i].row);
        if (status != STATUS_OK)
            err_set(err, status, "the stored %s cannot be read: %s", tables[i].what,
                    status_text(status));
    }
    if (status == STATUS_OK) {
        status = load_table(broker, catalog, TABLE_RETAINED, load_retained);
        if (status == STATUS_EXISTS)
            status = STATUS_OK;
        else if (status != STATUS_OK)
            err_set(err, status, "the stored retained records cannot be read: %s",
                    status_text(status));
    }
    if (status == STATUS_OK && catalog_queue_count(catalog) == 0) {
        status = make_first(broker, catalog);
        if (status != STATUS_OK)
            err_set(err, status, "the first queue could not be stored: %s", status_text(status));
    }
    if (status == STATUS_OK && !counters_cover(broker, catalog))
        status = err_set(err, STATUS_CORRUPT, "the stored counters are below ids in use");
    for (unsigned i = 0; i < broker->worker_count && status == STATUS_OK; i++) {
        administer_apply(&broker->workers[i], catalog_ref(catalog));
        delayed_open(&broker->workers[i]);
        deduped_open(&broker->workers[i]);
    }
    catalog_unref(catalog);
    return status;
}
