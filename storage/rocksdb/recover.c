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
    uint64_t last_segment[STORAGE_CLASSES];
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
    return STATUS_OK;
}

static void add_index(struct recovery *recovery, enum storage_class class, uint64_t segment,
                      uint64_t id, const struct index_row *row)
{
    if (segment > recovery->last_segment[class])
        recovery->last_segment[class] = segment;
    struct partition *partition = index_make(&recovery->engine->index, id, class);
    if (partition->removed)
        return;
    if (row->end_offset > partition->next_offset)
        partition->next_offset = row->end_offset;
    if (row->bytes_after > partition->bytes)
        partition->bytes = row->bytes_after;
    if (row->last_time_ms > partition->last_time_ms)
        partition->last_time_ms = row->last_time_ms;
    if (row->end_offset <= partition->start)
        return;
    struct index_entry entry = {segment, row->first_offset, row->first_time_ms, row->bytes_before};
    partition_add_entry(partition, &entry);
}

static enum status load_index(struct recovery *recovery, struct span key, struct span stored)
{
    enum storage_class class;
    uint64_t segment, id;
    struct index_row row;
    if (!index_row_key_parse(key, &class, &segment, &id) ||
        index_row_decode(key, stored, &row) != STATUS_OK)
        return refuse(recovery, "a row of the index");
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
    if (recovery->last_segment[class] < row.kept_from - 1)
        recovery->last_segment[class] = row.kept_from - 1;
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

/* Writes the index row that the roll would have written: this segment is closed now. */
static void close_segment(struct recovery *recovery, enum storage_class class,
                          const struct position *first, const struct position *last)
{
    struct engine *engine = recovery->engine;
    struct index_row row = {
        .first_offset = first->offset,
        .first_time_ms = first->envelope.append_time_ms,
        .bytes_before = first->envelope.cumulative_bytes - first->size,
        .end_offset = last->offset + last->envelope.record_count,
        .bytes_after = last->envelope.cumulative_bytes,
        .last_time_ms = last->envelope.append_time_ms,
    };
    add_index(recovery, class, first->segment, first->partition, &row);
    struct own_key key = index_row_key(class, first->segment, first->partition);
    CHECK(index_row_encode(own_key_span(&key), &row, &engine->scratch) == STATUS_OK);
    batch_put_row(engine, own_key_span(&key), buf_span(&engine->scratch));
}

static enum status load_open_segments(struct recovery *recovery, enum storage_class class)
{
    struct engine *engine = recovery->engine;
    rocksdb_readoptions_t *options = rocksdb_readoptions_create();
    rocksdb_readoptions_set_fill_cache(options, 0);
    rocksdb_iterator_t *iterator =
        rocksdb_create_iterator_cf(engine->db, options, engine->families[class].handle);
    struct position first, last;
    enum status status = STATUS_OK;
    seek(iterator, recovery->last_segment[class] + 1, 0, 0, false);
    while (status == STATUS_OK && rocksdb_iter_valid(iterator)) {
        bool readable = position_of(iterator, &first);
        if (readable) {
            seek(iterator, first.segment, first.partition, UINT64_MAX, true);
            readable = position_of(iterator, &last);
        }
        if (!readable) {
            status = refuse(recovery, "a batch of the newest segment");
            break;
        }
        close_segment(recovery, class, &first, &last);
        seek(iterator, first.segment, first.partition, UINT64_MAX, false);
    }
    char *problem = NULL;
    rocksdb_iter_get_error(iterator, &problem);
    if (problem != NULL && status == STATUS_OK)
        status = refuse(recovery, problem);
    rocksdb_free(problem);
    rocksdb_iter_destroy(iterator);
    rocksdb_readoptions_destroy(options);
    engine->families[class].segment = recovery->last_segment[class] + 1;
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
        if (unclean && !partition->removed && partition->reserved_end > partition->next_offset) {
            partition->next_offset = partition->reserved_end;
            batch_put_partition_row(engine, partition);
        }
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
        status = load_open_segments(&recovery, (enum storage_class)i);
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
    engine->epoch = recovery.store.epoch;
    struct own_key key = store_row_key();
    CHECK(store_row_encode(&recovery.store, &engine->scratch) == STATUS_OK);
    batch_put_row(engine, own_key_span(&key), buf_span(&engine->scratch));
    if (!batch_write(engine) || !engine_sync(engine, engine->commit))
        return err_set(err, STATUS_STORAGE_FAILED, "the store cannot be written");
    return STATUS_OK;
}
