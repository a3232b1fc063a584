/* SPDX-License-Identifier: Apache-2.0 */
/* AMQP's view of a record, both ways (docs/mapping.md). A message that came by AMQP leaves with the
 * bytes of its bare message as they were: where writing it anew would give others, header "pl-amqp"
 * has kept them. */
#ifndef ADAPTERS_AMQP_VIEW_H
#define ADAPTERS_AMQP_VIEW_H

#include "adapters/amqp/codec.h"
#include "core/base/arena.h"
#include "core/broker/broker.h"

#define AMQP_HEADER_AMQP "pl-amqp"
#define AMQP_HEADER_ANNOTATIONS                                                                    \
    "pl-annotations" /* items of the map that cannot be written from the rest of the record        \
                      */
#define AMQP_HEADER_TO          "to"
#define AMQP_HEADER_USER_ID     "user-id"
#define AMQP_HEADER_REPLY_GROUP "reply-to-group-id"

/* What "pl-amqp" holds: flags (uvarint), then a block each for what the flags from KEEPS_BARE to
 * KEEPS_FOOTER name. */
enum amqp_kept {
    AMQP_EXACT = 2, /* came by AMQP: nothing is added to the bare message */
    AMQP_WIDE_PROPERTIES = 4,
    AMQP_WIDE_APPLICATION = 8,
    AMQP_KEEPS_BARE = 16,     /* properties and application properties as they were */
    AMQP_KEEPS_DELIVERY = 32, /* delivery annotations, items with their count */
    AMQP_KEEPS_FOOTER = 64,
    AMQP_ABSOLUTE = 128, /* had an absolute-expiry-time */
    /* The annotation is among those kept: of another type than the gateway would write. */
    AMQP_KEEPS_KEY = 256,
    AMQP_KEEPS_LABELS = 512,
};

/* Fills publish (body, key, headers, delay, expiry, retain) from a message; texts that were not in
 * the message lie in arena. to: the property, empty when there is none. MALFORMED, INVALID (with
 * err), TOO_LARGE. */
enum status amqp_view_read(struct arena *arena, struct span bytes, struct publish *publish,
                           struct span *to, struct err *err);

/* An annotation that says of a dead letter what became of it. */
#define AMQP_DEAD_PREFIX "x-opt-dead-letter-"
static inline bool amqp_is_of_dead(struct span name)
{
    size_t size = sizeof AMQP_DEAD_PREFIX - 1;
    return name.size >= size && memcmp(name.data, AMQP_DEAD_PREFIX, size) == 0;
}

/* How a record is to be shown. */
struct amqp_shown {
    uint32_t failures;
    bool first_acquirer;
    bool positions; /* annotations x-opt-offset, -partition, -enqueued-time */
    uint64_t partition;
    int64_t now_ms;
    struct span note; /* what amqp_note_read() gave, of those who had it before */
};
/* At most so many bytes, and AMQP_NOTE_GROWS for each of a note's. */
enum { AMQP_NOTE_GROWS = 8 };
size_t amqp_view_bound(const struct record *record);
/* Properties and application properties as they would be written; to has amqp_bare_bound() bytes.
 */
size_t amqp_bare_bound(const struct header *headers, uint32_t count);
size_t amqp_view_bare(const struct header *headers, uint32_t count, unsigned flags, uint8_t *to);
/* Writes the message to `to`, which has room for that many; returns its size. */
size_t amqp_view_write(const struct record *record, const struct amqp_shown *shown, uint8_t *to);

/* note.c: annotations of a modified outcome, as a note of the group's (group.h). */
/* Empty: there are none, or too many. */
void amqp_note_read(const struct amqp_value *annotations, struct buf *note);
/* These annotations, and the note's in place of those of the same name: how many values. */
uint32_t amqp_note_write(struct amqp_writer *writer, struct span items, struct span note);

/* The error of a rejected outcome, as a reason of the group's: what is too long is cut, what is no
 * text left out. */
void amqp_reason_read(struct span condition, struct span description, struct buf *note);
/* The same of an error: a described list. */
void amqp_error_read(const struct amqp_value *error, struct buf *note);

/* Addresses: what MQTT calls $queue/q is q (or /queues/q) here, and a topic t is /topics/t. The
 * neutral form is MQTT's. */
struct span amqp_address_in(struct span address, struct arena *arena); /* data NULL: no memory */

#endif
