/* SPDX-License-Identifier: Apache-2.0 */
/* What members of a share hold, as rows: a block of them for SESSION_BLOCK numbers each, so that a
 * write has those that changed since the last one, however much is in flight. They go with the row
 * of the position, in one write. */
#include "core/broker/session.h"

#include "core/base/heap.h"
#include "core/base/pack.h"

enum {
    BLOCK_CHANGED = 1, /* and in the list of those */
    BLOCK_STORED = 2   /* there is a row of it, or may be */
};
enum { BLOCKS_BYTES = 64 * 1024 * 1024 };

static uint32_t block_of(uint32_t number)
{
    return (number - 1) / SESSION_BLOCK;
}

static void make_room(struct session_blocks *blocks, uint32_t block)
{
    if (block < blocks->count)
        return;
    uint32_t count = blocks->count == 0 ? 16 : blocks->count * 2;
    if (count <= block)
        count = block + 1;
    blocks->flags = heap_resize(blocks->flags, count);
    memset(blocks->flags + blocks->count, 0, count - blocks->count);
    blocks->changed = heap_resize(blocks->changed, count * sizeof *blocks->changed);
    blocks->writing = heap_resize(blocks->writing, count * sizeof *blocks->writing);
    blocks->count = count;
}

static void change(struct session_blocks *blocks, uint32_t block)
{
    make_room(blocks, block);
    if ((blocks->flags[block] & BLOCK_CHANGED) != 0)
        return;
    blocks->flags[block] |= BLOCK_CHANGED;
    blocks->changed[blocks->changed_count++] = block;
}

void session_flight_changed(struct session *session, const struct flight *flight)
{
    if (session->share != 0)
        change(&session->blocks, block_of(flight->at.number));
}

enum status session_block_load(struct session *session, uint64_t block, struct span value)
{
    struct session_position flights;
    enum status status = session->share == 0
                             ? STATUS_CORRUPT
                             : session_block_decode(value, block, LIMIT_SHARE_FLIGHTS, &flights);
    if (status != STATUS_OK)
        return status;
    make_room(&session->blocks, (uint32_t)block);
    session->blocks.flags[block] |= BLOCK_STORED;
    return session_flights_load(session, &flights);
}

/* ------------------------------------------------ saving */

struct flight *session_block_flight(struct session *session, uint32_t block, uint32_t *at)
{
    while (*at < SESSION_BLOCK) {
        uint32_t number = block * SESSION_BLOCK + ++*at;
        if (number > session->flight_count)
            return NULL;
        if (session->flights[number].at.state != FLIGHT_FREE)
            return &session->flights[number];
    }
    return NULL;
}

/* Its value behind those in blocks->values; false: there is nothing to write. */
static bool encode(struct session *session, uint32_t block, struct storage_row *row)
{
    struct session_blocks *blocks = &session->blocks;
    struct pack pack = pack_into(&blocks->values);
    size_t before = blocks->values.size;
    uint32_t at = 0;
    struct flight *flight;
    bool stored = (blocks->flags[block] & BLOCK_STORED) != 0;
    blocks->flags[block] &= (uint8_t) ~(BLOCK_CHANGED | BLOCK_STORED);
    while ((flight = session_block_flight(session, block, &at)) != NULL) {
        if (blocks->values.size == before)
            session_block_begin(&pack);
        flight->covered = flight->at.state == FLIGHT_HELD;
        session_flight_encode(&pack, &flight->at);
    }
    CHECK(pack.status == STATUS_OK);
    bool empty = blocks->values.size == before;
    if (empty && !stored)
        return false;
    if (!empty)
        blocks->flags[block] |= BLOCK_STORED;
    *row = (struct storage_row){.change = empty ? STORAGE_DELETE : STORAGE_PUT,
                                .value.size = blocks->values.size - before,
                                .offset_at = -1};
    return true;
}

struct storage_row *session_block_rows(struct session *session, const struct storage_row *first,
                                       uint32_t *count)
{
    struct session_blocks *blocks = &session->blocks;
    uint32_t *changed = blocks->changed, most = blocks->changed_count;
    blocks->changed = blocks->writing;
    blocks->writing = changed;
    blocks->writing_count = most;
    blocks->changed_count = 0;
    buf_clear(&blocks->values);
    struct storage_row *rows =
        heap_new((most + 1) * sizeof *rows + (size_t)most * SESSION_STATE_KEY);
    uint8_t *key = (uint8_t *)(rows + most + 1);
    rows[0] = *first;
    *count = 1;
    for (uint32_t i = 0; i < most; i++) {
        struct storage_row *row = &rows[*count];
        if (!encode(session, blocks->writing[i], row))
            continue;
        session_kind_key(session->id, SESSION_KIND_BLOCK, blocks->writing[i], key);
        row->key = span_of(key, SESSION_STATE_KEY);
        key += SESSION_STATE_KEY;
        ++*count;
    }
    const uint8_t *value = blocks->values.data;
    for (uint32_t i = 1; i < *count; i++) { /* it does not move any more */
        rows[i].value.data = value;
        value += rows[i].value.size;
    }
    return rows;
}

void session_blocks_written(struct session *session, bool stored)
{
    struct session_blocks *blocks = &session->blocks;
    for (uint32_t i = 0; i < blocks->writing_count && !stored; i++) {
        change(blocks, blocks->writing[i]);
        blocks->flags[blocks->writing[i]] |= BLOCK_STORED;
    }
}

void session_blocks_last(struct session *session, struct session_rows *rows)
{
    struct storage_row none = {0};
    uint32_t count;
    struct storage_row *blocks = session_block_rows(session, &none, &count);
    for (uint32_t i = 1; i < count; i++)
        session_rows_add(rows, blocks[i].change, blocks[i].key, blocks[i].value);
    heap_free(blocks);
}

void session_blocks_init(struct session *session)
{
    buf_init(&session->blocks.values, BLOCKS_BYTES);
}

void session_blocks_free(struct session *session)
{
    heap_free(session->blocks.flags);
    heap_free(session->blocks.changed);
    heap_free(session->blocks.writing);
    buf_deinit(&session->blocks.values);
}
