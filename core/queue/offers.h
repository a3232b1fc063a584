/* SPDX-License-Identifier: Apache-2.0 */
/* Offsets that became available, in the order in which they did, read by several readers, each from
 * its own place. An entry may be outdated: whoever reads it asks what the offset is now. */
#ifndef CORE_QUEUE_OFFERS_H
#define CORE_QUEUE_OFFERS_H

#include "core/base/list.h"

#include <stdint.h>

struct offer_reader {
    struct link link;
    uint64_t place; /* of the entry it reads next; rises */
};

struct offers {
    uint64_t *offsets;
    uint32_t capacity;
    uint32_t count;
    uint64_t first; /* place of the first entry */
    struct list readers;
};

void offers_init(struct offers *offers);
void offers_deinit(struct offers *offers);
/* Nothing is offered any more. */
void offers_clear(struct offers *offers);
void offers_push(struct offers *offers, uint64_t offset);
/* A new reader begins with the first entry. Caller owns it until offers_leave. */
void offers_join(struct offers *offers, struct offer_reader *reader);
void offers_leave(struct offer_reader *reader); /* harmless when it never joined */
/* Drops what is outdated, when so much was pushed that it pays. Costs O(1) per push. */
void offers_tidy(struct offers *offers, bool (*is_live)(void *context, uint64_t offset),
                 void *context);

/* The entry that reader is at; false: it has read all. */
static inline bool offers_peek(const struct offers *offers, const struct offer_reader *reader,
                               uint64_t *offset)
{
    uint64_t index = reader->place - offers->first;
    if (index >= offers->count)
        return false;
    *offset = offers->offsets[index];
    return true;
}

#endif
