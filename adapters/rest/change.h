/* SPDX-License-Identifier: Apache-2.0 */
/* A call that changes the catalog: one broker_admin at a time, and what follows from it. */
#ifndef ADAPTERS_REST_CHANGE_H
#define ADAPTERS_REST_CHANGE_H

#include "adapters/rest/call.h"
#include "core/broker/administer.h"

/* The DMS codes of what a change may end with, apart from the general ones. 0: the general one. */
struct change_codes {
    unsigned exists, over_quota, not_found, invalid;
};

struct change {
    struct call call;
    struct broker_admin admin; /* filled by the call before change_start() */
    const struct change_codes *codes;
    void (*applied)(struct change *change); /* it went well: answer, or start the next */
    size_t next;                            /* for calls that change several things */
};

static inline struct change *change_of(struct call *call)
{
    return container_of(call, struct change, call);
}

/* Runs change->admin; refuses when it fails. What admin has made is given back after applied(). */
void change_start(struct change *change, enum admin_action action);
/* Route pattern begins with /v1/: more is shown and taken than DMS has. */
bool call_is_ours(const struct call *call);

#endif
