/* SPDX-License-Identifier: Apache-2.0 */
/* The rows of a group: an epoch, and per partition a snapshot of its window, the deltas since, what
 * was moved elsewhere (written with the batch that it went into, so it may be ahead of them), and
 * what units have settled that no delta says yet.
 *
 *   open:   scan epoch, snapshots, deltas, moved, units -> probe bounds
 *             -> write epoch + 1 and new snapshots -> serve
 *   flush:  one write at a time holds the changes of all partitions; the next grows meanwhile */
#include "core/queue/group_impl.h"

#include "core/base/check.h"
#include "core/base/heap.h"
#include "core/base/pack.h"
#include "core/base/reader.h"
#include "core/base/trace.h"
#include "core/log/table.h"

enum { DELTAS_MAX = 512, ROW_LIMIT = 64 * 1024 * 1024, REWRITE_MS = 1000, EPOCH_VERSION = 1 };
enum { EPOCH_TAKEN = 2 }; /* the version of those that may be forgotten */
enum { KEY_EPOCH = 9, KEY_SNAPSHOT = 17, KEY_DELTA = 25, KEY_MOVED = 25 };

static struct span key_group(uint8_t *key, enum table table, uint64_t group)
{
    key[0] = (uint8_t)table;
    store_u64(key + 1, group);
    return span_of(key, KEY_EPOCH);
}

static struct span key_snapshot(uint8_t *key, const struct part *part)
{
    key_group(key, TABLE_GROUP_SNAPSHOT, part->group->spec->id);
    store_u64(key + 9, part->id);
    return span_of(key, KEY_SNAPSHOT);
}

static struct span key_delta(uint8_t *key, const struct part *part, uint64_t number)
{
    key_group(key, TABLE_GROUP_DELTA, part->group->spec->id);
    store_u64(key + 9, part->id);
    store_u64(key + 17, number);
    return span_of(key, KEY_DELTA);
}

struct span moved_key(uint8_t *key, const struct part *part, uint64_t offset)
{
    key_group(key, TABLE_GROUP_MOVED, part->group->spec->id);
    store_u64(key + 9, part->id);
    store_u64(key + 17, offset);
    return span_of(key, KEY_MOVED);
}

struct part *group_part(struct group *group, uint64_t partition)
{
    uint64_t index = partition - group->queue->first_partition;
    if (index < group->queue->partition_count)
        return &group->parts[index];
    bool is_dead = partition != 0 && partition == group->spec->dead_partition;
    return is_dead ? &group->parts[group->queue->partition_count] : NULL;
}

/* Loading */

static void scan_done(struct request *request, enum status status);

static void scan_start(struct group *group)
{
    group->scanning = true;
    request_init(&group->scan.request, group->loop, scan_done);
    group->scan.rows = NULL;
    group->scan.count = 0;
    log_rows_scan(group->log, &group->scan);
}

static void scan_table(struct group *group, enum table table)
{
    group->scan = (struct storage_scan){
        .first = key_group(group->scan_first, table, group->spec->id),
        .end = key_group(group->scan_end, table, group->spec->id + 1),
    };
    scan_start(group);
}

/* The partition that a key names; NULL when it is none of the queue's. */
static struct part *key_part(struct group *group, struct span key, size_t size)
{
    if (key.size != size)
        return NULL;
    return group_part(group, load_u64(key.data + 9));
}

static enum status load_epoch(struct group *group, struct span value)
{
    struct reader reader = reader_of(value);
    uint8_t version = reader_u8(&reader);
    group->epoch = reader_u32(&reader);
    if (version > EPOCH_TAKEN)
        return STATUS_UNSUPPORTED;
    if (version == EPOCH_TAKEN) {
        int64_t taken_ms = (int64_t)reader_u64(&reader);
        expiry_load(group, taken_ms, reader_u8(&reader) != 0);
    }
    return reader.failed || version == 0 ? STATUS_MALFORMED : STATUS_OK;
}

static enum status load_row(struct group *group, struct span key, struct span value)
{
    struct part *part;
    switch (key.data[0]) {
    case TABLE_GROUP_EPOCH:
        return load_epoch(group, value);
    case TABLE_GROUP_SNAPSHOT:
        part = key_part(group, key, KEY_SNAPSHOT);
        if (part == NULL)
            return STATUS_MALFORMED;
        part->has_snapshot = true;
        return window_apply(part->window, value);
    case TABLE_GROUP_MOVED:
        part = key_part(group, key, KEY_MOVED);
        if (part == NULL || !part->has_snapshot)
            return STATUS_MALFORMED;
        part->has_moved = true;
        window_apply_moved(part->window, load_u64(key.data + 17));
        return STATUS_OK;
    case TABLE_GROUP_UNIT:
        return unit_load(group, key, value);
    case TABLE_GROUP_FILTER:
        return filter_load(group, value);
    default:
        part = key_part(group, key, KEY_DELTA);
        if (part == NULL || !part->has_snapshot)
            return STATUS_MALFORMED;
        part->delta_count++;
        part->delta_next = load_u64(key.data + 17) + 1;
        return window_apply(part->window, value);
    }
}

static enum status load_rows(struct group *group, struct span *last)
{
    struct span key, value;
    size_t position = 0;
    enum status status = STATUS_OK;
    while (status == STATUS_OK && storage_scan_next(&group->scan, &position, &key, &value)) {
        status = load_row(group, key, value);
        *last = key;
    }
    return status;
}

/* What has moved is kept as long as its record: most of it says nothing new. */
static bool scan_moved_on(struct group *group, struct span last)
{
    if (last.data[0] != TABLE_GROUP_MOVED)
        return false;
    const struct part *part = group_part(group, load_u64(last.data + 9));
    uint64_t oldest = window_oldest(part->window);
    if (load_u64(last.data + 17) >= oldest)
        return false;
    group->scan.first = moved_key(group->scan_first, part, oldest);
    return true;
}

static void scan_next(struct group *group, struct span last)
{
    struct storage_scan *scan = &group->scan;
    if (scan->more && scan_moved_on(group, last)) {
        scan_start(group);
        return;
    }
    if (scan->more) {
        CHECK(last.size > 0 && last.size < sizeof group->scan_first);
        memcpy(group->scan_first, last.data, last.size);
        group->scan_first[last.size] = 0;
        scan->first = span_of(group->scan_first, last.size + 1);
        scan_start(group);
        return;
    }
    switch (group->scan_end[0]) {
    case TABLE_GROUP_EPOCH:
        scan_table(group, TABLE_GROUP_SNAPSHOT);
        return;
    case TABLE_GROUP_SNAPSHOT:
        scan_table(group, TABLE_GROUP_DELTA);
        return;
    case TABLE_GROUP_DELTA:
        scan_table(group, TABLE_GROUP_MOVED);
        return;
    case TABLE_GROUP_MOVED:
        scan_table(group, TABLE_GROUP_UNIT);
        return;
    case TABLE_GROUP_UNIT:
        scan_table(group, TABLE_GROUP_FILTER);
        return;
    default:
        group->probes = group->part_count;
        for (uint32_t i = 0; i < group->part_count; i++)
            feed_probe(&group->parts[i]);
        return;
    }
}

static void scan_done(struct request *request, enum status status)
{
    struct group *group = container_of(request, struct group, scan.request);
    struct blob *rows = group->scan.rows;
    struct span last = {0};
    group->scanning = false;
    if (group->state == GROUP_CLOSING) {
        group_wake(group);
    } else {
        if (status == STATUS_OK)
            status = load_rows(group, &last);
        if (status == STATUS_OK)
            scan_next(group, last);
        else
            group_break(group, status);
    }
    blob_unref(rows);
}

void store_open(struct group *group)
{
    uint32_t rows = group->part_count * 3 + 8;
    group->rows = heap_array(rows, sizeof *group->rows);
    for (uint32_t i = 0; i < group->part_count; i++)
        buf_init(&group->parts[i].row, ROW_LIMIT);
    scan_table(group, TABLE_GROUP_EPOCH);
}

void store_deinit(struct group *group)
{
    for (uint32_t i = 0; i < group->part_count; i++)
        buf_deinit(&group->parts[i].row);
    heap_free(group->rows);
}

/* Writing */

static void write_done(struct request *request, enum status status);

static void write_start(struct group *group)
{
    group->writing = true;
    request_init(&group->write.request, group->loop, write_done);
    group->write.rows = group->rows;
    /* The epoch must never be seen twice; what is settled may wait as the queue's records do. */
    group->write.append.durability =
        group->state == GROUP_OPENING ? DURABLE_SYNC : group->queue->durability;
    log_rows_write(group->log, &group->write);
}

static void add_row(struct group *group, enum storage_change change, struct span key,
                    struct span value)
{
    group->rows[group->write.row_count++] =
        (struct storage_row){.change = change, .key = key, .value = value, .offset_at = -1};
}

static void add_epoch_row(struct group *group)
{
    bool expires = group->expiry.idle_ms != 0, overtaken = false;
    int64_t taken_ms = 0;
    group->epoch_row[0] = expires ? EPOCH_TAKEN : EPOCH_VERSION;
    store_u32(group->epoch_row + 1, group->epoch);
    if (expires)
        expiry_store(group, &taken_ms, &overtaken);
    store_u64(group->epoch_row + 5, (uint64_t)taken_ms);
    group->epoch_row[13] = overtaken;
    add_row(group, STORAGE_PUT, key_group(group->epoch_key, TABLE_GROUP_EPOCH, group->spec->id),
            span_of(group->epoch_row, expires ? 14 : 5));
}

/* What says that records have moved goes with the records; after a seek, what lies from the new
 * position on is not done any more. */
static void add_moved_row(struct part *part)
{
    uint64_t first = 0;
    uint64_t end = atomic_load_explicit(&part->bounds->start, memory_order_relaxed);
    if (part->must_rewrite) {
        first = window_base(part->window);
        end = UINT64_MAX;
    }
    if (part->has_moved && first < end)
        add_row(part->group, STORAGE_DELETE_RANGE, moved_key(part->moved_first, part, first),
                moved_key(part->moved_end, part, end));
}

/* What units have settled is said by the deltas and snapshots of this write, or of earlier ones. */
static void add_unit_rows(struct group *group)
{
    struct span first, end;
    if (unit_rows(group, &first, &end))
        add_row(group, STORAGE_DELETE_RANGE, first, end);
}

/* In place of a delta: everything, and the deltas so far go with the same write. False: no memory
 * for it. */
static bool snapshot_row(struct part *part)
{
    struct buf snapshot;
    buf_init(&snapshot, ROW_LIMIT);
    buf_clear(&part->row);
    if (window_snapshot(part->window, &snapshot) != STATUS_OK ||
        window_changes(part->window, &part->row) != STATUS_OK) {
        buf_deinit(&snapshot);
        return false;
    }
    part->in_write = true;
    buf_deinit(&part->row);
    part->row = snapshot;
    struct group *group = part->group;
    add_row(group, STORAGE_PUT, key_snapshot(part->key, part), buf_span(&part->row));
    if (part->delta_count > 0)
        add_row(group, STORAGE_DELETE_RANGE, key_delta(part->range_first, part, 0),
                key_delta(part->range_end, part, part->delta_next));
    part->delta_count = 0;
    part->has_snapshot = true;
    add_moved_row(part);
    part->must_rewrite = false;
    return true;
}

/* False: no memory; the changes stay where they are. */
static bool part_rows(struct part *part)
{
    if ((part->must_rewrite || part->delta_count >= DELTAS_MAX) && snapshot_row(part))
        return true;
    buf_clear(&part->row);
    if (part->must_rewrite || window_changes(part->window, &part->row) != STATUS_OK)
        return false;
    part->in_write = true;
    add_row(part->group, STORAGE_PUT, key_delta(part->key, part, part->delta_next++),
            buf_span(&part->row));
    part->delta_count++;
    return true;
}

static void rewrite_later(struct group *group)
{
    group->rewrite_ms = loop_now_ms(group->loop) + REWRITE_MS;
}

/* Nobody waits for what has changed, and what changes soon may share its write: a write, and often
 * a sync, for every turn in which something was settled would be in the way of those who publish.
 */
static bool may_wait(const struct group *group)
{
    if (group->patient_ms == 0 || loop_now_ms(group->loop) >= group->patient_ms ||
        !list_is_empty(&group->settled) || group->seek != NULL)
        return false;
    for (uint32_t i = 0; i < group->part_count; i++)
        if (group->parts[i].must_rewrite || window_waits_for_row(group->parts[i].window))
            return false;
    return true;
}

void store_flush(struct group *group)
{
    if (group->writing || group->rewrite_ms != 0 || may_wait(group))
        return;
    bool complete = true;
    group->patient_ms = 0;
    group->write.row_count = 0;
    for (uint32_t i = 0; i < group->part_count; i++)
        if (window_has_changes(group->parts[i].window) || group->parts[i].must_rewrite)
            complete &= part_rows(&group->parts[i]);
    if (complete)
        add_unit_rows(group);
    if (expiry_has_changes(group))
        add_epoch_row(group);
    struct span labels;
    if (filter_row(group, &labels))
        add_row(group, STORAGE_PUT,
                key_group(group->labels_key, TABLE_GROUP_FILTER, group->spec->id), labels);
    struct link *link;
    while (complete && (link = list_pop(&group->settled)) != NULL)
        list_push(&group->answering, link);
    if (complete)
        seek_flushed(group);
    if (group->write.row_count > 0)
        write_start(group);
    else if (!complete)
        rewrite_later(group);
}

/* The last step of opening: from here on no receipt of an earlier life is taken, and every
 * partition has a snapshot, so that its base does not depend on what the bounds are at the next
 * start. */
static void write_opening(struct group *group)
{
    group->write.row_count = 0;
    for (uint32_t i = 0; i < group->part_count; i++) {
        struct part *part = &group->parts[i];
        bool due = !part->has_snapshot || part->delta_count > 0 ||
                   window_has_changes(part->window) || group->unit_stored;
        if (due && !snapshot_row(part)) {
            group_break(group, STATUS_NO_MEMORY);
            return;
        }
    }
    add_unit_rows(group);
    group->epoch++;
    add_epoch_row(group);
    write_start(group);
}

void store_probed(struct part *part)
{
    if (--part->group->probes == 0)
        write_opening(part->group);
}

/* What is to be written once more has taken effect already: who waits to hear of it waits on, as
 * for a slow store. */
static void write_failed(struct group *group, enum status status)
{
    group->writing = status_is_retriable(status) && status != STATUS_SHUTTING_DOWN &&
                     group->state != GROUP_CLOSING;
    if (group->writing) {
        rewrite_later(group); /* the same rows: what they hold is no longer a change in memory */
        seek_delayed(group, status);
        return;
    }
    if (group->removed)
        trace(TRACE_WARN, "rows of the removed group %s stay in storage: %s", group->spec->name,
              status_text(status));
    else
        group_break(group, status);
    group_answer_all(group, &group->answering, status);
    group_answer_all(group, &group->settled, status);
    seek_written(group, status);
}

static void write_done(struct request *request, enum status status)
{
    struct group *group = container_of(request, struct group, write.request);
    group_wake(group);
    if (status != STATUS_OK) {
        write_failed(group, status);
        return;
    }
    group->writing = false;
    for (uint32_t i = 0; i < group->part_count; i++) {
        struct part *part = &group->parts[i];
        if (part->in_write)
            window_committed(part->window);
        part->in_write = false;
    }
    if (group->state == GROUP_OPENING)
        group_opened(group);
    group_answer_all(group, &group->answering, STATUS_OK);
    seek_written(group, STATUS_OK);
}

void store_rewrite(struct group *group)
{
    group->rewrite_ms = 0;
    if (group->writing)
        write_start(group);
}

void store_remove(struct group *group)
{
    static const enum table tables[] = {TABLE_GROUP_SNAPSHOT, TABLE_GROUP_DELTA,
                                        TABLE_GROUP_MOVED,    TABLE_GROUP_UNIT,
                                        TABLE_GROUP_FILTER,   TABLE_GROUP_EPOCH};
    group->removed = true;
    group->write.row_count = 0;
    for (uint32_t i = 0; i < sizeof tables / sizeof *tables; i++)
        add_row(group, STORAGE_DELETE_RANGE,
                key_group(group->remove_keys[i * 2], tables[i], group->spec->id),
                key_group(group->remove_keys[i * 2 + 1], tables[i], group->spec->id + 1));
    write_start(group);
}
