/* SPDX-License-Identifier: Apache-2.0 */
/* What is stored of a durable share. Its id is a keyed hash of tenant, name and filter, as those of
 * filters are, so that it needs neither a table nor a counter. It has a session of its own
 * (session_rows.h) under a name that no client can have: filter, position, what members hold that
 * no session answers for. Beside it:
 *
 *   TABLE_SHARE  share, 'g', partition, offset -> a session answers for this record now, or it was
 *                                                 settled in a transaction
 *                share, 'm', session           -> that session takes part
 *                share, 'r', partition, offset -> a session that answered for it is over: it goes
 *                                                 to another member
 *
 * A record that a session takes is stored with it in one write, as flight and 'g' ('r' goes). The
 * share's next write then says the same without 'g', and deletes it. A share without 'm' is over.
 * Pure. */
#ifndef CORE_BROKER_SHARE_ROWS_H
#define CORE_BROKER_SHARE_ROWS_H

#include "core/broker/session_rows.h"

enum share_kind { SHARE_KIND_GONE = 'g', SHARE_KIND_MEMBER = 'm', SHARE_KIND_RETURNED = 'r' };

/* A record that goes to a member of a share. */
struct share_ref {
    uint64_t partition, offset;
    uint32_t number;   /* of the share's flight; 0: it has none */
    bool returned;     /* there is a row that says so */
    bool reserved;     /* a row says that a member without a session has it, exactly once */
    uint16_t failures; /* as in struct session_flight */
};

enum { SHARE_ROW_KEY = 1 + 8 + 1 + 8 + 8, SHARE_NAME = 7 + 8 };
/* The longest key; it is also where a scan of that kind begins, with 0, and ends, with UINT64_MAX.
 */
void share_row_key(uint64_t share, enum share_kind kind, uint64_t partition, uint64_t offset,
                   uint8_t key[SHARE_ROW_KEY]);
void share_member_key(uint64_t share, uint64_t session, uint8_t key[SHARE_ROW_KEY]);
/* Of the row that makes the sweep look whether anybody takes part when that session does not any
 * longer, or has given back to the share: one for each session, due at once, so that neither is
 * another's deleted nor do they pile up. Its value says which share, should that be over. */
enum { SHARE_DUE = 8 };
void share_due_value(uint64_t share, uint8_t value[SHARE_DUE]);
uint64_t share_of_due(struct span value); /* 0: of no share */
void share_due_key(uint64_t tenant, uint64_t share, uint64_t session, uint8_t key[SESSION_DUE_KEY]);
/* False: not the key of a record's row. */
bool share_row_decode(struct span key, enum share_kind *kind, struct share_ref *ref);

/* The name of a share's session, and back: 0 when it is no share's. */
struct span share_name(uint64_t share, uint8_t name[SHARE_NAME]);
uint64_t share_of_name(struct span name);

#endif
