/* SPDX-License-Identifier: Apache-2.0 */
/* The stored form of a will: a row of its session. Pure: decoders take any bytes. */
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

#endif
