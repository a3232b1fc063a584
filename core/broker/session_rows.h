/* SPDX-License-Identifier: Apache-2.0 */
/* What is stored of a session, and in which form. Everything of one session but its name and its
 * due time lies together under its id, so that one scan reads it and one range delete ends it:
 *
 *   TABLE_SESSION        tenant, hash of the name      -> struct session_name_row
 *   TABLE_SESSION_STATE  session, 'f', hash of filter  -> struct session_filter_row
 *                        session, 'h', block           -> flights of a share's session, of those
 * numbers session, 'l', 0               -> last will: will.h session, 'n', hash of key     ->
 * version, size of key, key, value: a note session, 'p'                  -> struct session_position
 *                        session, 'r', number          -> incoming exactly-once number in use
 *                        session, 'w', hash of filter  -> struct session_walk_row
 *                        session, 's', share           -> it takes part in that share: share_rows.h
 *   TABLE_SESSION_DUE    due time, tenant, hash of the name: of its end, or of its will
 *   TABLE_FILTER_HOLDER  filter id, session
 *   TABLE_FILTER_INDEX   filter id, commit sequence    -> struct filter_row
 *
 * Pure: decoders take any bytes. */
#ifndef CORE_BROKER_SESSION_ROWS_H
#define CORE_BROKER_SESSION_ROWS_H

#include "core/base/buf.h"
#include "core/broker/retained_row.h"

enum {
    SESSION_KEY = 1 + 8 + 16,
    SESSION_STATE_KEY = 1 + 8 + 1 + 8, /* the longest */
    SESSION_DUE_KEY = 1 + 8 + 8 + 16,
    SESSION_FILTER_SINCE = 8, /* where the commit sequence goes in a filter's value, */
    SESSION_WALK_UPTO = 1,    /* and in a walk's */
    SESSION_BLOCK = 64        /* numbers of flights whose row is one */
};
enum session_kind {
    SESSION_KIND_BLOCK = 'h',
    SESSION_KIND_FILTER = 'f',
    SESSION_KIND_WILL = 'l',
    SESSION_KIND_NOTE = 'n',
    SESSION_KIND_POSITION = 'p',
    SESSION_KIND_RECEIVED = 'r',
    SESSION_KIND_SHARE = 's',
    SESSION_KIND_WALK = 'w'
};

struct session_name {
    uint64_t tenant;
    uint64_t hash[2];
};
struct session_name session_name_of(uint64_t tenant, struct span name);
void session_key(const struct session_name *name, uint8_t key[SESSION_KEY]);
/* Of the first row of that session, or with id + 1 what its rows end before. */
void session_state_key(uint64_t session, uint8_t key[SESSION_STATE_KEY]);
/* Of one row; returns its size. */
size_t session_kind_key(uint64_t session, enum session_kind kind, uint64_t number,
                        uint8_t key[SESSION_STATE_KEY]);
void session_due_key(uint64_t due_ms, const struct session_name *name,
                     uint8_t key[SESSION_DUE_KEY]);

struct session_name_row {
    uint64_t session;
    uint32_t expiry_s; /* after its client has gone; UINT32_MAX: never */
    int64_t ended_ms;  /* when it went; 0: it has not, or not in order */
    uint64_t due_ms;   /* of its row in TABLE_SESSION_DUE; 0: none */
    uint64_t will_ms;  /* of that of its will; 0: it has left none; or SESSION_WILL_HELD */
    struct span name;
};
#define SESSION_WILL_HELD UINT64_MAX /* there is one, and the client has not gone */
enum status session_name_encode(const struct session_name_row *row, struct buf *to);
enum status session_name_decode(struct span value, struct session_name_row *row);

struct session_filter_row {
    enum guarantee guarantee;
    bool no_local, retain_as_published;
    uint32_t identifier;
    uint64_t since; /* records behind this commit sequence; encoded as 0, for the engine to fill */
    uint64_t index; /* filter id under which they are found; 0: none are kept for it */
    struct span filter;
    struct span selector; /* its text; empty: none */
};
enum status session_filter_encode(const struct session_filter_row *row, struct buf *to);
enum status session_filter_decode(struct span value, struct session_filter_row *row);

enum status session_note_encode(struct span key, struct span value, struct buf *to);
enum status session_note_decode(struct span row, struct span *key, struct span *value);

/* Retained records that a subscription has not been shown yet. */
struct session_walk_row {
    uint64_t upto;     /* of those committed up to here; encoded as 0, for the engine to fill */
    struct span place; /* from this row of the set on (retained_row.h); empty: from the first */
};
enum status session_walk_encode(const struct session_walk_row *row, struct buf *to);
enum status session_walk_decode(struct span value, struct session_walk_row *row);

/* Everything up to position was handed out, and of a partition with a mark everything below next as
 * well: settled, or in flight. */
struct session_mark {
    uint64_t partition, next;
    uint64_t commit; /* of the record before next: the mark says nothing new from there on */
};
enum flight_state {
    FLIGHT_FREE,
    FLIGHT_HELD,    /* exactly once, or behind such: its row is being written */
    FLIGHT_SENT,    /* waits for the client's answer */
    FLIGHT_TAKEN,   /* exactly once: the client has it; the row that says so is being written */
    FLIGHT_RELEASED /* and was told to forget it */
};
struct session_flight {
    uint64_t partition, offset;
    uint32_t number; /* the client's word for it */
    uint32_t identifier;
    uint8_t state; /* stored as SENT or RELEASED */
    uint8_t guarantee;
    bool retain_as_published;
    uint16_t failures;    /* deliveries of it that have failed; it stays at the highest */
    struct span retained; /* key of the retained row that was shown; empty: no such record */
    uint64_t share;       /* that gave it; 0: none. The session's end gives it back */
};
/* After a delivery that has failed, or just ended without its being over. */
static inline uint16_t flight_failures(uint16_t failures, bool failed)
{
    return (uint16_t)(failures + (failed && failures < UINT16_MAX));
}
struct session_position {
    uint64_t position;
    uint32_t mark_count, flight_count;
    struct span marks, flights; /* encoded, in order */
};
struct pack;
void session_position_begin(struct pack *pack, uint64_t position, const struct session_mark *marks,
                            uint32_t mark_count, uint32_t flight_count);
void session_flight_encode(struct pack *pack, const struct session_flight *flight);
/* CORRUPT also when a number is above number_max. Of a share it says no flights: blocks do. It did
 * once, and does where no write has followed. */
enum status session_position_decode(struct span value, uint32_t number_max,
                                    struct session_position *position);
/* A block is session_flight_encode() of each behind that, at least of one. CORRUPT also when one is
 * of another block or above number_max; of flights, the count and they are set. */
void session_block_begin(struct pack *pack);
enum status session_block_decode(struct span value, uint64_t block, uint32_t number_max,
                                 struct session_position *flights);
/* Take the next off the list; false at its end. */
bool session_mark_next(struct session_position *position, struct session_mark *mark);
bool session_flight_next(struct session_position *position, struct session_flight *flight);

/* Key of a filter's row: of the first after commit when all lie behind it. */
enum { FILTER_INDEX_KEY = 17 };
void filter_index_key(uint64_t id, uint64_t commit, uint8_t key[FILTER_INDEX_KEY]);
enum { FILTER_HOLDER_KEY = 17 };
void filter_holder_key(uint64_t id, uint64_t session, uint8_t key[FILTER_HOLDER_KEY]);

/* One row: the records of a batch that match. */
enum { FILTER_ROW_HEAD = 16 }; /* partition and base offset, before the runs */
struct filter_row {
    uint64_t commit, partition, base;
    /* {uvarint skipped, uvarint records}, repeated; at the end, where no run of 0 records says
     * anything else, {uvarint record_bytes() of them together, 0}. Older rows have no such end. */
    struct span runs;
};
bool filter_row_decode(struct span key, struct span value, struct filter_row *row);
/* How many records a row names, and how large they are: 0 where it does not say. */
void filter_row_sums(const struct filter_row *row, uint64_t *records, uint64_t *bytes);

#endif
