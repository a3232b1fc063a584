/* SPDX-License-Identifier: Apache-2.0 */
/* A record as an AMQP message, and of it the bare message. */
#include "adapters/amqp/showing.h"
#include "core/base/pack.h"
#include "core/base/utf8.h"

/* ------------------------------------------------ properties */

static const char TOPICS[] = "/topics/";

static void write_address(struct amqp_writer *writer, struct span address)
{
    bool is_topic = amqp_showing_is_topic(address);
    if (amqp_showing_is_queue(address))
        address = span_from(address, strlen("$queue/"));
    if (!is_topic) {
        amqp_write_bytes(writer, AMQP_STRING, address);
        return;
    }
    size_t size = address.size + sizeof TOPICS - 1;
    *writer->at++ = size <= UINT8_MAX ? AMQP_STRING_SMALL : AMQP_STRING;
    if (size <= UINT8_MAX) {
        *writer->at++ = (uint8_t)size;
    } else {
        store_u32(writer->at, (uint32_t)size);
        writer->at += 4;
    }
    amqp_write_raw(writer, span_of(TOPICS, sizeof TOPICS - 1));
    amqp_write_raw(writer, address);
}

static bool shows_property(const struct showing *showing, unsigned property, unsigned flags)
{
    if (property == AMQP_TO && showing->first[property] == NULL)
        return showing->first[SHOWING_TOPIC] != NULL && !(flags & AMQP_EXACT);
    if (property == AMQP_ABSOLUTE_EXPIRY && (flags & AMQP_EXACT) && !(flags & AMQP_ABSOLUTE))
        return false;
    return showing->first[property] != NULL;
}

static void write_property(struct amqp_writer *writer, const struct showing *showing,
                           unsigned property)
{
    const struct header *header = showing->first[property];
    switch ((enum amqp_property)property) {
    case AMQP_TO:
        if (header == NULL)
            write_address(writer, showing->first[SHOWING_TOPIC]->value);
        else
            amqp_write_bytes(writer, AMQP_STRING, header->value);
        break;
    case AMQP_REPLY_TO:
        write_address(writer, header->value);
        break;
    case AMQP_USER_ID:
        amqp_write_bytes(writer, AMQP_BINARY, header->value);
        break;
    case AMQP_ABSOLUTE_EXPIRY:
    case AMQP_CREATION_TIME:
        amqp_showing_typed(writer, AMQP_TIMESTAMP, header->value);
        break;
    case AMQP_GROUP_SEQUENCE:
        amqp_showing_typed(writer, AMQP_UINT, header->value);
        break;
    case AMQP_CONTENT_TYPE:
    case AMQP_CONTENT_ENCODING:
        amqp_showing_write(writer, showing, header, AMQP_SYMBOL, SHOWING_TEXT_TYPES);
        break;
    case AMQP_MESSAGE_ID:
    case AMQP_CORRELATION_ID:
        amqp_showing_write(writer, showing, header, AMQP_STRING, SHOWING_ID_TYPES);
        break;
    case AMQP_SUBJECT:
    case AMQP_GROUP_ID:
    case AMQP_REPLY_TO_GROUP_ID:
        amqp_write_bytes(writer, AMQP_STRING, header->value);
        break;
    case AMQP_PROPERTIES:
        break;
    }
}

static void write_properties(struct amqp_writer *writer, const struct showing *showing,
                             unsigned flags)
{
    uint32_t count = 0;
    for (unsigned i = 0; i < AMQP_PROPERTIES; i++)
        if (shows_property(showing, i, flags))
            count = i + 1;
    if (count == 0)
        return;
    amqp_write_descriptor(writer, AMQP_SECTION_PROPERTIES);
    uint8_t *began = amqp_open(writer);
    for (unsigned i = 0; i < count; i++) {
        if (shows_property(showing, i, flags))
            write_property(writer, showing, i);
        else
            amqp_write_null(writer);
    }
    amqp_close(writer, began, AMQP_LIST, count, flags & AMQP_WIDE_PROPERTIES);
}

static void write_application(struct amqp_writer *writer, const struct showing *showing,
                              unsigned flags)
{
    if (!showing->has_users)
        return;
    uint32_t count = 0;
    amqp_write_descriptor(writer, AMQP_SECTION_APPLICATION);
    uint8_t *began = amqp_open(writer);
    for (uint32_t i = 0; i < showing->count; i++) {
        const struct header *header = &showing->headers[i];
        if (showing->kinds[i] != SHOWING_USER || !amqp_showing_has_name(header) ||
            amqp_showing_repeats(showing, i, true))
            continue;
        amqp_write_bytes(writer, AMQP_STRING, header_given_name(header->name));
        amqp_showing_write(writer, showing, header, AMQP_STRING, SHOWING_ANY_TYPE);
        count += 2;
    }
    amqp_close(writer, began, AMQP_MAP, count, flags & AMQP_WIDE_APPLICATION);
}

size_t amqp_bare_bound(const struct header *headers, uint32_t count)
{
    size_t size = 2 * AMQP_HEAD_MAX + 64;
    for (uint32_t i = 0; i < count; i++)
        size += headers[i].name.size + headers[i].value.size + AMQP_VALUE_MAX + 16;
    return size;
}

size_t amqp_view_bare(const struct header *headers, uint32_t count, unsigned flags, uint8_t *to)
{
    struct showing showing;
    struct amqp_writer writer = {.at = to};
    amqp_showing_init(&showing, headers, count);
    write_properties(&writer, &showing, flags);
    write_application(&writer, &showing, flags);
    return (size_t)(writer.at - to);
}

/* ------------------------------------------------ what was kept of the message that came */

struct kept {
    unsigned flags;
    struct span bare, delivery, footer;
};

/* Kafka producers and others may have set it, so what it holds is looked at. */
static void kept_read(const struct showing *showing, struct kept *kept)
{
    *kept = (struct kept){0};
    if (showing->first[SHOWING_KEPT] == NULL)
        return;
    struct reader at = reader_of(showing->first[SHOWING_KEPT]->value);
    struct amqp_message message;
    unsigned flags = (unsigned)reader_uvarint(&at);
    if (flags & AMQP_KEEPS_BARE)
        kept->bare = reader_block(&at);
    if (flags & AMQP_KEEPS_DELIVERY)
        kept->delivery = reader_block(&at);
    if (flags & AMQP_KEEPS_FOOTER)
        kept->footer = reader_block(&at);
    if (!at.failed &&
        (kept->bare.size == 0 ||
         (amqp_message_read(kept->bare, &message) == STATUS_OK &&
          kept->bare.size == message.properties_section.size + message.application_section.size)))
        kept->flags = flags;
}

/* ------------------------------------------------ body */

static void write_body(struct amqp_writer *writer, const struct record *record,
                       const struct header *how)
{
    struct amqp_message message;
    struct span body = how == NULL ? span_of("d", 1) : how->value;
    if (how != NULL && body.size == 0)
        return; /* it had none */
    if (body.size > 1 && amqp_message_read(body, &message) == STATUS_OK &&
        message.body.size == body.size) {
        amqp_write_raw(writer, body);
    } else if (span_is(body, "s") && utf8_is_valid(record->value)) {
        amqp_write_descriptor(writer, AMQP_SECTION_VALUE);
        amqp_write_bytes(writer, AMQP_STRING, record->value);
    } else if (span_is(body, "b")) {
        amqp_write_descriptor(writer, AMQP_SECTION_VALUE);
        amqp_write_bytes(writer, AMQP_BINARY, record->value);
    } else {
        amqp_write_descriptor(writer, AMQP_SECTION_DATA);
        amqp_write_bytes(writer, AMQP_BINARY, record->value);
    }
}

size_t amqp_view_bound(const struct record *record)
{
    /* Properties may be shown twice, and each then brings the heads of its values. */
    return 512 + record->key.size + record->value.size + 2 * record->headers.size +
           (size_t)record->header_count * 2 * (2 * AMQP_VALUE_MAX + 16);
}

size_t amqp_view_write(const struct record *record, const struct amqp_shown *shown, uint8_t *to)
{
    struct header headers[LIMIT_HEADERS];
    struct showing showing;
    struct kept kept;
    uint32_t count = 0;
    struct reader at = reader_of(record->headers);
    while (count < LIMIT_HEADERS && record_next_header(&at, &headers[count]))
        count++;
    amqp_showing_init(&showing, headers, count);
    kept_read(&showing, &kept);
    struct amqp_writer writer = {.at = to};
    amqp_write_head(&writer, record, &showing, shown);
    if (kept.flags & AMQP_KEEPS_DELIVERY)
        amqp_write_kept_map(&writer, AMQP_SECTION_DELIVERY_ANNOTATIONS, kept.delivery);
    amqp_write_annotations(&writer, record, &showing, shown, kept.flags);
    if (kept.flags & AMQP_KEEPS_BARE) {
        amqp_write_raw(&writer, kept.bare);
    } else {
        write_properties(&writer, &showing, kept.flags);
        write_application(&writer, &showing, kept.flags);
    }
    write_body(&writer, record, showing.first[SHOWING_BODY]);
    if (kept.flags & AMQP_KEEPS_FOOTER)
        amqp_write_kept_map(&writer, AMQP_SECTION_FOOTER, kept.footer);
    return (size_t)(writer.at - to);
}
