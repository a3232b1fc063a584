/* SPDX-License-Identifier: Apache-2.0 */
/* $replay/FROM/..., and SUBSCRIBEs with the user property replay: a follower of a queue or of what
 * matches a filter. It settles nothing and ends with its connection. */
#include "adapters/mqtt/session.h"
#include "core/base/heap.h"
#include "core/base/limits.h"
#include "core/base/pack.h"
#include "core/broker/follow.h"

enum { CREDIT = 64 };

struct mqtt_replay {
    struct mqtt_session *session;
    struct link of_session;
    struct follower *follower;
    uint8_t qos;
    bool retain_as_published;
    uint32_t identifier;
    bool is_queue, tells_offset;
    struct span filter; /* bytes below */
    size_t prefix_size; /* of filter, before each topic */
    uint8_t bytes[];
};

/* A record that came when the client's credit had gone elsewhere: at most as many as a follower had
 * credit. */
struct waiting {
    struct link link; /* of the session */
    struct mqtt_replay *replay;
    struct blob *frame;
};

static void waiting_free(struct waiting *waiting)
{
    link_remove(&waiting->link);
    blob_unref(waiting->frame);
    heap_free(waiting);
}

static void replay_free(struct mqtt_replay *replay)
{
    struct mqtt_session *session = replay->session;
    list_each_safe(link, following, &session->replayed)
    {
        struct waiting *waiting = container_of(link, struct waiting, link);
        if (waiting->replay == replay)
            waiting_free(waiting);
    }
    follower_close(replay->follower);
    link_remove(&replay->of_session);
    session->replay_count--;
    heap_free(replay);
}

/* ------------------------------------------------ records */

/* The topic under which a record matches the filter that was subscribed to. text has room. */
static bool topic_of(const struct mqtt_replay *replay, const struct record *record, uint8_t *text,
                     struct span *topic)
{
    if (replay->is_queue) {
        *topic = replay->filter;
        return true;
    }
    if (!record_find(record, HEADER_TOPIC, topic) || replay->prefix_size + topic->size > UINT16_MAX)
        return false;
    if (replay->prefix_size > 0) {
        memcpy(text, replay->filter.data, replay->prefix_size);
        memcpy(text + replay->prefix_size, topic->data, topic->size);
        *topic = span_of(text, replay->prefix_size + topic->size);
    }
    return true;
}

static uint8_t qos_of(const struct mqtt_replay *replay, const struct record *record)
{
    enum guarantee published = record_guarantee(record);
    uint8_t qos = published == GUARANTEE_AT_MOST_ONCE    ? 0
                  : published == GUARANTEE_AT_LEAST_ONCE ? 1
                                                         : 2;
    return replay->is_queue || replay->qos < qos ? replay->qos : qos;
}

static void send_waiting(struct mqtt_session *session, const struct waiting *waiting)
{
    struct blob *frame = waiting->frame;
    uint16_t id = mqtt_take_id(session, (frame->bytes[0] & 0x06) == 0x02 ? MQTT_OWED_PUBACK
                                                                         : MQTT_OWED_PUBREC);
    store_u16(frame->bytes + mqtt_publish_id_at(blob_span(frame)), id);
    stream_write_blob(session->stream, frame, 0, frame->size);
}

static void keep(struct mqtt_replay *replay, const struct mqtt_shown *shown, size_t size)
{
    struct waiting *waiting = heap_new(sizeof *waiting);
    waiting->replay = replay;
    waiting->frame = blob_new(size);
    mqtt_encode_publish(replay->session->version, &shown->publish, waiting->frame->bytes);
    list_push(&replay->session->replayed, &waiting->link);
    /* All live on the client's one credit: what others still have would be kept as well. */
    list_each(link, &replay->session->replays)
    {
        struct mqtt_replay *each = container_of(link, struct mqtt_replay, of_session);
        if (each->qos > 0)
            follower_credit(each->follower, 0);
    }
}

static void deliver(struct follower *follower, struct blob *frame, const struct follow_place *place,
                    const struct record *record)
{
    struct mqtt_replay *replay = follower_context(follower);
    struct mqtt_session *session = replay->session;
    uint8_t text[UINT16_MAX];
    struct mqtt_shown shown = {
        .qos = qos_of(replay, record),
        .retain = replay->retain_as_published && (record->attributes & RECORD_RETAIN),
        .identifier = replay->identifier,
        .tells_topic = replay->is_queue,
        .tells_offset = replay->tells_offset,
        .partition = place->partition,
    };
    (void)frame;
    if (session->state != MQTT_UP) { /* it ends with the stream */
        follower_credit(follower, 0);
        return;
    }
    size_t size = 0;
    if (topic_of(replay, record, text, &shown.topic))
        size = mqtt_show(session, record, &shown);
    if (size == 0 || size > session->packet_max || shown.qos == 0) {
        if (size > 0 && size <= session->packet_max)
            mqtt_send_shown(session, &shown, size);
        follower_credit(follower, follower_credit_left(follower) + 1);
    } else if (!list_is_empty(&session->replayed) || !client_spend(&session->client)) {
        keep(replay, &shown, size);
    } else {
        shown.publish.packet_id =
            mqtt_take_id(session, shown.qos == 1 ? MQTT_OWED_PUBACK : MQTT_OWED_PUBREC);
        mqtt_send_shown(session, &shown, size);
    }
}

/* Each client is shown its own: there is nothing to share. */
static struct blob *encode(uint32_t variant, const struct follow_place *place,
                           const struct record *record)
{
    (void)variant;
    (void)place;
    (void)record;
    return blob_new(1);
}

/* There is no word for it; UNSUBSCRIBE or the end of the connection closes it. */
static void ended(struct follower *follower, enum status why)
{
    (void)follower;
    (void)why;
}

static const struct follow_ops follow_ops = {.encode = encode, .deliver = deliver, .ended = ended};

void mqtt_replays_credit(struct mqtt_session *session)
{
    struct link *link;
    while ((link = list_first(&session->replayed)) != NULL && client_spend(&session->client)) {
        struct waiting *waiting = container_of(link, struct waiting, link);
        send_waiting(session, waiting);
        waiting_free(waiting);
    }
    uint32_t credit = session->client.credit < CREDIT ? session->client.credit : CREDIT;
    if (!list_is_empty(&session->replayed))
        credit = 0;
    list_each(each, &session->replays)
    {
        struct mqtt_replay *replay = container_of(each, struct mqtt_replay, of_session);
        follower_credit(replay->follower, replay->qos == 0 ? CREDIT : credit);
    }
}

/* ------------------------------------------------ subscribing */

static struct mqtt_replay *replay_find(const struct mqtt_session *session, struct span filter)
{
    list_each(link, &session->replays)
    {
        struct mqtt_replay *replay = container_of(link, struct mqtt_replay, of_session);
        if (span_equal(replay->filter, filter))
            return replay;
    }
    return NULL;
}

uint8_t mqtt_replay_subscribe(struct mqtt_session *session, const struct mqtt_filter *filter,
                              const struct mqtt_address *address, const struct mqtt_asked *asked,
                              uint32_t identifier)
{
    struct client *client = &session->client;
    const struct mqtt_position *from = address->replayed ? &address->from : &asked->from;
    struct follow_options options = {
        .filter = address->topic,
        .partition = FOLLOW_ALL_PARTITIONS,
        .no_local = filter->no_local,
        .from = from->by_time ? SEEK_TIME : SEEK_OFFSET,
        .offset = from->by_time ? 0 : from->value,
        .time_ms = from->by_time ? (int64_t)from->value : 0,
    };
    bool is_queue = address->kind == MQTT_ADDRESS_QUEUE;
    if (is_queue) {
        options.queue =
            catalog_queue_by_text(broker_catalog(client->worker), client->tenant, address->queue);
        options.filter = span_of(NULL, 0);
    }
    if (address->group.size > 0 || (is_queue && options.queue == NULL) ||
        (!is_queue && address->kind != MQTT_ADDRESS_TOPIC))
        return MQTT_REASON_FILTER_INVALID;
    mqtt_replay_unsubscribe(session, filter->filter);
    if (session->replay_count >= LIMIT_SHARES)
        return MQTT_REASON_QUOTA_EXCEEDED;
    struct mqtt_replay *replay = heap_new(sizeof *replay + filter->filter.size);
    enum status status = follower_open(client, &follow_ops, replay, &options, &replay->follower);
    if (status != STATUS_OK) {
        heap_free(replay);
        return status == STATUS_INVALID ? MQTT_REASON_FILTER_INVALID
                                        : (uint8_t)mqtt_reason_on(status, MQTT_ON_SUBACK);
    }
    replay->session = session;
    replay->qos = filter->qos;
    replay->retain_as_published = filter->retain_as_published;
    replay->identifier = identifier;
    replay->is_queue = is_queue;
    replay->tells_offset = asked->offset;
    memcpy(replay->bytes, filter->filter.data, filter->filter.size);
    replay->filter = span_of(replay->bytes, filter->filter.size);
    replay->prefix_size = is_queue ? 0 : filter->filter.size - address->topic.size;
    list_push(&session->replays, &replay->of_session);
    session->replay_count++;
    mqtt_replays_credit(session);
    return filter->qos;
}

enum status mqtt_replay_unsubscribe(struct mqtt_session *session, struct span filter)
{
    struct mqtt_replay *replay = replay_find(session, filter);
    if (replay == NULL)
        return STATUS_NOT_FOUND;
    replay_free(replay);
    return STATUS_OK;
}

void mqtt_replays_close(struct mqtt_session *session)
{
    struct link *link;
    while ((link = list_first(&session->replays)) != NULL)
        replay_free(container_of(link, struct mqtt_replay, of_session));
}
