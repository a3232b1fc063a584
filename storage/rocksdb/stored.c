/* SPDX-License-Identifier: Apache-2.0 */
/* Iterators over one slice: bounds, readahead, and the checks of all that comes out.
 */
#include "storage/rocksdb/stored.h"

#include "core/base/crc.h"
#include "core/base/pack.h"
#include "core/base/trace.h"

enum { READAHEAD_MAX = 256 << 10, BATCH_HEADER = 61, MAGIC_AT = 16, CRC_AT = 17, CRC_FROM = 21 };

void cursor_open(struct cursor *cursor, struct engine *engine, enum storage_class class,
                 uint64_t partition, const struct slice *slice)
{
    *cursor = (struct cursor){
        .segment = slice->segment, .partition = partition, .first_offset = slice->first_offset};
    /* The segment may hold other batches of the partition, which were moved there. */
    cursor->lower = log_key_of(slice->segment, partition, slice->first_offset);
    cursor->upper = log_key_of(slice->segment, partition, slice->end_offset);
    cursor->options = rocksdb_readoptions_create();
    rocksdb_readoptions_set_verify_checksums(cursor->options, 1);
    rocksdb_readoptions_set_fill_cache(cursor->options, 0);
    /* More than the partition has there would read its neighbours' bytes. */
    size_t readahead = slice->bytes < READAHEAD_MAX ? (size_t)slice->bytes : READAHEAD_MAX;
    rocksdb_readoptions_set_readahead_size(cursor->options, readahead);
    rocksdb_readoptions_set_iterate_lower_bound(cursor->options, (const char *)cursor->lower.bytes,
                                                LOG_KEY_SIZE);
    rocksdb_readoptions_set_iterate_upper_bound(cursor->options, (const char *)cursor->upper.bytes,
                                                LOG_KEY_SIZE);
    cursor->iterator =
        rocksdb_create_iterator_cf(engine->db, cursor->options, engine->families[class].handle);
}

void cursor_close(struct cursor *cursor)
{
    rocksdb_iter_destroy(cursor->iterator);
    rocksdb_readoptions_destroy(cursor->options);
}

static enum status cursor_status(const struct cursor *cursor)
{
    if (rocksdb_iter_valid(cursor->iterator))
        return STATUS_OK;
    char *problem = NULL;
    rocksdb_iter_get_error(cursor->iterator, &problem);
    if (problem == NULL)
        return STATUS_OK;
    trace(TRACE_DEBUG, "store: reading partition %llu in segment %llu: %s",
          (unsigned long long)cursor->partition, (unsigned long long)cursor->segment, problem);
    rocksdb_free(problem);
    return STATUS_CORRUPT;
}

enum status cursor_seek(struct cursor *cursor, uint64_t offset)
{
    struct log_key key = log_key_of(cursor->segment, cursor->partition, offset);
    rocksdb_iter_seek(cursor->iterator, (const char *)key.bytes, LOG_KEY_SIZE);
    return cursor_status(cursor);
}

enum status cursor_seek_before(struct cursor *cursor, uint64_t offset)
{
    struct log_key key = log_key_of(cursor->segment, cursor->partition, offset);
    rocksdb_iter_seek_for_prev(cursor->iterator, (const char *)key.bytes, LOG_KEY_SIZE);
    enum status status = cursor_status(cursor);
    if (status == STATUS_OK && !rocksdb_iter_valid(cursor->iterator))
        status = cursor_seek(cursor, cursor->first_offset);
    return status;
}

enum status cursor_next(struct cursor *cursor)
{
    rocksdb_iter_next(cursor->iterator);
    return cursor_status(cursor);
}

bool cursor_at(const struct cursor *cursor, uint64_t *base_offset)
{
    if (!rocksdb_iter_valid(cursor->iterator))
        return false;
    size_t size = 0;
    const char *key = rocksdb_iter_key(cursor->iterator, &size);
    uint64_t segment, partition;
    return log_key_parse(span_of(key, size), &segment, &partition, base_offset);
}

enum status cursor_get(const struct cursor *cursor, struct stored *stored)
{
    size_t size = 0;
    const char *value = rocksdb_iter_value(cursor->iterator, &size);
    struct span footer;
    if (!cursor_at(cursor, &stored->base_offset))
        return STATUS_CORRUPT;
    stored->value = span_of(value, size);
    enum status status = envelope_decode(stored->value, &stored->envelope, &stored->batch, &footer);
    return status == STATUS_OK && stored->envelope.record_count > 0 ? STATUS_OK : STATUS_CORRUPT;
}

/* RocksDB steps one further back when it seeks backwards, so a batch that begins at offset is not
 * looked for that way: its predecessor may lie in a block that cannot be read. */
enum status cursor_seek_holding(struct cursor *cursor, uint64_t offset)
{
    struct stored stored;
    uint64_t base;
    enum status status = cursor_seek(cursor, offset);
    if (status != STATUS_OK || (cursor_at(cursor, &base) && base == offset))
        return status;
    status = cursor_seek_before(cursor, offset);
    if (status == STATUS_OK && cursor_at(cursor, &base) && base < offset &&
        cursor_get(cursor, &stored) == STATUS_OK && base + stored.envelope.record_count <= offset)
        status = cursor_next(cursor);
    return status;
}

enum status stored_check(const struct stored *stored)
{
    struct span batch = stored->batch;
    if (batch.size < BATCH_HEADER || batch.data[MAGIC_AT] != 2 ||
        load_u64(batch.data) != stored->base_offset ||
        load_u32(batch.data + CRC_AT) != crc32c(0, span_from(batch, CRC_FROM)))
        return STATUS_CORRUPT;
    return STATUS_OK;
}
