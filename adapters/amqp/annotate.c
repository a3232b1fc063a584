/* SPDX-License-Identifier: Apache-2.0 */
/* Header and annotations of a record that is written as a message. */
#include "adapters/amqp/showing.h"
#include "core/base/utf8.h"

static uint64_t number_of(const struct header *header)
{
    uint64_t number = 0;
    for (size_t i = 0; header != NULL && i < header->value.size; i++)
        number = number * 10 + (uint64_t)(header->value.data[i] - '0');
    return number;
}

/* durable, priority, ttl, first-acquirer, delivery-count. */
void amqp_write_head(struct amqp_writer *writer, const struct record *record,
                     const struct showing *showing, const struct amqp_shown *shown)
{
    const struct header *priority = showing->first[SHOWING_PRIORITY],
                        *expiry = showing->first[AMQP_ABSOLUTE_EXPIRY];
    bool durable = !(record->attributes & RECORD_NOT_DURABLE);
    uint32_t count = shown->failures > 0     ? 5
                     : shown->first_acquirer ? 4
                     : expiry != NULL        ? 3
                     : priority != NULL      ? 2
                     : durable               ? 1
                                             : 0;
    amqp_write_descriptor(writer, AMQP_SECTION_HEADER);
    uint8_t *began = amqp_open(writer);
    if (count > 0)
        amqp_write_boolean(writer, durable);
    if (count > 1) {
        if (priority != NULL)
            amqp_write_ubyte(writer, (uint8_t)number_of(priority));
        else
            amqp_write_null(writer);
    }
    if (count > 2) {
        int64_t left = expiry == NULL ? 0 : (int64_t)number_of(expiry) - shown->now_ms;
        if (expiry != NULL)
            amqp_write_uint(writer, left <= 0           ? 1
                                    : left > UINT32_MAX ? UINT32_MAX
                                                        : (uint32_t)left);
        else
            amqp_write_null(writer);
    }
    if (count > 3)
        amqp_write_boolean(writer, shown->first_acquirer);
    if (count > 4)
        amqp_write_uint(writer, shown->failures);
    amqp_close(writer, began, AMQP_LIST, count, false);
}

static void write_key(struct amqp_writer *writer, const char *name)
{
    amqp_write_bytes(writer, AMQP_SYMBOL, span_from_text(name));
}

static uint32_t write_labels(struct amqp_writer *writer, struct span labels)
{
    uint32_t count = 0;
    write_key(writer, "x-opt-labels");
    uint8_t *began = amqp_open(writer);
    while (labels.size > 0) {
        const uint8_t *comma = memchr(labels.data, ',', labels.size);
        size_t size = comma == NULL ? labels.size : (size_t)(comma - labels.data);
        amqp_write_bytes(writer, AMQP_STRING, span_of(labels.data, size));
        labels = span_from(labels, size + 1);
        count++;
    }
    amqp_close(writer, began, AMQP_LIST, count, false);
    return 2;
}

static uint32_t write_duplicates(struct amqp_writer *writer, const struct showing *showing)
{
    uint32_t count = 0;
    struct amqp_writer before = *writer;
    write_key(writer, "x-opt-duplicates");
    uint8_t *began = amqp_open(writer);
    for (uint32_t i = 0; i < showing->count; i++) {
        const struct header *header = &showing->headers[i];
        if (showing->kinds[i] != SHOWING_USER || !amqp_showing_has_name(header) ||
            !amqp_showing_repeats(showing, i, false))
            continue;
        amqp_write_bytes(writer, AMQP_STRING, header_given_name(header->name));
        amqp_showing_write(writer, showing, header, AMQP_STRING, SHOWING_ANY_TYPE);
        count += 2;
    }
    if (count == 0) {
        *writer = before;
        return 0;
    }
    amqp_close(writer, began, AMQP_LIST, count, false);
    return 2;
}

/* Keys and values, as annotations have them; 0: not so. */
static uint32_t items_of(struct span items)
{
    struct reader at = reader_of(items);
    struct amqp_value value;
    uint32_t count = 0;
    while (reader_left(&at) > 0 && amqp_value_read(&at, &value))
        count++;
    return !at.failed && amqp_annotations_valid(items, count) ? count : 0;
}

static bool is_there(struct span items, const char *name)
{
    struct reader at = reader_of(items);
    struct amqp_value key, value;
    while (reader_left(&at) > 0 && amqp_value_read(&at, &key) && amqp_value_read(&at, &value))
        if (amqp_is_text(&key) && span_is(key.bytes, name))
            return true;
    return false;
}

/* To clients of the JMS kind an address is a queue's when a queue brought the message, unless these
 * say otherwise. */
static uint32_t write_type(struct amqp_writer *writer, const char *name, struct span kept)
{
    enum { JMS_TOPIC = 1 };
    if (is_there(kept, name))
        return 0;
    write_key(writer, name);
    amqp_write_number(writer, AMQP_BYTE, JMS_TOPIC);
    return 2;
}

/* Beside the bare message, which stays as it was. */
static uint32_t write_dead(struct amqp_writer *writer, const struct showing *showing)
{
    static const struct {
        const char *name; /* of the header, behind "x-opt-" of the annotation */
        enum amqp_type type;
    } told[] = {
        {"x-opt-dead-letter-reason", AMQP_STRING},      {"x-opt-dead-letter-queue", AMQP_STRING},
        {"x-opt-dead-letter-group", AMQP_STRING},       {"x-opt-dead-letter-partition", AMQP_ULONG},
        {"x-opt-dead-letter-offset", AMQP_ULONG},       {"x-opt-dead-letter-count", AMQP_UINT},
        {"x-opt-dead-letter-time", AMQP_TIMESTAMP},     {"x-opt-dead-letter-error", AMQP_STRING},
        {"x-opt-dead-letter-description", AMQP_STRING},
    };
    uint32_t count = 0;
    for (uint32_t i = 0; i < showing->count; i++) {
        const struct header *header = &showing->headers[i];
        for (size_t k = 0; showing->kinds[i] == SHOWING_DEAD && k < sizeof told / sizeof *told;
             k++) {
            struct amqp_writer before = *writer;
            if (!span_is(header->name, told[k].name + strlen("x-opt-")))
                continue;
            write_key(writer, told[k].name);
            if (amqp_showing_typed(writer, told[k].type, header->value))
                count += 2;
            else
                *writer = before;
        }
    }
    return count;
}

static uint32_t write_types(struct amqp_writer *writer, const struct showing *showing,
                            const struct amqp_shown *shown, struct span kept)
{
    const struct header *reply = showing->first[AMQP_REPLY_TO];
    uint32_t count = 0;
    if (reply != NULL && amqp_showing_is_topic(reply->value))
        count += write_type(writer, "x-opt-jms-reply-to", kept);
    if (showing->first[SHOWING_TOPIC] != NULL && shown->positions)
        count += write_type(writer, "x-opt-jms-dest", kept);
    return count;
}

void amqp_write_annotations(struct amqp_writer *writer, const struct record *record,
                            const struct showing *showing, const struct amqp_shown *shown,
                            unsigned flags)
{
    uint32_t count = 0;
    struct amqp_writer before = *writer;
    amqp_write_descriptor(writer, AMQP_SECTION_ANNOTATIONS);
    uint8_t *began = amqp_open(writer);
    if (record->key.data != NULL && !(flags & AMQP_KEEPS_KEY)) {
        write_key(writer, "x-opt-partition-key");
        amqp_write_bytes(writer, utf8_is_valid(record->key) ? AMQP_STRING : AMQP_BINARY,
                         record->key);
        count += 2;
    }
    if (showing->first[SHOWING_LABELS] != NULL && !(flags & AMQP_KEEPS_LABELS) &&
        utf8_is_valid(showing->first[SHOWING_LABELS]->value))
        count += write_labels(writer, showing->first[SHOWING_LABELS]->value);
    if (record->attributes & RECORD_RETAIN) {
        write_key(writer, "x-opt-retain");
        amqp_write_boolean(writer, true);
        count += 2;
    }
    /* Where the property `to` may not say it. */
    if (showing->first[SHOWING_TOPIC] != NULL && (flags & AMQP_EXACT)) {
        write_key(writer, "x-opt-topic");
        amqp_write_bytes(writer, AMQP_STRING, showing->first[SHOWING_TOPIC]->value);
        count += 2;
    }
    if (showing->has_users)
        count += write_duplicates(writer, showing);
    count += write_dead(writer, showing);
    if (shown->positions) {
        write_key(writer, "x-opt-offset");
        amqp_write_ulong(writer, record->offset);
        write_key(writer, "x-opt-partition");
        amqp_write_ulong(writer, shown->partition);
        write_key(writer, "x-opt-enqueued-time");
        amqp_write_timestamp(writer, record->append_time_ms);
        count += 6;
    }
    struct span foreign = {0};
    if (showing->first[SHOWING_ANNOTATIONS] != NULL) {
        uint32_t items = items_of(showing->first[SHOWING_ANNOTATIONS]->value);
        if (items > 0)
            foreign = showing->first[SHOWING_ANNOTATIONS]->value;
        if (shown->note.size == 0)
            count += items;
    }
    if (shown->note.size > 0)
        count += amqp_note_write(writer, foreign, shown->note);
    else
        amqp_write_raw(writer, foreign);
    count += write_types(writer, showing, shown, foreign);
    if (count == 0)
        *writer = before;
    else
        amqp_close(writer, began, AMQP_MAP, count, false);
}

/* A map of items that were kept with their count. */
void amqp_write_kept_map(struct amqp_writer *writer, enum amqp_section section, struct span kept)
{
    struct reader at = reader_of(kept);
    uint64_t count = reader_uvarint(&at);
    struct span items = span_of(at.at, reader_left(&at));
    if (at.failed || count > items.size || !amqp_annotations_valid(items, (uint32_t)count))
        return;
    amqp_write_descriptor(writer, (uint8_t)section);
    uint8_t *began = amqp_open(writer);
    amqp_write_raw(writer, items);
    amqp_close(writer, began, AMQP_MAP, (uint32_t)count, false);
}
