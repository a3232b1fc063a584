/* SPDX-License-Identifier: Apache-2.0 */
/* What $management shows: entities as attributes, and the operations of the node itself, which
 * only look (AMQP Management, working draft 16, 3.3): QUERY and those whose names begin with GET.
 */
#include "adapters/amqp/connection.h"
#include "adapters/amqp/link.h"
#include "adapters/amqp/manage.h"
#include "core/base/heap.h"
#include "core/queue/selector.h"

enum {
    NAMES_MAX = 64, /* that a query may ask for */
    NAME_BYTES_MAX = 256,
    ROW_MAX = AMQP_MANAGE_ENTITY_MAX + NAMES_MAX,
    ROWS_MAX = 1 << 20, /* bytes; whoever asks for more is told to take it in pieces */
    /* A connection's queries are begun until those of its turn have looked at so many entities,
     * rights and pieces of rows: others wait meanwhile. */
    LOOKED_MAX = 32 * 1024,
    PIECE = 256
};

static const char *const attribute_names[ATTRIBUTES] = {
    [ATTRIBUTE_NAME] = "name",
    [ATTRIBUTE_IDENTITY] = "identity",
    [ATTRIBUTE_TYPE] = "type",
    [ATTRIBUTE_KIND] = "kind",
    [ATTRIBUTE_DURABILITY] = "durability",
    [ATTRIBUTE_PARTITIONS] = "partitions",
    [ATTRIBUTE_RETENTION_MS] = "retention_ms",
    [ATTRIBUTE_RETENTION_BYTES] = "retention_bytes",
    [ATTRIBUTE_MAX_RECORDS] = "max_records",
    [ATTRIBUTE_MAX_CONSUME_COUNT] = "max_consume_count",
    [ATTRIBUTE_LEASE_MS] = "lease_ms",
    [ATTRIBUTE_RECORDS] = "records",
    [ATTRIBUTE_QUEUE] = "queue",
    [ATTRIBUTE_BACKLOG] = "backlog",
    [ATTRIBUTE_IN_FLIGHT] = "in_flight",
    [ATTRIBUTE_ACKNOWLEDGED] = "acknowledged",
    [ATTRIBUTE_DEAD] = "dead",
    [ATTRIBUTE_SELECTOR] = "selector",
};

#define HAS(attribute) (1u << ATTRIBUTE_##attribute)
enum {
    CHANGES = HAS(RETENTION_MS) | HAS(RETENTION_BYTES) | HAS(MAX_RECORDS) | HAS(MAX_CONSUME_COUNT) |
              HAS(LEASE_MS)
};
/* Each attribute a bit. */
static const struct type {
    const char *name;
    unsigned attributes, makes, changes;
} types[] = {
    {"queue",
     HAS(NAME) | HAS(IDENTITY) | HAS(TYPE) | HAS(KIND) | HAS(DURABILITY) | HAS(PARTITIONS) |
         CHANGES | HAS(RECORDS),
     CHANGES | HAS(KIND) | HAS(DURABILITY) | HAS(PARTITIONS), CHANGES},
    {"group",
     HAS(NAME) | HAS(IDENTITY) | HAS(TYPE) | HAS(QUEUE) | HAS(BACKLOG) | HAS(IN_FLIGHT) |
         HAS(ACKNOWLEDGED) | HAS(DEAD) | HAS(SELECTOR),
     HAS(SELECTOR), HAS(SELECTOR)},
};
enum { TYPE_QUEUE, TYPE_GROUP, TYPES = sizeof types / sizeof *types };

/* ------------------------------------------------ entities */

static struct shown text(const char *text)
{
    return (struct shown){.as = SHOWN_TEXT, .text = span_from_text(text)};
}

static struct shown number(uint64_t number)
{
    return (struct shown){.as = SHOWN_NUMBER, .number = number};
}

void amqp_show_queue(const struct queue *queue, struct shown shown[ATTRIBUTES])
{
    uint64_t records = 0;
    for (uint32_t i = 0; i < queue->partition_count; i++)
        records += atomic_load(&queue->stat->partitions[i].end) -
                   atomic_load(&queue->stat->partitions[i].start);
    memset(shown, 0, ATTRIBUTES * sizeof *shown);
    shown[ATTRIBUTE_NAME] = text(queue->name);
    shown[ATTRIBUTE_IDENTITY] = text(queue->uuid);
    shown[ATTRIBUTE_TYPE] = text(types[TYPE_QUEUE].name);
    shown[ATTRIBUTE_KIND] = text(queue_type_name(queue->type));
    shown[ATTRIBUTE_DURABILITY] = text(queue->durability == DURABLE_SYNC ? "sync" : "interval");
    shown[ATTRIBUTE_PARTITIONS] = number(queue->partition_count);
    shown[ATTRIBUTE_RETENTION_MS] = number(queue->retention_ms);
    shown[ATTRIBUTE_RETENTION_BYTES] = number(queue->retention_bytes);
    shown[ATTRIBUTE_MAX_RECORDS] = number(queue->max_records);
    shown[ATTRIBUTE_MAX_CONSUME_COUNT] = number(queue->redrive ? queue->max_consume_count : 0);
    shown[ATTRIBUTE_LEASE_MS] = number(queue_lease_ms(queue, 0));
    shown[ATTRIBUTE_RECORDS] = number(records);
}

void amqp_show_group(const struct catalog *catalog, const struct group_spec *group,
                     struct shown shown[ATTRIBUTES])
{
    const struct queue *queue = catalog_queue(catalog, group->queue);
    const struct selector *selector = catalog_group_selector(catalog, group);
    memset(shown, 0, ATTRIBUTES * sizeof *shown);
    shown[ATTRIBUTE_NAME] = text(group->name);
    shown[ATTRIBUTE_IDENTITY] = text(group->uuid);
    shown[ATTRIBUTE_TYPE] = text(types[TYPE_GROUP].name);
    shown[ATTRIBUTE_QUEUE] = text(queue == NULL ? "" : queue->name);
    shown[ATTRIBUTE_BACKLOG] = number(atomic_load(&group->stat->backlog));
    shown[ATTRIBUTE_IN_FLIGHT] = number(atomic_load(&group->stat->in_flight));
    shown[ATTRIBUTE_ACKNOWLEDGED] = number(atomic_load(&group->stat->acknowledged));
    shown[ATTRIBUTE_DEAD] = number(atomic_load(&group->stat->dead));
    shown[ATTRIBUTE_SELECTOR] = text("");
    if (selector != NULL)
        shown[ATTRIBUTE_SELECTOR].text = selector_text(selector);
}

static void write_text(struct amqp_writer *writer, const char *text)
{
    amqp_write_bytes(writer, AMQP_STRING, span_from_text(text));
}

static void write_shown(struct amqp_writer *writer, const struct shown *shown)
{
    switch (shown->as) {
    case SHOWN_NONE:
        amqp_write_null(writer);
        break;
    case SHOWN_TEXT:
        amqp_write_bytes(writer, AMQP_STRING, shown->text);
        break;
    case SHOWN_NUMBER:
        amqp_write_ulong(writer, shown->number);
        break;
    }
}

void amqp_show_write(struct amqp_writer *writer, const struct shown shown[ATTRIBUTES])
{
    uint8_t *began = amqp_open(writer);
    uint32_t count = 0;
    for (unsigned i = 0; i < ATTRIBUTES; i++) {
        if (shown[i].as == SHOWN_NONE)
            continue;
        write_text(writer, attribute_names[i]);
        write_shown(writer, &shown[i]);
        count++;
    }
    amqp_close(writer, began, AMQP_MAP, 2 * count, false);
}

/* The bits of attributes as a list of names. */
static void write_names(struct amqp_writer *writer, unsigned attributes)
{
    uint8_t *began = amqp_open(writer);
    uint32_t count = 0;
    for (unsigned i = 0; i < ATTRIBUTES; i++) {
        if ((attributes & 1u << i) == 0)
            continue;
        write_text(writer, attribute_names[i]);
        count++;
    }
    amqp_close(writer, began, AMQP_LIST, count, false);
}

/* ------------------------------------------------ what is asked for */

struct asked {
    const struct type *type; /* NULL: of all */
    uint64_t offset, count;
    bool all; /* attributes; else these, as they were named, ATTRIBUTES for one that nothing has */
    struct span names[NAMES_MAX];
    unsigned attributes[NAMES_MAX];
    uint32_t name_count;
};

/* False: there is no such type. */
static bool read_type(const struct amqp_message *message, const struct type **type)
{
    struct amqp_value value;
    *type = NULL;
    if (!amqp_manage_property(message, "entityType", &value) || value.type == AMQP_NULL)
        return true;
    for (unsigned i = 0; i < TYPES; i++)
        if (amqp_is_text(&value) && span_is(value.bytes, types[i].name))
            *type = &types[i];
    return *type != NULL;
}

/* False: it is no whole number from 0 on. Without it number stays. */
static bool read_number(const struct amqp_message *message, const char *name, uint64_t *number)
{
    struct amqp_value value;
    if (!amqp_manage_property(message, name, &value) || value.type == AMQP_NULL)
        return true;
    *number = value.number;
    return amqp_manage_is_number(&value);
}

/* False: it cannot be one, or is there twice. */
static bool add_name(struct asked *asked, const struct amqp_value *name)
{
    if (!amqp_is_text(name) || name->bytes.size > NAME_BYTES_MAX || asked->name_count == NAMES_MAX)
        return false;
    for (uint32_t i = 0; i < asked->name_count; i++)
        if (span_equal(asked->names[i], name->bytes))
            return false;
    unsigned attribute = 0;
    while (attribute < ATTRIBUTES && !span_is(name->bytes, attribute_names[attribute]))
        attribute++;
    asked->attributes[asked->name_count] = attribute;
    asked->names[asked->name_count++] = name->bytes;
    return true;
}

/* attributeNames of the body; none, or an empty list: all. */
static bool read_names(const struct amqp_message *message, struct asked *asked)
{
    struct amqp_value key, value, name;
    asked->all = true;
    if (message->body_kind != AMQP_SECTION_VALUE || message->value.type != AMQP_MAP)
        return true;
    struct reader at = reader_of(message->value.bytes);
    for (uint32_t i = 0; i < message->value.count; i += 2) {
        amqp_value_read(&at, &key);
        amqp_value_read(&at, &value);
        if (!amqp_is_text(&key) || !span_is(key.bytes, "attributeNames") || value.type == AMQP_NULL)
            continue;
        if (value.type != AMQP_LIST)
            return false;
        struct reader items = reader_of(value.bytes);
        for (uint32_t k = 0; k < value.count; k++)
            if (!amqp_value_read(&items, &name) || !add_name(asked, &name))
                return false;
        asked->all = asked->name_count == 0;
    }
    return true;
}

/* ------------------------------------------------ QUERY */

static void ask_for_all(struct asked *asked)
{
    for (unsigned i = 0; i < ATTRIBUTES; i++) {
        if (asked->type != NULL && (asked->type->attributes & 1u << i) == 0)
            continue;
        asked->names[asked->name_count] = span_from_text(attribute_names[i]);
        asked->attributes[asked->name_count++] = i;
    }
}

/* The rows of an answer as they come. */
struct rows {
    struct buf *to;
    const struct asked *asked;
    uint64_t skipped, count, looked;
    bool is_too_large;
};

/* Of the next count entities so many are before the first that is wanted. */
static size_t skip(struct rows *rows, size_t count)
{
    uint64_t before = rows->asked->offset - rows->skipped;
    size_t skipped = before < count ? (size_t)before : count;
    rows->skipped += skipped;
    return skipped;
}

/* False: no more of them are wanted. */
static bool add_row(struct rows *rows, const struct shown shown[ATTRIBUTES])
{
    const struct asked *asked = rows->asked;
    if (rows->count == asked->count)
        return false;
    rows->is_too_large = buf_reserve(rows->to, ROW_MAX) != STATUS_OK;
    if (rows->is_too_large)
        return false;
    struct amqp_writer writer = {.at = rows->to->data + rows->to->size};
    uint8_t *row = amqp_open(&writer);
    for (uint32_t i = 0; i < asked->name_count; i++) {
        static const struct shown none = {.as = SHOWN_NONE};
        unsigned attribute = asked->attributes[i];
        write_shown(&writer, attribute == ATTRIBUTES ? &none : &shown[attribute]);
    }
    amqp_close(&writer, row, AMQP_LIST, asked->name_count, false);
    rows->to->size = (size_t)(writer.at - rows->to->data);
    rows->count++;
    return true;
}

static void count_look(struct rows *rows, const struct client *client)
{
    rows->looked += 1 + (client->principal == NULL ? 0 : client->principal->grant_count);
}

/* By number of their making: queues, then groups. */
static void add_rows(struct rows *rows, const struct client *client)
{
    const struct catalog *catalog = broker_catalog(client->worker);
    const struct type *type = rows->asked->type;
    struct shown shown[ATTRIBUTES];
    bool more = true;
    for (size_t i = 0; type != &types[TYPE_GROUP] && more && i < catalog_queue_count(catalog);
         i++) {
        const struct queue *queue = catalog_queue_at(catalog, i);
        count_look(rows, client);
        if (!broker_may_see(client, queue) || skip(rows, 1) == 1)
            continue;
        amqp_show_queue(queue, shown);
        more = add_row(rows, shown);
    }
    for (size_t i = 0; type != &types[TYPE_QUEUE] && more && i < catalog_queue_count(catalog);
         i++) {
        const struct queue *queue = catalog_queue_at(catalog, i);
        count_look(rows, client);
        size_t groups =
            broker_may_see_groups(client, queue) ? catalog_group_count(catalog, queue->id) : 0;
        for (size_t k = skip(rows, groups); more && k < groups; k++) {
            amqp_show_group(catalog, catalog_group_at(catalog, queue->id, k), shown);
            more = add_row(rows, shown);
        }
    }
}

static void answer_rows(struct managing *managing, const struct asked *asked,
                        const struct rows *rows)
{
    size_t size = AMQP_MANAGE_HEAD_MAX + managing->correlation.bytes.size + rows->to->size +
                  asked->name_count * (NAME_BYTES_MAX + AMQP_VALUE_MAX);
    uint8_t *bytes = heap_new(size);
    struct amqp_writer writer = {.at = bytes};
    amqp_manage_head(&writer, managing, 200, "OK", (int64_t)rows->count);
    uint8_t *map = amqp_open(&writer);
    write_text(&writer, "attributeNames");
    uint8_t *list = amqp_open(&writer);
    for (uint32_t i = 0; i < asked->name_count; i++)
        amqp_write_bytes(&writer, AMQP_STRING, asked->names[i]);
    amqp_close(&writer, list, AMQP_LIST, asked->name_count, false);
    write_text(&writer, "results");
    list = amqp_open(&writer);
    amqp_write_raw(&writer, buf_span(rows->to));
    amqp_close(&writer, list, AMQP_LIST, (uint32_t)rows->count, false);
    amqp_close(&writer, map, AMQP_MAP, 4, false);
    amqp_manage_answer(managing, span_of(bytes, (size_t)(writer.at - bytes)));
    heap_free(bytes);
}

static bool has_looked_enough(struct amqp_connection *connection)
{
    uint64_t now_ms = loop_now_ms(amqp_loop(connection));
    if (connection->looked_ms != now_ms)
        connection->looked = 0;
    connection->looked_ms = now_ms;
    return connection->looked >= LOOKED_MAX;
}

static void query(struct managing *managing, const struct type *type,
                  const struct amqp_message *message)
{
    struct amqp_connection *connection = managing->link->connection;
    struct asked asked = {.type = type, .count = UINT64_MAX};
    if (!read_number(message, "offset", &asked.offset) ||
        !read_number(message, "count", &asked.count)) {
        amqp_manage_refuse(managing, 400, "offset and count are whole numbers");
        return;
    }
    if (!read_names(message, &asked)) {
        amqp_manage_refuse(managing, 400, "attributeNames is a list of 64 different names at most");
        return;
    }
    if (has_looked_enough(connection)) {
        amqp_manage_refuse(managing, 429, "too many rows at once: ask again");
        return;
    }
    if (asked.all)
        ask_for_all(&asked);
    struct buf bytes;
    buf_init(&bytes, ROWS_MAX);
    struct rows rows = {.to = &bytes, .asked = &asked};
    add_rows(&rows, &connection->client);
    connection->looked += rows.looked + rows.count + bytes.size / PIECE;
    if (rows.is_too_large)
        amqp_manage_refuse(managing, AMQP_MANAGE_TOO_LARGE,
                           "the answer is too large: ask for parts, by offset and count");
    else
        answer_rows(managing, &asked, &rows);
    buf_deinit(&bytes);
}

/* ------------------------------------------------ types */

static void write_nothing(struct amqp_writer *writer, const struct type *type)
{
    (void)type;
    amqp_close(writer, amqp_open(writer), AMQP_LIST, 0, false);
}

static void write_attributes(struct amqp_writer *writer, const struct type *type)
{
    write_names(writer, type->attributes);
}

/* With the names of what their body may have. */
static void write_operations(struct amqp_writer *writer, const struct type *type)
{
    uint8_t *map = amqp_open(writer);
    write_text(writer, "CREATE");
    write_names(writer, type->makes);
    write_text(writer, "READ");
    write_names(writer, 0);
    write_text(writer, "UPDATE");
    write_names(writer, type->changes);
    write_text(writer, "DELETE");
    write_names(writer, 0);
    amqp_close(writer, map, AMQP_MAP, 8, false);
}

/* A map of what each type has, or the one that is asked for. */
static void answer_types(struct managing *managing, const struct type *wanted,
                         void (*write)(struct amqp_writer *writer, const struct type *type))
{
    uint8_t *bytes = heap_new(AMQP_MANAGE_HEAD_MAX + managing->correlation.bytes.size +
                              TYPES * AMQP_MANAGE_ENTITY_MAX);
    struct amqp_writer writer = {.at = bytes};
    uint32_t count = 0;
    amqp_manage_head(&writer, managing, 200, "OK", -1);
    uint8_t *map = amqp_open(&writer);
    for (const struct type *type = types; type < types + TYPES; type++) {
        if (wanted != NULL && wanted != type)
            continue;
        write_text(&writer, type->name);
        write(&writer, type);
        count += 2;
    }
    amqp_close(&writer, map, AMQP_MAP, count, false);
    amqp_manage_answer(managing, span_of(bytes, (size_t)(writer.at - bytes)));
    heap_free(bytes);
}

bool amqp_manage_look(struct managing *managing, struct span operation,
                      const struct amqp_message *message)
{
    static const struct {
        const char *name;
        void (*write)(struct amqp_writer *writer, const struct type *type);
    } looks[] = {
        {"QUERY", NULL},
        {"GET-TYPES", write_nothing}, /* none extends another */
        {"GET-ANNOTATIONS", write_nothing},
        {"GET-ATTRIBUTES", write_attributes},
        {"GET-OPERATIONS", write_operations},
    };
    const struct type *type;
    for (size_t i = 0; i < sizeof looks / sizeof *looks; i++) {
        if (!span_is(operation, looks[i].name))
            continue;
        if (!read_type(message, &type))
            amqp_manage_refuse(managing, 400, "entityType is queue or group");
        else if (looks[i].write == NULL)
            query(managing, type, message);
        else
            answer_types(managing, type, looks[i].write);
        return true;
    }
    return false;
}
