/* SPDX-License-Identifier: Apache-2.0 */
/* What the headers of a record are to AMQP, for those who write it as a message: write.c its bare
 * part, annotate.c its header and annotations. */
#ifndef ADAPTERS_AMQP_SHOWING_H
#define ADAPTERS_AMQP_SHOWING_H

#include "adapters/amqp/view.h"
#include "core/base/limits.h"

/* Headers with a meaning of their own, behind the fields of the properties section
 * (enum amqp_property); then what all others are. */
enum {
    SHOWING_PRIORITY = AMQP_PROPERTIES,
    SHOWING_LABELS,
    SHOWING_TOPIC,
    SHOWING_PUBLISHER,
    SHOWING_TYPES,
    SHOWING_BODY,
    SHOWING_KEPT,
    SHOWING_ANNOTATIONS,
    SHOWING_NAMES,
    SHOWING_USER = SHOWING_NAMES,
    SHOWING_HIDDEN, /* the gateway's own, for other protocols */
    SHOWING_DEAD    /* what became of a dead letter */
};

/* Of whose headers it says what they are: borrowed. */
struct showing {
    const struct header *headers;
    uint32_t count;
    uint8_t kinds[LIMIT_HEADERS]; /* by header: what it is; SHOWING_USER: the publisher's own */
    const struct header *first[SHOWING_NAMES]; /* NULL: missing, or null */
    bool seen[SHOWING_NAMES];
    struct span types;
    bool has_users;
};

void amqp_showing_init(struct showing *showing, const struct header *headers, uint32_t count);

/* A header's value, with the type that pl-types gives it, if it is one of those allowed here, else
 * as plain: text, or bytes where it is no text. */
enum { SHOWING_ANY_TYPE, SHOWING_ID_TYPES, SHOWING_TEXT_TYPES };
void amqp_showing_write(struct amqp_writer *writer, const struct showing *showing,
                        const struct header *header, enum amqp_type plain, unsigned types);
/* False: the text is no such value, and the writer is somewhere behind where it was. */
bool amqp_showing_typed(struct amqp_writer *writer, enum amqp_type type, struct span value);
/* A name that AMQP can say. */
bool amqp_showing_has_name(const struct header *header);
/* Another of the publisher's own has the name, or one before it has. Of several with one name the
 * first is a property, all of them are in an annotation. */
bool amqp_showing_repeats(const struct showing *showing, uint32_t index, bool only_before);
/* What begins with a slash was no address of ours when it came. */
bool amqp_showing_is_queue(struct span address);
bool amqp_showing_is_topic(struct span address);

/* annotate.c. Sections of the message; flags are those of pl-amqp. */
void amqp_write_head(struct amqp_writer *writer, const struct record *record,
                     const struct showing *showing, const struct amqp_shown *shown);
void amqp_write_annotations(struct amqp_writer *writer, const struct record *record,
                            const struct showing *showing, const struct amqp_shown *shown,
                            unsigned flags);
/* A map of items that were kept with their count; nothing where it is none. */
void amqp_write_kept_map(struct amqp_writer *writer, enum amqp_section section, struct span kept);

#endif
