/* SPDX-License-Identifier: Apache-2.0 */
/* Keys and the engine's own rows: fixed big-endian layouts inside the row format of envelope.h. */
#include "storage/rocksdb/keys.h"

#include "core/base/pack.h"
#include "core/base/reader.h"
#include "storage/envelope.h"

struct log_key log_key_of(uint64_t segment, uint64_t partition, uint64_t offset)
{
    struct log_key key;
    store_u64(key.bytes, segment);
    store_u64(key.bytes + 8, partition);
    store_u64(key.bytes + 16, offset);
    return key;
}

bool log_key_parse(struct span key, uint64_t *segment, uint64_t *partition, uint64_t *offset)
{
    if (key.size != LOG_KEY_SIZE)
        return false;
    *segment = load_u64(key.data);
    *partition = load_u64(key.data + 8);
    *offset = load_u64(key.data + 16);
    return true;
}

static struct own_key own_key_of(enum own_row row)
{
    return (struct own_key){.bytes = {STATE_OURS, (uint8_t)row}, .size = 2};
}

struct own_key store_row_key(void)
{
    return own_key_of(ROW_STORE);
}

struct own_key commit_row_key(void)
{
    return own_key_of(ROW_COMMIT);
}

struct own_key partition_row_key(enum storage_class class, uint64_t partition)
{
    struct own_key key = own_key_of(ROW_PARTITION);
    key.bytes[2] = (uint8_t) class;
    store_u64(key.bytes + 3, partition);
    key.size = 11;
    return key;
}

struct own_key index_row_key(enum storage_class class, uint64_t segment, uint64_t partition)
{
    struct own_key key = own_key_of(ROW_INDEX);
    key.bytes[2] = (uint8_t) class;
    store_u64(key.bytes + 3, segment);
    store_u64(key.bytes + 11, partition);
    key.size = 19;
    return key;
}

struct own_key class_row_key(enum storage_class class)
{
    struct own_key key = own_key_of(ROW_CLASS);
    key.bytes[2] = (uint8_t) class;
    key.size = 3;
    return key;
}

static bool own_key_parse(struct span key, enum own_row row, size_t size, enum storage_class *class)
{
    if (key.size != size || key.data[0] != STATE_OURS || key.data[1] != row ||
        key.data[2] >= STORAGE_CLASSES)
        return false;
    *class = (enum storage_class)key.data[2];
    return true;
}

bool class_row_key_parse(struct span key, enum storage_class *class)
{
    return own_key_parse(key, ROW_CLASS, 3, class);
}

bool partition_row_key_parse(struct span key, enum storage_class *class, uint64_t *partition)
{
    if (!own_key_parse(key, ROW_PARTITION, 11, class))
        return false;
    *partition = load_u64(key.data + 3);
    return true;
}

bool index_row_key_parse(struct span key, enum storage_class *class, uint64_t *segment,
                         uint64_t *partition)
{
    if (!own_key_parse(key, ROW_INDEX, 19, class))
        return false;
    *segment = load_u64(key.data + 3);
    *partition = load_u64(key.data + 11);
    return true;
}

struct own_key moved_row_key(enum storage_class class, uint64_t segment, uint64_t partition,
                             uint64_t first_offset)
{
    struct own_key key = index_row_key(class, segment, partition);
    store_u64(key.bytes + 19, first_offset);
    key.size = 27;
    return key;
}

bool moved_row_key_parse(struct span key, enum storage_class *class, uint64_t *segment,
                         uint64_t *partition)
{
    if (!own_key_parse(key, ROW_INDEX, 27, class))
        return false;
    *segment = load_u64(key.data + 3);
    *partition = load_u64(key.data + 11);
    return true;
}

static enum status encode(struct span key, const uint8_t *value, size_t size, struct buf *to)
{
    buf_clear(to);
    return row_encode(key, span_of(value, size), to);
}

/* A longer value than this version writes is a later, compatible one: what we know comes first. */
static enum status decode(struct span key, struct span stored, struct reader *reader)
{
    struct span value = {0};
    enum status status = row_decode(key, stored, &value);
    *reader = reader_of(value);
    return status;
}

static enum status decoded(const struct reader *reader)
{
    return reader->failed ? STATUS_CORRUPT : STATUS_OK;
}

enum status store_row_encode(const struct store_row *row, struct buf *to)
{
    uint8_t value[10];
    store_u32(value, row->format);
    store_u32(value + 4, row->epoch);
    value[8] = row->clean;
    value[9] = row->bounded;
    struct own_key key = store_row_key();
    return encode(own_key_span(&key), value, sizeof value, to);
}

enum status store_row_decode(struct span stored, struct store_row *row)
{
    struct own_key key = store_row_key();
    struct reader reader;
    enum status status = decode(own_key_span(&key), stored, &reader);
    if (status != STATUS_OK)
        return status;
    row->format = reader_u32(&reader);
    row->epoch = reader_u32(&reader);
    row->clean = reader_u8(&reader) != 0;
    row->bounded = reader_left(&reader) > 0 && reader_u8(&reader) != 0;
    return decoded(&reader);
}

enum status commit_row_encode(uint64_t commit, struct buf *to)
{
    uint8_t value[8];
    store_u64(value, commit);
    struct own_key key = commit_row_key();
    return encode(own_key_span(&key), value, sizeof value, to);
}

enum status commit_row_decode(struct span stored, uint64_t *commit)
{
    struct own_key key = commit_row_key();
    struct reader reader;
    enum status status = decode(own_key_span(&key), stored, &reader);
    if (status != STATUS_OK)
        return status;
    *commit = reader_u64(&reader);
    return decoded(&reader);
}

enum status partition_row_encode(struct span key, const struct partition_row *row, struct buf *to)
{
    uint8_t value[57];
    store_u64(value, row->start);
    store_u64(value + 8, row->end);
    store_u64(value + 16, row->bytes);
    store_u64(value + 24, (uint64_t)row->last_time_ms);
    store_u64(value + 32, row->reserved_end);
    store_u64(value + 40, row->last_segment);
    value[48] = row->removed;
    store_u64(value + 49, row->ceiling);
    return encode(key, value, sizeof value, to);
}

enum status partition_row_decode(struct span key, struct span stored, struct partition_row *row)
{
    struct reader reader;
    enum status status = decode(key, stored, &reader);
    if (status != STATUS_OK)
        return status;
    row->start = reader_u64(&reader);
    row->end = reader_u64(&reader);
    row->bytes = reader_u64(&reader);
    row->last_time_ms = (int64_t)reader_u64(&reader);
    row->reserved_end = reader_u64(&reader);
    row->last_segment = reader_u64(&reader);
    row->removed = reader_u8(&reader) != 0;
    row->ceiling = reader_left(&reader) > 0 ? reader_u64(&reader) : 0;
    return decoded(&reader);
}

enum status class_row_encode(struct span key, const struct class_row *row, struct buf *to)
{
    uint8_t value[8];
    store_u64(value, row->kept_from);
    return encode(key, value, sizeof value, to);
}

enum status class_row_decode(struct span key, struct span stored, struct class_row *row)
{
    struct reader reader;
    enum status status = decode(key, stored, &reader);
    if (status != STATUS_OK)
        return status;
    row->kept_from = reader_u64(&reader);
    return decoded(&reader);
}

enum status index_row_encode(struct span key, const struct index_row *row, struct buf *to)
{
    uint8_t value[48];
    store_u64(value, row->first_offset);
    store_u64(value + 8, (uint64_t)row->first_time_ms);
    store_u64(value + 16, row->bytes_before);
    store_u64(value + 24, row->end_offset);
    store_u64(value + 32, row->bytes_after);
    store_u64(value + 40, (uint64_t)row->last_time_ms);
    return encode(key, value, sizeof value, to);
}

enum status index_row_decode(struct span key, struct span stored, struct index_row *row)
{
    struct reader reader;
    enum status status = decode(key, stored, &reader);
    if (status != STATUS_OK)
        return status;
    row->first_offset = reader_u64(&reader);
    row->first_time_ms = (int64_t)reader_u64(&reader);
    row->bytes_before = reader_u64(&reader);
    row->end_offset = reader_u64(&reader);
    row->bytes_after = reader_u64(&reader);
    row->last_time_ms = (int64_t)reader_u64(&reader);
    return decoded(&reader);
}
