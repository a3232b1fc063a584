/* SPDX-License-Identifier: Apache-2.0 */
/* The node $management (AMQP Management, working draft 16): a request is a message with operation,
 * type and name among its application properties, its answer goes to reply-to: a link from
 * $management with that target, or a topic. Entities: queue (name q) and group (name q/groups/g).
 */
#include "adapters/amqp/connection.h"

enum { ANSWER_MAX = 1 << 20, ENTITY_MAX = 512, WAITING_MAX = 100, ATTRIBUTES = 12 };

struct attribute {
    const char *name;
    struct span text; /* data NULL: number */
    uint64_t number;
};

struct managing {
    struct broker_admin admin;
    struct amqp_link *link; /* a reference */
    struct buf message;     /* the request: everything below borrows from it */
    struct span reply_to, name, body;
    struct amqp_value correlation;
    bool is_group;
    struct amqp_address address;
    unsigned ok; /* the code of success */
};

static void managing_free(struct managing *managing)
{
    queue_unref(managing->admin.queue);
    group_spec_unref(managing->admin.group);
    buf_deinit(&managing->message);
    amqp_link_unref(managing->link);
    heap_free(managing);
}

/* ------------------------------------------------ answers */

static unsigned code_of(enum status status)
{
    switch (status) {
    case STATUS_OK:
        return 200;
    case STATUS_NOT_FOUND:
        return 404;
    case STATUS_EXISTS:
        return 409;
    case STATUS_DENIED:
    case STATUS_UNAUTHENTICATED:
        return 403;
    case STATUS_OVER_QUOTA:
    case STATUS_BUSY:
        return 429;
    case STATUS_INVALID:
    case STATUS_TOO_LARGE:
    case STATUS_MALFORMED:
        return 400;
    case STATUS_UNSUPPORTED:
        return 501;
    default:
        return 503;
    }
}

static void write_id(struct amqp_writer *writer, const struct amqp_value *value)
{
    if (value->type == AMQP_ULONG) {
        amqp_write_ulong(writer, value->number);
    } else if (value->type == AMQP_UUID) {
        *writer->at++ = AMQP_UUID;
        amqp_write_raw(writer, value->bytes);
    } else if (value->type == AMQP_STRING || value->type == AMQP_BINARY) {
        amqp_write_bytes(writer, value->type, value->bytes);
    } else {
        amqp_write_null(writer);
    }
}

/* Up to the body. */
static void write_head(struct amqp_writer *writer, const struct managing *managing, unsigned code,
                       const char *text)
{
    amqp_write_section(writer, AMQP_SECTION_PROPERTIES);
    uint8_t *began = amqp_open(writer);
    for (unsigned i = 0; i < AMQP_CORRELATION_ID; i++)
        amqp_write_null(writer);
    write_id(writer, &managing->correlation);
    amqp_close(writer, began, AMQP_LIST, AMQP_CORRELATION_ID + 1, false);
    amqp_write_section(writer, AMQP_SECTION_APPLICATION);
    began = amqp_open(writer);
    amqp_write_bytes(writer, AMQP_STRING, span_from_text("statusCode"));
    amqp_write_number(writer, AMQP_INT, code);
    amqp_write_bytes(writer, AMQP_STRING, span_from_text("statusDescription"));
    amqp_write_bytes(writer, AMQP_STRING, span_from_text(text));
    amqp_close(writer, began, AMQP_MAP, 4, false);
    amqp_write_section(writer, AMQP_SECTION_VALUE);
}

static struct amqp_link *answer_link(struct amqp_connection *connection, struct span reply_to)
{
    list_each(at, &connection->links)
    {
        struct amqp_link *link = container_of(at, struct amqp_link, of_connection);
        if (link->kind == AMQP_FROM_MANAGEMENT &&
            (reply_to.size == 0 || span_is(reply_to, link->topic)))
            return link;
    }
    return NULL;
}

static void publish_answer(struct amqp_connection *connection, struct span reply_to,
                           struct span bytes)
{
    struct amqp_address address;
    struct publish publish = {.guarantee = GUARANTEE_AT_LEAST_ONCE};
    struct arena arena;
    struct span to;
    struct err err;
    if (!amqp_address_parse(reply_to, false, &address) || address.at != AMQP_AT_TOPIC)
        return; /* nobody can be told */
    arena_init(&arena, 4 * ANSWER_MAX);
    publish.topic = address.topic;
    if (amqp_view_read(&arena, bytes, &publish, &to, &err) == STATUS_OK)
        broker_publish(&connection->client, &publish);
    arena_deinit(&arena);
}

static void send_answer(struct managing *managing, struct span bytes)
{
    struct amqp_connection *connection = managing->link->connection;
    struct amqp_link *link = answer_link(connection, managing->reply_to);
    if (link == NULL) {
        publish_answer(connection, managing->reply_to, bytes);
        return;
    }
    struct client *client = &connection->client;
    if (pn_link_queued(link->pn) >= WAITING_MAX ||
        client->ops->queued(client) >= LIMIT_CLIENT_IN_BYTES) { /* asks, and takes no answers */
        amqp_count_refusal(STATUS_OVER_QUOTA);
        return;
    }
    uint64_t tag = link->tag++;
    pn_delivery_t *delivery = pn_delivery(link->pn, pn_dtag((const char *)&tag, sizeof tag));
    pn_link_send(link->pn, (const char *)bytes.data, bytes.size);
    pn_delivery_settle(delivery);
    pn_link_advance(link->pn);
    amqp_wake(connection);
}

static void write_attribute(struct amqp_writer *writer, const struct attribute *attribute)
{
    if (attribute->text.data != NULL)
        amqp_write_bytes(writer, AMQP_STRING, attribute->text);
    else
        amqp_write_ulong(writer, attribute->number);
}

/* The answer with a map of attributes; frees the request. */
static void answer(struct managing *managing, unsigned code, const char *text,
                   const struct attribute *attributes, uint32_t count)
{
    uint8_t *bytes = heap_new(2 * ENTITY_MAX + managing->correlation.bytes.size + strlen(text) +
                              count * ENTITY_MAX + LIMIT_SELECTOR_BYTES);
    struct amqp_writer writer = {.at = bytes};
    write_head(&writer, managing, code, text);
    uint8_t *began = amqp_open(&writer);
    for (uint32_t i = 0; i < count; i++) {
        amqp_write_bytes(&writer, AMQP_STRING, span_from_text(attributes[i].name));
        write_attribute(&writer, &attributes[i]);
    }
    amqp_close(&writer, began, AMQP_MAP, 2 * count, false);
    if (managing->link->pn != NULL)
        send_answer(managing, span_of(bytes, (size_t)(writer.at - bytes)));
    heap_free(bytes);
    managing_free(managing);
}

static void refuse(struct managing *managing, enum status status, const char *text)
{
    answer(managing, code_of(status), text != NULL ? text : status_text(status), NULL, 0);
}

/* ------------------------------------------------ entities */

static const struct span number; /* in place of a text */

static uint32_t show_queue(const struct queue *queue, struct attribute attributes[ATTRIBUTES])
{
    uint64_t records = 0;
    for (uint32_t i = 0; i < queue->partition_count; i++)
        records += atomic_load(&queue->stat->partitions[i].end) -
                   atomic_load(&queue->stat->partitions[i].start);
    const struct attribute all[] = {
        {"name", span_from_text(queue->name), 0},
        {"identity", span_from_text(queue->uuid), 0},
        {"type", span_from_text("queue"), 0},
        {"kind", span_from_text(queue_type_name(queue->type)), 0},
        {"durability", span_from_text(queue->durability == DURABLE_SYNC ? "sync" : "interval"), 0},
        {"partitions", number, queue->partition_count},
        {"retention_ms", number, queue->retention_ms},
        {"retention_bytes", number, queue->retention_bytes},
        {"max_records", number, queue->max_records},
        {"max_consume_count", number, queue->redrive ? queue->max_consume_count : 0},
        {"records", number, records},
    };
    memcpy(attributes, all, sizeof all);
    return sizeof all / sizeof *all;
}

static uint32_t show_group(const struct catalog *catalog, const struct group_spec *group,
                           struct attribute attributes[ATTRIBUTES])
{
    const struct queue *queue = catalog_queue(catalog, group->queue);
    const struct selector *selector = catalog_group_selector(catalog, group);
    const struct attribute all[] = {
        {"name", span_from_text(group->name), 0},
        {"identity", span_from_text(group->uuid), 0},
        {"type", span_from_text("group"), 0},
        {"queue", span_from_text(queue == NULL ? "" : queue->name), 0},
        {"backlog", number, atomic_load(&group->stat->backlog)},
        {"in_flight", number, atomic_load(&group->stat->in_flight)},
        {"acknowledged", number, atomic_load(&group->stat->acknowledged)},
        {"dead", number, atomic_load(&group->stat->dead)},
        {"selector", selector == NULL ? span_from_text("") : selector_text(selector), 0},
    };
    memcpy(attributes, all, sizeof all);
    return sizeof all / sizeof *all;
}

static bool may_see(const struct client *client, const struct queue *queue)
{
    struct span name = span_from_text(queue->name);
    return broker_check(client, ACTION_CONSUME, false, name) == STATUS_OK ||
           broker_check(client, ACTION_MANAGE, false, name) == STATUS_OK;
}

/* ------------------------------------------------ what is asked for */

static bool is_number(const struct amqp_value *value)
{
    switch (value->type) {
    case AMQP_UBYTE:
    case AMQP_USHORT:
    case AMQP_UINT:
    case AMQP_ULONG:
        return true;
    case AMQP_BYTE:
    case AMQP_SHORT:
    case AMQP_INT:
    case AMQP_LONG:
        return (int64_t)value->number >= 0;
    default:
        return false;
    }
}

/* One attribute of a queue to be made or changed. */
static enum status take_attribute(struct broker_admin *admin, struct span key,
                                  const struct amqp_value *value)
{
    bool makes = admin->action == ADMIN_QUEUE_CREATE;
    if (makes && span_is(key, "kind") && amqp_is_text(value)) {
        for (unsigned i = 0; i <= QUEUE_STREAM; i++)
            if (span_is(value->bytes, queue_type_name((enum queue_type)i))) {
                admin->type = (enum queue_type)i;
                return STATUS_OK;
            }
        return STATUS_INVALID;
    }
    if (makes && span_is(key, "durability") && amqp_is_text(value)) {
        admin->durability = span_is(value->bytes, "interval") ? DURABLE_INTERVAL : DURABLE_SYNC;
        return admin->durability == DURABLE_INTERVAL || span_is(value->bytes, "sync")
                   ? STATUS_OK
                   : STATUS_INVALID;
    }
    if (!is_number(value))
        return STATUS_INVALID;
    if (makes && span_is(key, "partitions") && value->number <= LIMIT_PARTITIONS) {
        admin->partitions = (uint32_t)value->number;
    } else if (span_is(key, "retention_ms")) {
        admin->retention_ms = value->number;
        admin->fields |= QUEUE_FIELD_RETENTION_MS;
    } else if (span_is(key, "retention_bytes")) {
        admin->retention_bytes = value->number;
        admin->fields |= QUEUE_FIELD_RETENTION_BYTES;
    } else if (span_is(key, "max_records")) {
        admin->max_records = value->number;
        admin->fields |= QUEUE_FIELD_MAX_RECORDS;
    } else if (span_is(key, "max_consume_count") && value->number <= UINT16_MAX) {
        admin->redrive = value->number > 0;
        admin->max_consume_count = (uint32_t)value->number;
        admin->fields |= QUEUE_FIELD_REDRIVE;
    } else {
        return STATUS_INVALID;
    }
    return STATUS_OK;
}

/* The same of a group. */
static enum status take_group_attribute(struct broker_admin *admin, struct span key,
                                        const struct amqp_value *value)
{
    if (!span_is(key, "selector") || (!amqp_is_text(value) && value->type != AMQP_NULL))
        return STATUS_INVALID;
    admin->selector = value->type == AMQP_NULL ? (struct span){0} : value->bytes;
    admin->fields |= GROUP_FIELD_SELECTOR;
    return STATUS_OK;
}

static enum status take_attributes(struct managing *managing, const struct amqp_message *message)
{
    enum status status = STATUS_OK;
    if (message->body_kind != AMQP_SECTION_VALUE || message->value.type != AMQP_MAP)
        return STATUS_OK; /* none are given */
    struct reader at = reader_of(message->value.bytes);
    for (uint32_t i = 0; i < message->value.count && status == STATUS_OK; i += 2) {
        struct amqp_value key, value;
        amqp_value_read(&at, &key);
        amqp_value_read(&at, &value);
        status = !amqp_is_text(&key)  ? STATUS_INVALID
                 : managing->is_group ? take_group_attribute(&managing->admin, key.bytes, &value)
                                      : take_attribute(&managing->admin, key.bytes, &value);
    }
    return status;
}

static void changed(struct request *request, enum status status)
{
    struct managing *managing = container_of(request, struct managing, admin.request);
    struct attribute attributes[ATTRIBUTES];
    uint32_t count = 0;
    if (status != STATUS_OK) {
        refuse(managing, status,
               managing->admin.err.text[0] == '\0' ? NULL : managing->admin.err.text);
        return;
    }
    const struct amqp_link *link = managing->link;
    if (managing->admin.queue != NULL)
        count = show_queue(managing->admin.queue, attributes);
    else if (managing->admin.group != NULL && link->pn != NULL)
        count = show_group(broker_catalog(link->connection->client.worker), managing->admin.group,
                           attributes);
    answer(managing, managing->ok, "OK", attributes, count);
}

static void change(struct managing *managing, unsigned ok)
{
    struct amqp_connection *connection = managing->link->connection;
    managing->ok = ok;
    managing->admin.client = &connection->client;
    request_init(&managing->admin.request, amqp_loop(connection), changed);
    broker_administer(&managing->admin);
}

/* queue and group of the name; group NULL: there is none, or a queue is meant. */
static const struct queue *find(struct managing *managing, const struct group_spec **group)
{
    struct client *client = &managing->link->connection->client;
    const struct catalog *catalog = broker_catalog(client->worker);
    const struct queue *queue =
        catalog_queue_by_text(catalog, client->tenant, managing->address.queue);
    *group = NULL;
    if (queue == NULL || !may_see(client, queue))
        return NULL;
    if (managing->is_group)
        *group = catalog_group_by_text(catalog, queue->id, managing->address.group);
    return queue;
}

static void create(struct managing *managing, const struct amqp_message *message)
{
    const struct group_spec *group;
    enum status status = STATUS_OK;
    if (managing->is_group) {
        const struct queue *queue = find(managing, &group);
        managing->admin.action = ADMIN_GROUP_CREATE;
        managing->admin.name = managing->address.group;
        managing->admin.id = queue == NULL ? 0 : queue->id;
        status = queue == NULL   ? STATUS_NOT_FOUND
                 : group != NULL ? STATUS_EXISTS
                                 : take_attributes(managing, message);
    } else {
        managing->admin.action = ADMIN_QUEUE_CREATE;
        managing->admin.name = managing->address.queue;
        status = take_attributes(managing, message);
    }
    if (status != STATUS_OK)
        refuse(managing, status, NULL);
    else
        change(managing, 201);
}

static void operate(struct managing *managing, struct span operation,
                    const struct amqp_message *message)
{
    const struct group_spec *group;
    if (span_is(operation, "CREATE")) {
        create(managing, message);
        return;
    }
    const struct queue *queue = find(managing, &group);
    struct attribute attributes[ATTRIBUTES];
    if (queue == NULL || (managing->is_group && group == NULL)) {
        refuse(managing, STATUS_NOT_FOUND, NULL);
    } else if (span_is(operation, "READ")) {
        const struct client *client = &managing->link->connection->client;
        uint32_t count = managing->is_group
                             ? show_group(broker_catalog(client->worker), group, attributes)
                             : show_queue(queue, attributes);
        answer(managing, 200, "OK", attributes, count);
    } else if (span_is(operation, "DELETE")) {
        managing->admin.action = managing->is_group ? ADMIN_GROUP_DELETE : ADMIN_QUEUE_DELETE;
        managing->admin.id = managing->is_group ? group->id : queue->id;
        change(managing, 204);
    } else if (span_is(operation, "UPDATE")) {
        managing->admin.action = managing->is_group ? ADMIN_GROUP_CHANGE : ADMIN_QUEUE_CHANGE;
        managing->admin.id = managing->is_group ? group->id : queue->id;
        enum status status = take_attributes(managing, message);
        if (status == STATUS_OK)
            change(managing, 200);
        else
            refuse(managing, status, NULL);
    } else {
        refuse(managing, STATUS_UNSUPPORTED, NULL);
    }
}

/* ------------------------------------------------ QUERY */

/* attributeNames, results: a row for each that may be seen, as many as fit. */
static void query(struct managing *managing)
{
    struct client *client = &managing->link->connection->client;
    const struct catalog *catalog = broker_catalog(client->worker);
    struct attribute attributes[ATTRIBUTES] = {{0}};
    uint8_t *bytes = heap_new(ANSWER_MAX + 8 * ENTITY_MAX + LIMIT_SELECTOR_BYTES +
                              managing->correlation.bytes.size);
    struct amqp_writer writer = {.at = bytes};
    write_head(&writer, managing, 200, "OK");
    uint8_t *map = amqp_open(&writer);
    amqp_write_bytes(&writer, AMQP_STRING, span_from_text("results"));
    uint8_t *rows = amqp_open(&writer);
    uint32_t row_count = 0, count = 0;
    for (size_t i = 0; i < catalog_queue_count(catalog); i++) {
        const struct queue *queue = catalog_queue_at(catalog, i);
        size_t groups = managing->is_group ? catalog_group_count(catalog, queue->id) : 1;
        for (size_t k = 0;
             k < groups && may_see(client, queue) && (size_t)(writer.at - bytes) < ANSWER_MAX;
             k++) {
            count = managing->is_group
                        ? show_group(catalog, catalog_group_at(catalog, queue->id, k), attributes)
                        : show_queue(queue, attributes);
            uint8_t *row = amqp_open(&writer);
            for (uint32_t a = 0; a < count; a++)
                write_attribute(&writer, &attributes[a]);
            amqp_close(&writer, row, AMQP_LIST, count, false);
            row_count++;
        }
    }
    amqp_close(&writer, rows, AMQP_LIST, row_count, false);
    amqp_write_bytes(&writer, AMQP_STRING, span_from_text("attributeNames"));
    uint8_t *list = amqp_open(&writer);
    for (uint32_t a = 0; a < count; a++)
        amqp_write_bytes(&writer, AMQP_STRING, span_from_text(attributes[a].name));
    amqp_close(&writer, list, AMQP_LIST, count, false);
    amqp_close(&writer, map, AMQP_MAP, 4, false);
    send_answer(managing, span_of(bytes, (size_t)(writer.at - bytes)));
    heap_free(bytes);
    managing_free(managing);
}

/* ------------------------------------------------ requests */

static struct span property(const struct amqp_message *message, const char *name)
{
    struct reader at = reader_of(message->application.bytes);
    for (uint32_t i = 0; i < message->application.count; i += 2) {
        struct amqp_value key, value;
        amqp_value_read(&at, &key);
        amqp_value_read(&at, &value);
        if (span_is(key.bytes, name) && amqp_is_text(&value))
            return value.bytes;
    }
    return span_of("", 0);
}

/* False: no name that could be one. The address borrows from the request. */
static bool name_parse(struct managing *managing, struct span name)
{
    static const char GROUPS[] = "/groups/";
    const uint8_t *slash = name.size == 0 ? NULL : memchr(name.data, '/', name.size);
    size_t size = slash == NULL ? name.size : (size_t)(slash - name.data);
    struct span rest = span_from(name, size);
    managing->address.queue = span_of(name.data, size);
    if (!managing->is_group)
        return size > 0 && rest.size == 0;
    if (size == 0 || rest.size < sizeof GROUPS || memcmp(rest.data, GROUPS, sizeof GROUPS - 1) != 0)
        return false;
    managing->address.group = span_from(rest, sizeof GROUPS - 1);
    return memchr(managing->address.group.data, '/', managing->address.group.size) == NULL;
}

enum status amqp_manage(struct amqp_link *link, struct span bytes, struct err *err)
{
    struct amqp_message message;
    struct managing *managing = heap_new(sizeof *managing);
    managing->link = link;
    link->refs++;
    buf_init(&managing->message, LIMIT_RECORD_BYTES);
    enum status status = buf_append(&managing->message, bytes.data, bytes.size);
    if (status == STATUS_OK)
        status = amqp_message_read(buf_span(&managing->message), &message);
    if (status != STATUS_OK) {
        managing_free(managing);
        return err_set(err, status, "the message cannot be decoded");
    }
    managing->reply_to = message.properties[AMQP_REPLY_TO].bytes;
    managing->correlation = message.properties[AMQP_CORRELATION_ID].type != AMQP_NULL
                                ? message.properties[AMQP_CORRELATION_ID]
                                : message.properties[AMQP_MESSAGE_ID];
    struct span operation = property(&message, "operation"), type = property(&message, "type");
    bool queries = span_is(operation, "QUERY");
    if (queries)
        type = property(&message, "entityType");
    managing->is_group = span_is(type, "group");
    if (!managing->is_group && !span_is(type, "queue"))
        refuse(managing, STATUS_INVALID, "type is queue or group");
    else if (queries)
        query(managing);
    else if (!name_parse(managing, property(&message, "name")))
        refuse(managing, STATUS_INVALID, "name is a queue's, or QUEUE/groups/GROUP");
    else
        operate(managing, operation, &message);
    return STATUS_OK;
}
