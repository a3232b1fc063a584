/* SPDX-License-Identifier: Apache-2.0 */
/* The stored form of a will: a row of its session, or one of its own. Pure: decoders take any
 * bytes.
 */
#ifndef CORE_BROKER_WILL_ROW_H
#define CORE_BROKER_WILL_ROW_H

#include "core/base/limits.h"
#include "core/broker/broker.h"

/* user: whose rights count; empty: there are no users. NULL: too large. */
struct blob *will_encode(struct span user, const struct broker_will *will);

struct stored_will {
    struct broker_will will;
    struct span user;                     /* empty: there were no users */
    struct header headers[LIMIT_HEADERS]; /* the last is free, for the time of its end */
};
/* Spans point into the row. False: it is none. */
bool will_decode(struct span row, struct stored_will *stored);
/* The delay in a stored one. False: it is none. */
bool will_delay(struct span row, uint32_t *delay_s);

/* One that is no part of a session: will_wait.h. */
struct waiting_will {
    uint64_t tenant;
    uint32_t tries; /* how often it has been refused, beside the first time */
    struct span client_id, row;
};
struct blob *waiting_will_encode(const struct waiting_will *will);
bool waiting_will_decode(struct span value, struct waiting_will *will); /* spans point into value */
enum will_kind { WILL_KIND_HELD = 'h', WILL_KIND_WAITING = 'w' };
enum { WILL_KEY = 1 + 1 + 8 + 8 };
/* Returns its size. */
size_t will_key(enum will_kind kind, uint64_t first, uint64_t second, uint8_t key[WILL_KEY]);

#endif
