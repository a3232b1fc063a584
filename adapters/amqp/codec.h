/* SPDX-License-Identifier: Apache-2.0 */
/* AMQP 1.0 types and message sections over borrowed bytes (parts 1 and 3 of the standard): walked
 * in place, nothing is allocated, and nothing that a peer sends is trusted before it was looked at.
 */
#ifndef ADAPTERS_AMQP_CODEC_H
#define ADAPTERS_AMQP_CODEC_H

#include "adapters/amqp/wire.h"
#include "core/base/buf.h"
#include "core/base/reader.h"

struct amqp_value {
    enum amqp_type type;
    uint8_t code; /* constructor as it was sent */
    uint64_t
        number; /* of whole numbers (signed ones in two's complement), booleans, char, timestamp */
    struct span bytes; /* content of what is no whole number; list, map: the items; array:
                        * constructor and items; described: descriptor and value */
    uint32_t count;    /* items of list (map: keys and values) and array */
};

/* The next value; false, and the reader failed, when there is none. Items of compound values are
 * not looked at. */
bool amqp_value_read(struct reader *reader, struct amqp_value *value);
/* An item of an array whose constructor is code (not described). */
bool amqp_item_read(struct reader *reader, uint8_t code, struct amqp_value *value);
enum { AMQP_DEPTH_MAX = 32 };
/* count well-formed values fill items exactly, down to AMQP_DEPTH_MAX levels. */
bool amqp_values_valid(struct span items, uint32_t count);
bool amqp_is_text(const struct amqp_value *value);      /* string or symbol */
double amqp_value_real(const struct amqp_value *value); /* of a float or double */
/* Milliseconds from a number of any kind; UINT64_MAX: none, to be refused. */
uint64_t amqp_value_ms(const struct amqp_value *value);

enum amqp_property {
    AMQP_MESSAGE_ID,
    AMQP_USER_ID,
    AMQP_TO,
    AMQP_SUBJECT,
    AMQP_REPLY_TO,
    AMQP_CORRELATION_ID,
    AMQP_CONTENT_TYPE,
    AMQP_CONTENT_ENCODING,
    AMQP_ABSOLUTE_EXPIRY,
    AMQP_CREATION_TIME,
    AMQP_GROUP_ID,
    AMQP_GROUP_SEQUENCE,
    AMQP_REPLY_TO_GROUP_ID,
    AMQP_PROPERTIES
};

/* A message taken apart; spans borrow from it. What is missing is empty, type AMQP_NULL. */
struct amqp_message {
    bool durable, has_priority, has_ttl;
    uint8_t priority;
    uint32_t ttl;
    struct amqp_value delivery_annotations, annotations, application, footer; /* maps */
    struct amqp_value properties[AMQP_PROPERTIES];
    /* Whole sections, descriptor included. body: all of them, one after the other. */
    struct span properties_section, application_section, body;
    bool wide_properties, wide_application; /* with 32 bits of size where 8 would do */
    enum amqp_section body_kind;            /* DATA, SEQUENCE, VALUE */
    uint32_t body_count;                    /* sections; 0: none, which is not by the book */
    struct amqp_value value;                /* of the first body section */
};

/* MALFORMED: not a message. Keys and values of maps are well formed afterwards, keys of the right
 * kind. */
enum status amqp_message_read(struct span bytes, struct amqp_message *message);

/* Of a body that was read, what is left of it: the next section's value, in raw with its
 * constructor; false: there is none. */
bool amqp_body_next(struct reader *body, struct amqp_value *value, struct span *raw);

/* Which messages a transfer brings, by its message-format (part 3, 3.1). */
enum amqp_format {
    AMQP_FORMAT_MESSAGE = 0,
    /* Of Azure's clients: each data section of the body is a whole message. */
    AMQP_FORMAT_BATCH = 0x80013700
};

/* The same of a map of annotations by itself: count keys and values that fill items. */
bool amqp_annotations_valid(struct span items, uint32_t count);

/* Writing: into room that the caller has made sure of. */
struct amqp_writer {
    uint8_t *at;
};
/* Upper bounds: of a value with size bytes of text or bytes, of a section's or compound's head. */
enum { AMQP_VALUE_MAX = 17, AMQP_HEAD_MAX = 3 + 9 };

void amqp_write_null(struct amqp_writer *writer);
void amqp_write_boolean(struct amqp_writer *writer, bool value);
void amqp_write_ubyte(struct amqp_writer *writer, uint8_t value);
void amqp_write_uint(struct amqp_writer *writer, uint32_t value);
void amqp_write_ulong(struct amqp_writer *writer, uint64_t value);
void amqp_write_timestamp(struct amqp_writer *writer, int64_t value);
/* BINARY, STRING or SYMBOL, in its smallest form. */
void amqp_write_bytes(struct amqp_writer *writer, enum amqp_type type, struct span bytes);
void amqp_write_raw(struct amqp_writer *writer, struct span bytes);
/* A number of that type from its 64 bits, in its smallest form; fixed types of 4 and 8 bytes too.
 */
void amqp_write_number(struct amqp_writer *writer, enum amqp_type type, uint64_t number);
void amqp_write_descriptor(struct amqp_writer *writer, uint8_t code); /* of wire.h */
/* A list or map; begin gives back where it begins, end fills in size and count, and makes it small
 * where it fits unless wide. */
uint8_t *amqp_open(struct amqp_writer *writer);
void amqp_close(struct amqp_writer *writer, uint8_t *began, enum amqp_type type, uint32_t count,
                bool wide);

/* The value as JSON text, well formed; binary as base64, keys as text. TOO_LARGE past to's limit.
 */
enum status amqp_json(struct span value, struct buf *to);

#endif
