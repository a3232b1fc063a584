/* SPDX-License-Identifier: Apache-2.0 */
/* The node $management (AMQP Management, working draft 16): a request is a message with operation,
 * type and name among its application properties, its answer goes to reply-to: a link from
 * $management with that target, or a topic. Entities: queue (name q) and group (name q/groups/g).
 */
#include "adapters/amqp/manage.h"
#include "adapters/amqp/address.h"
#include "adapters/amqp/connection.h"
#include "adapters/amqp/link.h"
#include "adapters/amqp/resume.h"
#include "adapters/amqp/sending.h"
#include "adapters/amqp/source.h"
#include "adapters/amqp/view.h"
#include "core/base/heap.h"
#include "core/base/limits.h"

enum { PUBLISHED_MAX = 4 << 20 };

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

void amqp_manage_head(struct amqp_writer *writer, const struct managing *managing, unsigned code,
                      const char *text, int64_t count)
{
    amqp_write_descriptor(writer, AMQP_SECTION_PROPERTIES);
    uint8_t *began = amqp_open(writer);
    for (unsigned i = 0; i < AMQP_CORRELATION_ID; i++)
        amqp_write_null(writer);
    write_id(writer, &managing->correlation);
    amqp_close(writer, began, AMQP_LIST, AMQP_CORRELATION_ID + 1, false);
    amqp_write_descriptor(writer, AMQP_SECTION_APPLICATION);
    began = amqp_open(writer);
    amqp_write_bytes(writer, AMQP_STRING, span_from_text("statusCode"));
    amqp_write_number(writer, AMQP_INT, code);
    amqp_write_bytes(writer, AMQP_STRING, span_from_text("statusDescription"));
    amqp_write_bytes(writer, AMQP_STRING, span_from_text(text));
    if (count >= 0) {
        amqp_write_bytes(writer, AMQP_STRING, span_from_text("count"));
        amqp_write_number(writer, AMQP_INT, (uint64_t)count);
    }
    amqp_close(writer, began, AMQP_MAP, count >= 0 ? 6 : 4, false);
    amqp_write_descriptor(writer, AMQP_SECTION_VALUE);
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
    if (!amqp_address_parse(reply_to, false, &address))
        return; /* nobody can be told */
    if (address.at == AMQP_AT_TOPIC)
        publish.topic = address.topic;
    else if (address.at == AMQP_AT_QUEUE && address.group.size == 0)
        publish.queue = catalog_queue_by_text(broker_catalog(connection->client.worker),
                                              connection->client.tenant, address.queue);
    if (address.at != AMQP_AT_TOPIC && publish.queue == NULL)
        return;
    arena_init(&arena, PUBLISHED_MAX);
    if (amqp_view_read(&arena, bytes, &publish, &to, &err) == STATUS_OK)
        broker_publish(&connection->client, &publish);
    arena_deinit(&arena);
}

static bool is_full(struct amqp_connection *connection, const struct amqp_link *link)
{
    struct client *client = &connection->client;
    return amqp_sending_count(link) >= LIMIT_AMQP_REQUESTS ||
           client->ops->queued(client) >= LIMIT_CLIENT_IN_BYTES;
}

/* Its receiver takes no answers; what has credit only waits for the end of this turn. */
static bool has_no_room(struct amqp_connection *connection, const struct amqp_link *link)
{
    return is_full(connection, link) && (!amqp_say_now(connection) || is_full(connection, link));
}

static void send_answer(struct amqp_connection *connection, struct amqp_link *link,
                        struct span bytes)
{
    if (is_full(connection, link)) { /* since the request came */
        amqp_count_refusal(STATUS_OVER_QUOTA);
        return;
    }
    uint64_t tag = link->tag++;
    amqp_send(link, &(struct amqp_outgoing){
                        .tag = span_of(&tag, sizeof tag), .message = bytes, .settled = true});
}

void amqp_manage_answer(struct managing *managing, struct span bytes)
{
    if (managing->link->pn == NULL) { /* who asked has gone */
        managing_free(managing);
        return;
    }
    struct amqp_connection *connection = managing->link->connection;
    struct amqp_link *link = answer_link(connection, managing->reply_to);
    if (link != NULL && amqp_is_too_large(link, bytes.size)) {
        if (!managing->is_shortened) {
            managing->is_shortened = true;
            amqp_manage_refuse(managing, AMQP_MANAGE_TOO_LARGE, "larger than its receiver takes");
            return;
        }
        amqp_count_refusal(STATUS_TOO_LARGE);
    } else if (link != NULL) {
        send_answer(connection, link, bytes);
    } else {
        publish_answer(connection, managing->reply_to, bytes);
    }
    managing_free(managing);
}

/* The answer with a map of an entity's attributes; NULL: an empty one. */
static void answer(struct managing *managing, unsigned code, const char *text,
                   const struct shown *shown)
{
    static const struct shown none[ATTRIBUTES];
    uint8_t *bytes = heap_new(AMQP_MANAGE_HEAD_MAX + managing->correlation.bytes.size +
                              strlen(text) + AMQP_MANAGE_ENTITY_MAX);
    struct amqp_writer writer = {.at = bytes};
    amqp_manage_head(&writer, managing, code, text, -1);
    amqp_show_write(&writer, shown == NULL ? none : shown);
    amqp_manage_answer(managing, span_of(bytes, (size_t)(writer.at - bytes)));
    heap_free(bytes);
}

void amqp_manage_refuse(struct managing *managing, unsigned code, const char *text)
{
    answer(managing, code, text, NULL);
}

static void refuse(struct managing *managing, enum status status, const char *text)
{
    amqp_manage_refuse(managing, code_of(status), text != NULL ? text : status_text(status));
}

/* ------------------------------------------------ what is asked for */

bool amqp_manage_is_number(const struct amqp_value *value)
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
    if (!amqp_manage_is_number(value))
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
    } else if (span_is(key, "lease_ms")) {
        admin->lease_ms = value->number;
        admin->fields |= QUEUE_FIELD_LEASE_MS;
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
    struct shown shown[ATTRIBUTES] = {{0}};
    managing->link->connection->changes--;
    managing->link->connection->changes_bytes -= managing->message.size;
    if (status != STATUS_OK) {
        refuse(managing, status,
               managing->admin.err.text[0] == '\0' ? NULL : managing->admin.err.text);
        return;
    }
    const struct amqp_link *link = managing->link;
    if (managing->admin.queue != NULL)
        amqp_show_queue(managing->admin.queue, shown);
    else if (managing->admin.group != NULL && link->pn != NULL)
        amqp_show_group(broker_catalog(link->connection->client.worker), managing->admin.group,
                        shown);
    answer(managing, managing->ok, "OK", shown);
}

static void change(struct managing *managing, unsigned ok)
{
    struct amqp_connection *connection = managing->link->connection;
    connection->changes++;
    connection->changes_bytes += managing->message.size;
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
    if (queue == NULL || !(managing->is_group ? broker_may_see_groups(client, queue)
                                              : broker_may_see(client, queue)))
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
    struct shown shown[ATTRIBUTES];
    if (queue == NULL || (managing->is_group && group == NULL)) {
        refuse(managing, STATUS_NOT_FOUND, NULL);
    } else if (span_is(operation, "READ")) {
        const struct client *client = &managing->link->connection->client;
        if (managing->is_group)
            amqp_show_group(broker_catalog(client->worker), group, shown);
        else
            amqp_show_queue(queue, shown);
        answer(managing, 200, "OK", shown);
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

/* ------------------------------------------------ requests */

bool amqp_manage_property(const struct amqp_message *message, const char *name,
                          struct amqp_value *value)
{
    struct reader at = reader_of(message->application.bytes);
    for (uint32_t i = 0; i < message->application.count; i += 2) {
        struct amqp_value key;
        amqp_value_read(&at, &key);
        amqp_value_read(&at, value);
        if (span_is(key.bytes, name))
            return true;
    }
    return false;
}

/* Empty: there is none. */
static struct span text_property(const struct amqp_message *message, const char *name)
{
    struct amqp_value value;
    bool found = amqp_manage_property(message, name, &value) && amqp_is_text(&value);
    return found ? value.bytes : span_of("", 0);
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

/* They are made one after the other, of all connections, and each waits for the disk. */
static bool changes_too_much(const struct amqp_connection *connection, size_t size)
{
    return connection->changes >= LIMIT_AMQP_REQUESTS ||
           connection->changes_bytes + size > LIMIT_CLIENT_IN_BYTES;
}

enum status amqp_manage(struct amqp_link *link, struct span bytes, struct err *err)
{
    struct amqp_message message;
    if (changes_too_much(link->connection, bytes.size))
        return err_set(err, STATUS_OVER_QUOTA, "too many changes are under way");
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
    const struct amqp_link *to = answer_link(link->connection, managing->reply_to);
    if (to != NULL && has_no_room(link->connection, to)) {
        managing_free(managing);
        return err_set(err, STATUS_OVER_QUOTA, "too many answers wait for their receiver");
    }
    struct span operation = text_property(&message, "operation");
    struct span type = text_property(&message, "type");
    if (amqp_manage_look(managing, operation, &message))
        return STATUS_OK;
    managing->is_group = span_is(type, "group");
    if (!managing->is_group && !span_is(type, "queue"))
        refuse(managing, STATUS_INVALID, "type is queue or group");
    else if (!name_parse(managing, text_property(&message, "name")))
        refuse(managing, STATUS_INVALID, "name is a queue's, or QUEUE/groups/GROUP");
    else
        operate(managing, operation, &message);
    return STATUS_OK;
}
