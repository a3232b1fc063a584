/* SPDX-License-Identifier: Apache-2.0 */
/* Rows of sessions as bytes. */
#include "core/broker/session_rows.h"

#include "core/base/hash.h"
#include "core/base/limits.h"
#include "core/base/pack.h"
#include "core/base/reader.h"
#include "core/log/table.h"

enum { ROW_VERSION = 1, NAME_VERSION = 2 };
enum {
    FLAG_GUARANTEE = 3,
    FLAG_NO_LOCAL = 4,
    FLAG_RETAIN = 8,
    FLAG_RELEASED = 16,
    FLAG_RETAINED = 32,
    FLAG_SHARE = 64,
    FLAG_FAILED = 128
};

/* Two hashes of 64 bits: the name itself is in the value and is compared. */
struct session_name session_name_of(uint64_t tenant, struct span name)
{
    struct hash_key second = {.k0 = tenant, .k1 = 0x73657373696f6e73ULL};
    return (struct session_name){.tenant = tenant,
                                 .hash = {hash_stable(name), hash_keyed(&second, name)}};
}

static void name_store(const struct session_name *name, uint8_t *to)
{
    store_u64(to, name->tenant);
    store_u64(to + 8, name->hash[0]);
    store_u64(to + 16, name->hash[1]);
}

void session_key(const struct session_name *name, uint8_t key[SESSION_KEY])
{
    key[0] = TABLE_SESSION;
    name_store(name, key + 1);
}

void session_state_key(uint64_t session, uint8_t key[SESSION_STATE_KEY])
{
    memset(key, 0, SESSION_STATE_KEY);
    key[0] = TABLE_SESSION_STATE;
    store_u64(key + 1, session);
}

size_t session_kind_key(uint64_t session, enum session_kind kind, uint64_t number,
                        uint8_t key[SESSION_STATE_KEY])
{
    session_state_key(session, key);
    key[9] = (uint8_t)kind;
    store_u64(key + 10, number);
    return SESSION_STATE_KEY;
}

void session_due_key(uint64_t due_ms, const struct session_name *name, uint8_t key[SESSION_DUE_KEY])
{
    key[0] = TABLE_SESSION_DUE;
    store_u64(key + 1, due_ms);
    name_store(name, key + 9);
}

enum status session_name_encode(const struct session_name_row *row, struct buf *to)
{
    struct pack pack = pack_into(to);
    pack_u8(&pack, NAME_VERSION);
    pack_u64(&pack, row->session);
    pack_u32(&pack, row->expiry_s);
    pack_u64(&pack, (uint64_t)row->ended_ms);
    pack_u64(&pack, row->due_ms);
    pack_u64(&pack, row->will_ms);
    pack_block(&pack, row->name);
    return pack.status;
}

enum status session_name_decode(struct span value, struct session_name_row *row)
{
    struct reader reader = reader_of(value);
    if (reader_u8(&reader) != NAME_VERSION)
        return STATUS_UNSUPPORTED;
    *row = (struct session_name_row){0};
    row->session = reader_u64(&reader);
    row->expiry_s = reader_u32(&reader);
    row->ended_ms = (int64_t)reader_u64(&reader);
    row->due_ms = reader_u64(&reader);
    row->will_ms = reader_u64(&reader);
    row->name = reader_block(&reader);
    return reader.failed ? STATUS_CORRUPT : STATUS_OK;
}

enum status session_filter_encode(const struct session_filter_row *row, struct buf *to)
{
    struct pack pack = pack_into(to);
    unsigned flags = (unsigned)row->guarantee | (row->no_local ? FLAG_NO_LOCAL : 0u) |
                     (row->retain_as_published ? FLAG_RETAIN : 0u);
    pack_u8(&pack, ROW_VERSION);
    pack_u8(&pack, (uint8_t)flags);
    pack_u32(&pack, row->identifier);
    pack_u16(&pack, 0);
    pack_u64(&pack, row->since);
    pack_u64(&pack, row->index);
    pack_block(&pack, row->filter);
    if (row->selector.size > 0)
        pack_block(&pack, row->selector);
    return pack.status;
}

static bool guarantee_is_valid(unsigned flags)
{
    return (flags & FLAG_GUARANTEE) <= GUARANTEE_EXACTLY_ONCE;
}

enum status session_filter_decode(struct span value, struct session_filter_row *row)
{
    struct reader reader = reader_of(value);
    if (reader_u8(&reader) != ROW_VERSION)
        return STATUS_UNSUPPORTED;
    unsigned flags = reader_u8(&reader);
    *row = (struct session_filter_row){
        .guarantee = (enum guarantee)(flags & FLAG_GUARANTEE),
        .no_local = (flags & FLAG_NO_LOCAL) != 0,
        .retain_as_published = (flags & FLAG_RETAIN) != 0,
    };
    row->identifier = reader_u32(&reader);
    reader_u16(&reader);
    row->since = reader_u64(&reader);
    row->index = reader_u64(&reader);
    row->filter = reader_block(&reader);
    if (reader_left(&reader) > 0)
        row->selector = reader_block(&reader);
    return reader.failed || !guarantee_is_valid(flags) ? STATUS_CORRUPT : STATUS_OK;
}

enum status session_note_encode(struct span key, struct span value, struct buf *to)
{
    struct pack pack = pack_into(to);
    pack_u8(&pack, ROW_VERSION);
    pack_u32(&pack, (uint32_t)key.size);
    pack_bytes(&pack, key);
    pack_bytes(&pack, value);
    return pack.status;
}

enum status session_note_decode(struct span row, struct span *key, struct span *value)
{
    struct reader reader = reader_of(row);
    uint8_t version = reader_u8(&reader);
    *key = reader_bytes(&reader, reader_u32(&reader));
    *value = reader_bytes(&reader, reader_left(&reader));
    return reader.failed || version != ROW_VERSION ? STATUS_CORRUPT : STATUS_OK;
}

enum status session_walk_encode(const struct session_walk_row *row, struct buf *to)
{
    struct pack pack = pack_into(to);
    pack_u8(&pack, ROW_VERSION);
    pack_u64(&pack, row->upto);
    pack_bytes(&pack, row->place);
    return pack.status;
}

enum status session_walk_decode(struct span value, struct session_walk_row *row)
{
    struct reader reader = reader_of(value);
    uint8_t version = reader_u8(&reader);
    row->upto = reader_u64(&reader);
    row->place = reader_bytes(&reader, reader_left(&reader));
    bool is_place = row->place.size == 0 || (row->place.size <= RETAINED_KEY_MAX + 1 &&
                                             row->place.data[0] == TABLE_RETAINED);
    return reader.failed || version != ROW_VERSION || !is_place ? STATUS_CORRUPT : STATUS_OK;
}

void session_position_begin(struct pack *pack, uint64_t position, const struct session_mark *marks,
                            uint32_t mark_count, uint32_t flight_count)
{
    pack_u8(pack, ROW_VERSION);
    pack_uvarint(pack, position);
    pack_uvarint(pack, mark_count);
    for (uint32_t i = 0; i < mark_count; i++) {
        pack_uvarint(pack, marks[i].partition);
        pack_uvarint(pack, marks[i].next);
        pack_uvarint(pack, marks[i].commit);
    }
    pack_uvarint(pack, flight_count);
}

void session_flight_encode(struct pack *pack, const struct session_flight *flight)
{
    bool released = flight->state == FLIGHT_TAKEN || flight->state == FLIGHT_RELEASED;
    unsigned flags =
        flight->guarantee | (flight->retain_as_published ? FLAG_RETAIN : 0u) |
        (released ? FLAG_RELEASED : 0u) | (flight->retained.size > 0 ? FLAG_RETAINED : 0u) |
        (flight->share != 0 ? FLAG_SHARE : 0u) | (flight->failures != 0 ? FLAG_FAILED : 0u);
    pack_u8(pack, (uint8_t)flags);
    pack_uvarint(pack, flight->number);
    pack_uvarint(pack, flight->partition);
    pack_uvarint(pack, flight->offset);
    pack_uvarint(pack, flight->identifier);
    if (flight->retained.size > 0)
        pack_block(pack, flight->retained);
    if (flight->share != 0)
        pack_u64(pack, flight->share);
    if (flight->failures != 0)
        pack_uvarint(pack, flight->failures);
}

static bool mark_read(struct reader *reader, struct session_mark *mark)
{
    mark->partition = reader_uvarint(reader);
    mark->next = reader_uvarint(reader);
    mark->commit = reader_uvarint(reader);
    return !reader->failed;
}

static bool flight_read(struct reader *reader, struct session_flight *flight)
{
    unsigned flags = reader_u8(reader);
    uint64_t number = reader_uvarint(reader);
    *flight = (struct session_flight){
        .guarantee = flags & FLAG_GUARANTEE,
        .state = flags & FLAG_RELEASED ? FLIGHT_RELEASED : FLIGHT_SENT,
        .retain_as_published = (flags & FLAG_RETAIN) != 0,
    };
    flight->partition = reader_uvarint(reader);
    flight->offset = reader_uvarint(reader);
    uint64_t identifier = reader_uvarint(reader);
    flight->number = (uint32_t)number;
    flight->identifier = (uint32_t)identifier;
    if (flags & FLAG_RETAINED)
        flight->retained = reader_block(reader);
    if (flags & FLAG_SHARE)
        flight->share = reader_u64(reader);
    uint64_t failures = flags & FLAG_FAILED ? reader_uvarint(reader) : 0;
    flight->failures = (uint16_t)failures;
    return !reader->failed && failures <= UINT16_MAX && flight->retained.size <= RETAINED_KEY_MAX &&
           (flight->retained.size > 0) == ((flags & FLAG_RETAINED) != 0) &&
           guarantee_is_valid(flags) && number > 0 && number <= UINT32_MAX &&
           identifier <= UINT32_MAX;
}

enum status session_position_decode(struct span value, uint32_t number_max,
                                    struct session_position *position)
{
    struct reader reader = reader_of(value);
    if (reader_u8(&reader) != ROW_VERSION)
        return STATUS_UNSUPPORTED;
    *position = (struct session_position){.position = reader_uvarint(&reader)};
    uint64_t marks = reader_uvarint(&reader);
    if (reader.failed || marks > reader_left(&reader))
        return STATUS_CORRUPT;
    position->mark_count = (uint32_t)marks;
    position->marks = span_of(reader.at, reader_left(&reader));
    struct session_mark mark;
    for (uint64_t i = 0; i < marks; i++)
        if (!mark_read(&reader, &mark))
            return STATUS_CORRUPT;
    uint64_t flights = reader_uvarint(&reader);
    if (reader.failed || flights > number_max)
        return STATUS_CORRUPT;
    position->flight_count = (uint32_t)flights;
    position->flights = span_of(reader.at, reader_left(&reader));
    struct session_flight flight;
    for (uint64_t i = 0; i < flights; i++)
        if (!flight_read(&reader, &flight) || flight.number > number_max)
            return STATUS_CORRUPT;
    return STATUS_OK;
}

void session_block_begin(struct pack *pack)
{
    pack_u8(pack, ROW_VERSION);
}

enum status session_block_decode(struct span value, uint64_t block, uint32_t number_max,
                                 struct session_position *flights)
{
    struct reader reader = reader_of(value);
    if (reader_u8(&reader) != ROW_VERSION)
        return STATUS_UNSUPPORTED;
    *flights = (struct session_position){.flights = span_of(reader.at, reader_left(&reader))};
    struct session_flight flight;
    for (; reader_left(&reader) > 0; flights->flight_count++)
        if (!flight_read(&reader, &flight) || flight.number > number_max ||
            (flight.number - 1) / SESSION_BLOCK != block)
            return STATUS_CORRUPT;
    return reader.failed || flights->flight_count == 0 ? STATUS_CORRUPT : STATUS_OK;
}

bool session_mark_next(struct session_position *position, struct session_mark *mark)
{
    if (position->mark_count == 0)
        return false;
    struct reader reader = reader_of(position->marks);
    position->mark_count--;
    bool there = mark_read(&reader, mark);
    position->marks = span_of(reader.at, reader_left(&reader));
    return there;
}

bool session_flight_next(struct session_position *position, struct session_flight *flight)
{
    if (position->flight_count == 0)
        return false;
    struct reader reader = reader_of(position->flights);
    position->flight_count--;
    bool there = flight_read(&reader, flight);
    position->flights = span_of(reader.at, reader_left(&reader));
    return there;
}

void filter_index_key(uint64_t id, uint64_t commit, uint8_t key[FILTER_INDEX_KEY])
{
    key[0] = TABLE_FILTER_INDEX;
    store_u64(key + 1, id);
    store_u64(key + 9, commit);
}

void filter_holder_key(uint64_t id, uint64_t session, uint8_t key[FILTER_HOLDER_KEY])
{
    key[0] = TABLE_FILTER_HOLDER;
    store_u64(key + 1, id);
    store_u64(key + 9, session);
}

bool filter_row_decode(struct span key, struct span value, struct filter_row *row)
{
    if (key.size != FILTER_INDEX_KEY || value.size < FILTER_ROW_HEAD)
        return false;
    row->commit = load_u64(key.data + 9);
    row->partition = load_u64(value.data);
    row->base = load_u64(value.data + 8);
    row->runs = span_from(value, FILTER_ROW_HEAD);
    return true;
}

void filter_row_sums(const struct filter_row *row, uint64_t *records, uint64_t *bytes)
{
    struct reader reader = reader_of(row->runs);
    *records = *bytes = 0;
    while (reader_left(&reader) > 0 && !reader.failed) {
        uint64_t first = reader_uvarint(&reader), size = reader_uvarint(&reader);
        if (size == 0 && reader_left(&reader) == 0 && first <= UINT32_MAX)
            *bytes = first;
        *records += size <= LIMIT_BATCH_RECORDS ? size : 0;
    }
}
