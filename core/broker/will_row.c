/* SPDX-License-Identifier: Apache-2.0 */
/* Wills as bytes. */
#include "core/broker/will_row.h"

#include "core/base/pack.h"
#include "core/base/reader.h"
#include "core/log/table.h"

enum {
    WILL_VERSION = 1,
    WAITING_VERSION = 1,
    FLAG_GUARANTEE = 3,
    FLAG_RETAIN = 4,
    FLAG_QUEUE = 8,
    FLAG_OPTIONAL = 16, /* key, dedup id and values of headers may be absent; before: empty then */
    FLAG_NOT_DURABLE = 32,
    FLAGS = 63
};

/* Absent, or its size and one, and it. */
static void pack_optional(struct pack *pack, struct span bytes)
{
    pack_uvarint(pack, bytes.data == NULL ? 0 : bytes.size + 1);
    pack_bytes(pack, bytes);
}

struct blob *will_encode(struct span user, const struct broker_will *will)
{
    struct buf bytes;
    buf_init(&bytes, LIMIT_RECORD_BYTES);
    struct pack pack = pack_into(&bytes);
    const struct publish *publish = &will->publish;
    unsigned flags = (unsigned)publish->guarantee | (publish->retain ? FLAG_RETAIN : 0u) |
                     (publish->not_durable ? FLAG_NOT_DURABLE : 0u) |
                     (will->queue.size > 0 ? FLAG_QUEUE : 0u) | FLAG_OPTIONAL;
    pack_u8(&pack, WILL_VERSION);
    pack_u8(&pack, (uint8_t)flags);
    pack_u32(&pack, will->delay_s);
    pack_u64(&pack, will->expiry_ms);
    pack_u64(&pack, publish->delay_ms);
    pack_block(&pack, user);
    pack_block(&pack, will->queue.size > 0 ? will->queue : publish->topic);
    pack_optional(&pack, publish->key);
    pack_optional(&pack, publish->dedup_id);
    pack_block(&pack, publish->body);
    pack_uvarint(&pack, publish->header_count);
    for (uint32_t i = 0; i < publish->header_count; i++) {
        pack_block(&pack, publish->headers[i].name);
        pack_optional(&pack, publish->headers[i].value);
    }
    struct blob *row = pack.status == STATUS_OK ? blob_copy(buf_span(&bytes)) : NULL;
    buf_deinit(&bytes);
    return row;
}

static bool decode_head(struct reader *reader, struct broker_will *will, unsigned *flags_out)
{
    uint8_t version = reader_u8(reader), flags = reader_u8(reader);
    *flags_out = flags;
    will->publish.guarantee = (enum guarantee)(flags & FLAG_GUARANTEE);
    will->publish.retain = (flags & FLAG_RETAIN) != 0;
    will->publish.not_durable = (flags & FLAG_NOT_DURABLE) != 0;
    will->delay_s = reader_u32(reader);
    will->expiry_ms = reader_u64(reader);
    will->publish.delay_ms = reader_u64(reader);
    return !reader->failed && version == WILL_VERSION && flags <= FLAGS &&
           (flags & FLAG_GUARANTEE) <= GUARANTEE_EXACTLY_ONCE;
}

bool will_delay(struct span row, uint32_t *delay_s)
{
    struct broker_will will = {0};
    struct reader reader = reader_of(row);
    unsigned flags;
    bool is_will = decode_head(&reader, &will, &flags);
    *delay_s = is_will ? will.delay_s : 0;
    return is_will;
}

/* Absent ones have no data. */
static struct span read_optional(struct reader *reader, unsigned flags)
{
    if (!(flags & FLAG_OPTIONAL))
        return reader_block(reader);
    uint64_t size = reader_uvarint(reader);
    return size == 0 ? (struct span){0} : reader_bytes(reader, size - 1);
}

bool will_decode(struct span row, struct stored_will *stored)
{
    *stored = (struct stored_will){0};
    struct publish *publish = &stored->will.publish;
    struct reader reader = reader_of(row);
    unsigned flags;
    if (!decode_head(&reader, &stored->will, &flags))
        return false;
    stored->user = reader_block(&reader);
    struct span address = reader_block(&reader);
    if (flags & FLAG_QUEUE)
        stored->will.queue = address;
    else
        publish->topic = address;
    publish->key = read_optional(&reader, flags);
    publish->dedup_id = read_optional(&reader, flags);
    if (!(flags & FLAG_OPTIONAL) && publish->key.size == 0)
        publish->key = (struct span){0};
    if (!(flags & FLAG_OPTIONAL) && publish->dedup_id.size == 0)
        publish->dedup_id = (struct span){0};
    publish->body = reader_block(&reader);
    publish->headers = stored->headers;
    uint64_t count = reader_uvarint(&reader);
    if (reader.failed || count >= LIMIT_HEADERS)
        return false;
    for (; publish->header_count < count; publish->header_count++) {
        stored->headers[publish->header_count].name = reader_block(&reader);
        stored->headers[publish->header_count].value = read_optional(&reader, flags);
    }
    return !reader.failed;
}

/* ------------------------------------------------ no part of a session */

struct blob *waiting_will_encode(const struct waiting_will *will)
{
    struct buf bytes;
    buf_init(&bytes, 64 + will->client_id.size + will->row.size);
    struct pack pack = pack_into(&bytes);
    pack_u8(&pack, WAITING_VERSION);
    pack_u32(&pack, will->tries);
    pack_u64(&pack, will->tenant);
    pack_block(&pack, will->client_id);
    pack_block(&pack, will->row);
    struct blob *value = blob_copy(buf_span(&bytes));
    buf_deinit(&bytes);
    return value;
}

bool waiting_will_decode(struct span value, struct waiting_will *will)
{
    struct reader reader = reader_of(value);
    uint8_t version = reader_u8(&reader);
    will->tries = reader_u32(&reader);
    will->tenant = reader_u64(&reader);
    will->client_id = reader_block(&reader);
    will->row = reader_block(&reader);
    return !reader.failed && version == WAITING_VERSION &&
           will->client_id.size <= LIMIT_CLIENT_ID_BYTES;
}

size_t will_key(enum will_kind kind, uint64_t first, uint64_t second, uint8_t key[WILL_KEY])
{
    key[0] = TABLE_WILL;
    key[1] = (uint8_t)kind;
    store_u64(key + 2, first);
    store_u64(key + 10, second);
    return WILL_KEY;
}
