/* SPDX-License-Identifier: Apache-2.0 */
/* One record in the form of Kafka's RecordBatch v2 (KIP-98): a borrowed view for readers, the
 * pieces for writers. Names of standard headers are in MAPPING (docs/mapping.md). */
#ifndef CORE_LOG_RECORD_H
#define CORE_LOG_RECORD_H

#include "core/base/arena.h"
#include "core/base/reader.h"
#include "core/base/status.h"

/* What was asked for when the record was published; kept in the record's attribute bits 0-1, which
 * Kafka leaves unused. Readers give at most this. */
enum guarantee {
    GUARANTEE_AT_LEAST_ONCE = 0,
    GUARANTEE_AT_MOST_ONCE = 1,
    GUARANTEE_EXACTLY_ONCE = 2
};
enum {
    RECORD_GUARANTEE_MASK = 3,
    RECORD_RETAIN = 4,       /* published with the retain flag */
    RECORD_RECALLED = 8,     /* never stored: it is shown as the retained record of its topic */
    RECORD_NOT_DURABLE = 16, /* its publisher said that it need not outlast a failure */
};

struct header {
    struct span name;
    struct span value; /* data NULL: a null value */
};

/* A decoded record; every span borrows from its batch. */
struct record {
    uint64_t offset;
    int64_t timestamp_ms;   /* publish time */
    int64_t append_time_ms; /* of its batch; 0 before it was stored */
    uint8_t attributes;
    struct span key;     /* data NULL: none */
    struct span value;   /* data NULL: tombstone */
    struct span headers; /* header_count encoded headers */
    uint32_t header_count;
};

static inline enum guarantee record_guarantee(const struct record *record)
{
    return (enum guarantee)(record->attributes & RECORD_GUARANTEE_MASK);
}

/* What it is made of, without framing: a measure that does not depend on how it is stored. */
static inline size_t record_bytes(const struct record *record)
{
    return record->key.size + record->value.size + record->headers.size;
}

/* Walks headers in order: struct reader at = reader_of(record->headers); while
 * (record_next_header(&at, &header)). Stops at the end and at the first malformed header. */
bool record_next_header(struct reader *at, struct header *header);
/* First header of that name; false when missing. */
bool record_find(const struct record *record, const char *name, struct span *value);

/* Names of standard headers, as stored. */
#define HEADER_TOPIC            "topic"
#define HEADER_PUBLISHER        "publisher"
#define HEADER_CONTENT_TYPE     "content-type"
#define HEADER_CONTENT_ENCODING "content-encoding"
#define HEADER_MESSAGE_ID       "message-id"
#define HEADER_CORRELATION_ID   "correlation-id"
#define HEADER_REPLY_TO         "reply-to"
#define HEADER_SUBJECT          "subject"
#define HEADER_PRIORITY         "priority"      /* 0 to 9 */
#define HEADER_CREATION_TIME    "creation-time" /* decimal ms since 1970, by the publisher */
#define HEADER_GROUP_ID         "group-id"
#define HEADER_GROUP_SEQUENCE   "group-sequence"
#define HEADER_EXPIRES_AT       "expires-at" /* decimal ms since 1970 */
#define HEADER_LABELS           "labels"     /* separated by commas */
#define HEADER_TYPES            "pl-types"   /* see core/log/types.h */
#define HEADER_BODY             "pl-body"
#define HEADER_DEAD             "pl-dead" /* of a dead letter: what follows was not the publisher's */

/* Names that begin with "pl-" are the gateway's own. A publisher's name that does is stored with
 * "pl-" once more before it, so that it never passes for one of these. */
#define HEADER_OWN_PREFIX "pl-"
enum { HEADER_OWN_PREFIX_SIZE = sizeof HEADER_OWN_PREFIX - 1 };

static inline bool header_begins_as_own(struct span name)
{
    return name.size >= HEADER_OWN_PREFIX_SIZE &&
           memcmp(name.data, HEADER_OWN_PREFIX, HEADER_OWN_PREFIX_SIZE) == 0;
}

/* The publisher's name of a stored header; data NULL: the header is the gateway's own, and shown to
 * nobody. */
static inline struct span header_given_name(struct span stored)
{
    if (!header_begins_as_own(stored))
        return stored;
    struct span given =
        span_of(stored.data + HEADER_OWN_PREFIX_SIZE, stored.size - HEADER_OWN_PREFIX_SIZE);
    return header_begins_as_own(given) ? given : (struct span){0};
}

/* How a publisher's name is stored; in arena only where that is another. data NULL: no memory. */
struct span header_stored_name(struct span given, struct arena *arena);

#endif
