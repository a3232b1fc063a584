/* SPDX-License-Identifier: Apache-2.0 */
/* What is done at every open once RocksDB stands: the rows give all closed segments, and the
 * segments above them (open at an unclean stop) are looked at, first and last batch of each
 * partition only. */
#include "core/base/check.h"
#include "core/base/trace.h"
#include "storage/envelope.h"
#include "storage/rocksdb/engine.h"

struct recovery {
    struct engine *engine;
    struct err *err;
    bool fresh; /* nothing was ever stored */
    struct store_row store;
    uint64_t last_segment[STORAGE_CLASSES]; /* that an index row names: it was closed */
    uint64_t top_segment[STORAGE_CLASSES];  /* that anything names */
    uint64_t top_moved[STORAGE_CLASSES];    /* that something was moved into */
};

static enum status refuse(struct recovery *recovery, const char *what)
{
    return err_set(recovery->err, STATUS_CORRUPT,
                   "the store cannot be opened: %s is damaged. Nothing was lost that is not in a "
                   "copy of the directory; restore one",
                   what);
}

static enum status get_row(struct recovery *recovery, const struct own_key *key, char **value,
                           size_t *size)
{
    struct engine *engine = recovery->engine;
    char *problem = NULL;
    rocksdb_readoptions_t *options = rocksdb_readoptions_create();
    *value = rocksdb_get_cf(engine->db, options, engine->families[FAMILY_STATE].handle,
                            (const char *)key->bytes, key->size, size, &problem);
    rocksdb_readoptions_destroy(options);
    if (problem == NULL)
        return STATUS_OK;
    enum status status = refuse(recovery, problem);
    rocksdb_free(problem);
    return status;
}

static enum status load_store(struct recovery *recovery)
{
    struct own_key store_key = store_row_key(), commit_key = commit_row_key();
    char *value = NULL;
    size_t size = 0;
    enum status status = get_row(recovery, &store_key, &value, &size);
    recovery->fresh = value == NULL;
    if (value != NULL && store_row_decode(span_of(value, size), &recovery->store) != STATUS_OK)
        status = refuse(recovery, "the row that describes it");
    rocksdb_free(value);
    if (status != STATUS_OK)
        return status;
    status = get_row(recovery, &commit_key, &value, &size);
    if (value != NULL &&
        commit_row_decode(span_of(value, size), &recovery->engine->commit) != STATUS_OK)
        status = refuse(recovery, "the row of the commit number");
    rocksdb_free(value);
    return status;
}

/* Our own rows of one kind. */
static enum status each_row(struct recovery *recovery, enum own_row kind,
                            enum status (*load)(struct recovery *, struct span, struct span))
{
    struct engine *engine = recovery->engine;
    const char first[] = {STATE_OURS, (char)kind}, end[] = {STATE_OURS, (char)(kind + 1)};
    rocksdb_readoptions_t *options = rocksdb_readoptions_create();
    rocksdb_readoptions_set_iterate_upper_bound(options, end, sizeof end);
    rocksdb_iterator_t *iterator =
        rocksdb_create_iterator_cf(engine->db, options, engine->families[FAMILY_STATE].handle);
    enum status status = STATUS_OK;
    rocksdb_iter_seek(iterator, first, sizeof first);
    for (; status == STATUS_OK && rocksdb_iter_valid(iterator); rocksdb_iter_next(iterator)) {
        size_t key_size = 0, value_size = 0;
        const char *key = rocksdb_iter_key(iterator, &key_size);
        const char *value = rocksdb_iter_value(iterator, &value_size);
        status = load(recovery, span_of(key, key_size), span_of(value, value_size));
    }
    char *problem = NULL;
    rocksdb_iter_get_error(iterator, &problem);
    if (problem != NULL && status == STATUS_OK)
        status = refuse(recovery, problem);
    rocksdb_free(problem);
    rocksdb_iter_destroy(iterator);
    rocksdb_readoptions_destroy(options);
    return status;
}

static enum status load_partition(struct recovery *recovery, struct span key, struct span stored)
{
    enum storage_class class;
    uint64_t id;
    struct partition_row row;
    if (!partition_row_key_parse(key, &class, &id) ||
        partition_row_decode(key, stored, &row) != STATUS_OK)
        return refuse(recovery, "the row of a partition");
    struct partition *partition = index_make(&recovery->engine->index, id, class);
    partition->start = row.start;
    partition->next_offset = row.end;
    partition->bytes = row.bytes;
    partition->last_time_ms = row.last_time_ms;
    partition->reserved_end = row.reserved_end;
    partition->removed = row.removed;
    partition->last_segment = row.last_segment;
    partition->ceiling = row.ceiling;
    return STATUS_OK;
}

static void add_index(struct recovery *recovery, enum storage_class class, uint64_t segment,
                      uint64_t id, const struct index_row *row)
{
    struct partition *partition = index_make(&recovery->engine->index, id, class);
    if (partition->removed)
        return;
    if (row->end_offset > partition->next_offset)
        partition->next_offset = row->end_offset;
    if (row->bytes_after > partition->bytes)
        partition->bytes = row->bytes_after;
    if (row->last_time_ms > partition->last_time_ms)
        partition->last_time_ms = row->last_time_ms;
    if (row->end_offset > partition->indexed_end)
        partition->indexed_end = row->end_offset;
    partition_place(partition, row, segment);
}

static void note_segment(uint64_t *highest, uint64_t segment)
{
    if (segment > *highest)
        *highest = segment;
}

static enum status load_index(struct recovery *recovery, struct span key, struct span stored)
{
    enum storage_class class;
    uint64_t segment, id;
    struct index_row row;
    bool closed = index_row_key_parse(key, &class, &segment, &id);
    if ((!closed && !moved_row_key_parse(key, &class, &segment, &id)) ||
        index_row_decode(key, stored, &row) != STATUS_OK)
        return refuse(recovery, "a row of the index");
    note_segment(closed ? &recovery->last_segment[class] : &recovery->top_moved[class], segment);
    note_segment(&recovery->top_segment[class], segment);
    add_index(recovery, class, segment, id, &row);
    return STATUS_OK;
}

static enum status load_class(struct recovery *recovery, struct span key, struct span stored)
{
    enum storage_class class;
    struct class_row row;
    if (!class_row_key_parse(key, &class) || class_row_decode(key, stored, &row) != STATUS_OK ||
        row.kept_from == 0)
        return refuse(recovery, "the row of a retention class");
    note_segment(&recovery->last_segment[class], row.kept_from - 1);
    note_segment(&recovery->top_segment[class], row.kept_from - 1);
    recovery->engine->index_kept_from[class] = row.kept_from;
    return STATUS_OK;
}

/* Segments without rows */

struct position {
    uint64_t segment, partition, offset;
    struct envelope envelope;
    uint64_t size;
};

static bool position_of(rocksdb_iterator_t *iterator, struct position *position)
{
    size_t key_size = 0, value_size = 0;
    struct span batch, footer;
    if (!rocksdb_iter_valid(iterator))
        return false;
    const char *key = rocksdb_iter_key(iterator, &key_size);
    const char *value = rocksdb_iter_value(iterator, &value_size);
    position->size = value_size;
    return log_key_parse(span_of(key, key_size), &position->segment, &position->partition,
                         &position->offset) &&
           envelope_decode(span_of(value, value_size), &position->envelope, &batch, &footer) ==
               STATUS_OK;
}

static void seek(rocksdb_iterator_t *iterator, uint64_t segment, uint64_t partition,
                 uint64_t offset, bool backwards)
{
    struct log_key key = log_key_of(segment, partition, offset);
    if (backwards)
        rocksdb_iter_seek_for_prev(iterator, (const char *)key.bytes, LOG_KEY_SIZE);
    else
        rocksdb_iter_seek(iterator, (const char *)key.bytes, LOG_KEY_SIZE);
}

static rocksdb_iterator_t *open_iterator(const struct engine *engine, enum storage_class class)
{
    rocksdb_readoptions_t *options = rocksdb_readoptions_create();
    rocksdb_readoptions_set_fill_cache(options, 0);
    rocksdb_iterator_t *iterator =
        rocksdb_create_iterator_cf(engine->db, options, engine->families[class].handle);
    rocksdb_readoptions_destroy(options);
    return iterator;
}

static bool has_error(const rocksdb_iterator_t *iterator)
{
    char *problem = NULL;
    rocksdb_iter_get_error(iterator, &problem);
    bool has = problem != NULL;
    rocksdb_free(problem);
    return has;
}

/* Takes over the index row that the roll would have written: this segment is closed now. */
static void close_segment(struct recovery *recovery, enum storage_class class, uint64_t segment,
                          uint64_t partition, const struct index_row *row)
{
    struct engine *engine = recovery->engine;
    note_segment(&recovery->top_segment[class], segment);
    add_index(recovery, class, segment, partition, row);
    struct own_key key = index_row_key(class, segment, partition);
    CHECK(index_row_encode(own_key_span(&key), row, &engine->scratch) == STATUS_OK);
    batch_put_row(engine, own_key_span(&key), buf_span(&engine->scratch));
}

/* Where the batches end that were moved into the segment. What was appended there lies behind them,
 * because only batches of older segments move. */
static enum status moved_end(struct recovery *recovery, enum storage_class class, uint64_t segment,
                             uint64_t partition, uint64_t *end)
{
    struct engine *engine = recovery->engine;
    *end = 0;
    if (segment > recovery->top_moved[class])
        return STATUS_OK;
    struct own_key first = moved_row_key(class, segment, partition, 0);
    struct own_key last = moved_row_key(class, segment, partition, UINT64_MAX);
    rocksdb_readoptions_t *options = rocksdb_readoptions_create();
    rocksdb_readoptions_set_iterate_upper_bound(options, (const char *)last.bytes, last.size);
    rocksdb_iterator_t *iterator =
        rocksdb_create_iterator_cf(engine->db, options, engine->families[FAMILY_STATE].handle);
    rocksdb_iter_seek(iterator, (const char *)first.bytes, first.size);
    enum status status = STATUS_OK;
    for (; status == STATUS_OK && rocksdb_iter_valid(iterator); rocksdb_iter_next(iterator)) {
        struct index_row row;
        size_t key_size = 0, value_size = 0;
        const char *key = rocksdb_iter_key(iterator, &key_size);
        const char *value = rocksdb_iter_value(iterator, &value_size);
        status = index_row_decode(span_of(key, key_size), span_of(value, value_size), &row);
        if (status == STATUS_OK && row.end_offset > *end)
            *end = row.end_offset;
    }
    char *problem = NULL;
    rocksdb_iter_get_error(iterator, &problem);
    if (problem != NULL || status != STATUS_OK)
        status = refuse(recovery, problem != NULL ? problem : "a row of the index");
    rocksdb_free(problem);
    rocksdb_iter_destroy(iterator);
    rocksdb_readoptions_destroy(options);
    return status;
}

static struct index_row row_of(const struct position *first, const struct position *last)
{
    return (struct index_row){
        .first_offset = first->offset,
        .first_time_ms = first->envelope.append_time_ms,
        .bytes_before = first->envelope.cumulative_bytes - first->size,
        .end_offset = last->offset + last->envelope.record_count,
        .bytes_after = last->envelope.cumulative_bytes,
        .last_time_ms = last->envelope.append_time_ms,
    };
}

/* Looks at the first and the last batch of each partition. *damaged: one of them is unreadable. */
static enum status load_open_segments(struct recovery *recovery, enum storage_class class,
                                      rocksdb_iterator_t *iterator, bool *damaged)
{
    enum status status = STATUS_OK;
    seek(iterator, recovery->last_segment[class] + 1, 0, 0, false);
    while (status == STATUS_OK && rocksdb_iter_valid(iterator)) {
        struct position at, first, last;
        uint64_t from;
        size_t key_size = 0;
        const char *key = rocksdb_iter_key(iterator, &key_size);
        if (!log_key_parse(span_of(key, key_size), &at.segment, &at.partition, &at.offset))
            return refuse(recovery, "a key of the newest segment");
        note_segment(&recovery->top_segment[class], at.segment);
        status = moved_end(recovery, class, at.segment, at.partition, &from);
        if (status == STATUS_OK && from > at.offset) {
            seek(iterator, at.segment, at.partition, from, false);
            continue;
        }
        *damaged = !position_of(iterator, &first);
        seek(iterator, at.segment, at.partition, UINT64_MAX, true);
        *damaged |= !position_of(iterator, &last);
        if (status != STATUS_OK || *damaged)
            return status;
        struct index_row row = row_of(&first, &last);
        close_segment(recovery, class, at.segment, at.partition, &row);
        seek(iterator, at.segment, at.partition, UINT64_MAX, false);
    }
    *damaged |= has_error(iterator);
    return status;
}

/* Newest segments with damage. Which partitions there are say their rows, and where they can go on
 * without giving out an offset twice say the ceilings in them. */

/* What is looked at in a family with damage, one partition in one segment. */
struct wreck {
    const struct engine *engine;
    enum storage_class class;
    uint64_t segment, partition;
};

/* NULL: this seek hits damage. Each on an iterator of its own, for after an error the old one
 * answers differently from one seek to the next. */
static rocksdb_iterator_t *try_seek(const struct wreck *wreck, uint64_t offset)
{
    rocksdb_iterator_t *iterator = open_iterator(wreck->engine, wreck->class);
    seek(iterator, wreck->segment, wreck->partition, offset, false);
    if (!has_error(iterator))
        return iterator;
    rocksdb_iter_destroy(iterator);
    return NULL;
}

/* Raises offset to the lowest one from where a seek stands. NULL: there is none. */
static rocksdb_iterator_t *seek_readable(const struct wreck *wreck, uint64_t *offset)
{
    rocksdb_iterator_t *found = try_seek(wreck, *offset);
    uint64_t low = *offset, high = UINT64_MAX;
    if (found != NULL)
        return found;
    while (low < high) {
        uint64_t middle = low + (high - low) / 2;
        rocksdb_iterator_t *iterator = try_seek(wreck, middle);
        if (iterator == NULL) {
            low = middle + 1;
            continue;
        }
        if (found != NULL)
            rocksdb_iter_destroy(found);
        found = iterator;
        high = middle;
    }
    *offset = low;
    return found;
}

struct salvage {
    struct position first, last; /* of those that can be read */
    bool found;
    bool bad_before, bad_behind; /* what lies around these may be unreadable */
};

static void salvage_add(struct salvage *salvage, const struct position *at)
{
    if (!salvage->found) {
        salvage->first = *at;
        salvage->bad_before = salvage->bad_behind;
    }
    salvage->last = *at;
    salvage->found = true;
    salvage->bad_behind = false;
}

/* All that can be read from offset on. False: the iterator ran into damage at offset. */
static bool salvage_run(const struct wreck *wreck, rocksdb_iterator_t *iterator, uint64_t *offset,
                        struct salvage *salvage)
{
    for (; rocksdb_iter_valid(iterator); rocksdb_iter_next(iterator)) {
        struct position at = {0};
        bool readable = position_of(iterator, &at);
        if (at.segment != wreck->segment || at.partition != wreck->partition)
            return true;
        *offset = at.offset + 1;
        if (readable)
            salvage_add(salvage, &at);
        else
            salvage->bad_behind = true;
    }
    return !has_error(iterator);
}

static struct salvage salvage_slice(const struct wreck *wreck, uint64_t from)
{
    struct salvage salvage = {0};
    for (bool end = false; !end;) {
        uint64_t offset = from;
        rocksdb_iterator_t *iterator = seek_readable(wreck, &offset);
        salvage.bad_behind |= iterator == NULL || offset != from;
        if (iterator == NULL)
            break;
        from = offset + 1;
        end = salvage_run(wreck, iterator, &from, &salvage);
        salvage.bad_behind |= !end;
        rocksdb_iter_destroy(iterator);
    }
    return salvage;
}

static enum status salvage_partition(struct recovery *recovery, enum storage_class class,
                                     uint64_t segment, struct partition *partition)
{
    struct wreck wreck = {recovery->engine, class, segment, partition->id};
    uint64_t from;
    enum status status = moved_end(recovery, class, segment, partition->id, &from);
    if (status != STATUS_OK)
        return status;
    struct salvage salvage = salvage_slice(&wreck, from);
    if (!salvage.found && !salvage.bad_behind)
        return STATUS_OK;
    struct index_row row = {
        .first_time_ms = partition->last_time_ms,
        .bytes_before = partition->bytes,
        .bytes_after = partition->bytes,
        .last_time_ms = partition->last_time_ms,
    };
    if (salvage.found)
        row = row_of(&salvage.first, &salvage.last);
    if (salvage.bad_before || !salvage.found)
        row.first_offset =
            partition->indexed_end > partition->start ? partition->indexed_end : partition->start;
    if (salvage.bad_behind)
        row.end_offset = partition->ceiling;
    if (salvage.bad_before || salvage.bad_behind) {
        trace(TRACE_ERROR,
              "store: batches of partition %llu in segment %llu cannot be read; it goes on at "
              "offset %llu",
              (unsigned long long)partition->id, (unsigned long long)segment,
              (unsigned long long)row.end_offset);
        atomic_fetch_add_explicit(&recovery->engine->count_corrupt, 1, memory_order_relaxed);
    }
    if (row.first_offset < row.end_offset)
        close_segment(recovery, class, segment, partition->id, &row);
    return STATUS_OK;
}

static enum status salvage_open_segments(struct recovery *recovery, enum storage_class class)
{
    struct engine *engine = recovery->engine;
    enum status status = STATUS_OK;
    if (!recovery->store.bounded)
        return err_set(recovery->err, STATUS_CORRUPT,
                       "the store cannot be opened: a batch of the newest segment is damaged, and "
                       "the rows of this older store do not tell which offsets were given out, so "
                       "that some could be given out twice. Restore a copy of the directory");
    uint64_t segment = recovery->last_segment[class] + 1;
    for (; segment_bytes(engine, class, segment, UINT64_MAX) > 0; segment++) {
        struct map_slot *slot;
        note_segment(&recovery->top_segment[class], segment);
        for (size_t i = 0; (slot = map_next(&engine->index.partitions, &i)) != NULL;) {
            struct partition *partition = slot->value;
            if (status == STATUS_OK && partition->class == class && !partition->removed)
                status = salvage_partition(recovery, class, segment, partition);
        }
    }
    return status;
}

static enum status load_class_segments(struct recovery *recovery, enum storage_class class)
{
    struct engine *engine = recovery->engine;
    bool damaged = false;
    rocksdb_iterator_t *iterator = open_iterator(engine, class);
    enum status status = load_open_segments(recovery, class, iterator, &damaged);
    rocksdb_iter_destroy(iterator);
    if (status == STATUS_OK && damaged)
        status = salvage_open_segments(recovery, class);
    engine->families[class].segment = recovery->top_segment[class] + 1;
    return status;
}

/* Unclean: what an interval partition answered may be gone, so it goes on behind its reservation.
 */
static void settle_partitions(struct recovery *recovery, bool unclean)
{
    struct engine *engine = recovery->engine;
    struct map_slot *slot;
    for (size_t i = 0; (slot = map_next(&engine->index.partitions, &i)) != NULL;) {
        struct partition *partition = slot->value;
        partition->reserved_before = partition->reserved_end;
        if (partition->start > partition->next_offset)
            partition->next_offset = partition->start;
        bool behind = unclean && partition->reserved_end > partition->next_offset;
        if (behind)
            partition->next_offset = partition->reserved_end;
        bool low = partition->next_offset > partition->ceiling;
        if (low)
            partition->ceiling = partition->next_offset;
        if (!partition->removed && (behind || low))
            batch_put_partition_row(engine, partition);
        partition->end = partition->next_offset;
        partition->end_bytes = partition->bytes;
        partition->end_time_ms = partition->last_time_ms;
    }
}

enum status engine_recover(struct engine *engine, struct err *err)
{
    struct recovery recovery = {.engine = engine, .err = err};
    enum status status = load_store(&recovery);
    if (status == STATUS_OK && !recovery.fresh && recovery.store.format != STORE_FORMAT)
        status = err_set(err, STATUS_UNSUPPORTED, "the store has format %u, this program reads %d",
                         recovery.store.format, STORE_FORMAT);
    if (status == STATUS_OK)
        status = each_row(&recovery, ROW_PARTITION, load_partition);
    if (status == STATUS_OK)
        status = each_row(&recovery, ROW_INDEX, load_index);
    if (status == STATUS_OK)
        status = each_row(&recovery, ROW_CLASS, load_class);
    for (int i = 0; i < STORAGE_CLASSES && status == STATUS_OK; i++)
        status = load_class_segments(&recovery, (enum storage_class)i);
    if (status != STATUS_OK)
        return status;
    bool unclean = !recovery.fresh && !recovery.store.clean;
    if (unclean) {
        engine->commit += COMMIT_GAP;
        recovery.store.epoch++;
    }
    settle_partitions(&recovery, unclean);
    recovery.store.format = STORE_FORMAT;
    recovery.store.clean = false;
    recovery.store.bounded = true;
    engine->epoch = recovery.store.epoch;
    struct own_key key = store_row_key();
    CHECK(store_row_encode(&recovery.store, &engine->scratch) == STATUS_OK);
    batch_put_row(engine, own_key_span(&key), buf_span(&engine->scratch));
    if (!batch_write(engine) || !engine_sync(engine, engine->commit))
        return err_set(err, STATUS_STORAGE_FAILED, "the store cannot be written");
    return STATUS_OK;
}
