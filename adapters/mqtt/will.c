/* SPDX-License-Identifier: Apache-2.0 */
/* Wills: published when a connection ends badly, at once or when the session has not been resumed
 * for a while (3.1.3.2.2). What is put off waits as a delayed record, so that it survives a
 * restart; a client of its own, with the name and rights of the one that went, publishes it and
 * takes it back. The table of those that wait is shared by all workers and locked for a moment.
 *
 *   STORING --answered--> WAITING --due--> gone
 *                            \--session resumed, or ended--> TAKING_BACK --> gone, or published
 */
#include <pthread.h>
#include <stdio.h>

#include "adapters/mqtt/session.h"
#include "core/base/heap.h"
#include "core/base/limits.h"
#include "core/base/map.h"

/* A will outlives the packet it came in: its parts and the encoded list of its properties, copied.
 */
struct mqtt_kept_will {
    struct mqtt_will will;
    uint8_t bytes[];
};

enum { STORING_MS = 1000 }; /* looks again so often for the answer */

enum late_state { LATE_STORING, LATE_WAITING, LATE_TAKING_BACK };

struct late_will {
    struct client client; /* first: the broker gives it back */
    struct mail mail;     /* from who resumed the session */
    struct mqtt_kept_will *kept;
    enum late_state state;
    bool stored;            /* as a delayed record; else the timer publishes it */
    bool resumed, is_ended; /* the session: taken back, published now */
    struct delay_id id;
    struct request canceled;
    struct loop_timer timer;
    struct span key; /* bytes below */
    uint8_t bytes[];
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct map late_wills;

static struct span keep(uint8_t **at, struct span bytes)
{
    struct span kept = span_of(*at, bytes.size);
    if (bytes.size > 0)
        memcpy(*at, bytes.data, bytes.size);
    *at += bytes.size;
    return kept;
}

void mqtt_will_keep(struct mqtt_session *session, const struct mqtt_will *will)
{
    size_t size = will->topic.size + will->payload.size + will->properties.list.size;
    struct mqtt_kept_will *kept = session->will = heap_new(sizeof *kept + size);
    uint8_t *at = kept->bytes;
    kept->will = *will;
    kept->will.topic = keep(&at, will->topic);
    kept->will.payload = keep(&at, will->payload);
    struct span list = keep(&at, will->properties.list);
    /* It was checked before: decoding the copy only makes the spans point into it. */
    mqtt_properties_decode(list, MQTT_LIST_WILL, &kept->will.properties);
}

void mqtt_will_free(struct mqtt_session *session)
{
    heap_free(session->will);
    session->will = NULL;
}

/* ------------------------------------------------ publishing */

/* What expires counts from its publication. */
static void put_off_expiry(struct publish *publish, struct header *headers,
                           char text[MQTT_FILL_TEXT])
{
    if (publish->expires_at_ms == 0)
        return;
    publish->expires_at_ms += (int64_t)publish->delay_ms;
    int size = snprintf(text, MQTT_EXPIRY_TEXT, "%lld", (long long)publish->expires_at_ms);
    for (uint32_t i = 0; i < publish->header_count; i++)
        if (headers[i].value.data == (const uint8_t *)text)
            headers[i].value.size = (size_t)size;
}

/* False: it cannot be a record, and no answer comes. */
static bool publish_will(struct client *client, const struct mqtt_will *will, uint64_t delay_ms)
{
    struct header headers[LIMIT_HEADERS];
    char text[MQTT_FILL_TEXT];
    struct publish publish = {
        .topic = will->topic,
        .body = will->payload,
        .guarantee = will->qos == 0   ? GUARANTEE_AT_MOST_ONCE
                     : will->qos == 1 ? GUARANTEE_AT_LEAST_ONCE
                                      : GUARANTEE_EXACTLY_ONCE,
        .retain = will->retain,
    };
    if (mqtt_publish_fill(&will->properties, &publish, headers, text) != MQTT_REASON_SUCCESS)
        return false;
    if (delay_ms > 0) {
        publish.delay_ms = delay_ms;
        publish.answer = true;
        put_off_expiry(&publish, headers, text);
    }
    broker_publish(client, &publish);
    return true;
}

/* ------------------------------------------------ late ones */

static struct late_will *late_of(struct client *client)
{
    return container_of(client, struct late_will, client);
}

/* False: somebody has taken it out, and its mail is on the way. */
static bool leave_table(struct late_will *late)
{
    pthread_mutex_lock(&lock);
    bool held = map_get(&late_wills, late->key) == late;
    if (held)
        map_remove(&late_wills, late->key);
    pthread_mutex_unlock(&lock);
    return held;
}

static void late_free(struct late_will *late)
{
    loop_timer_stop(broker_loop(late->client.worker), &late->timer);
    client_close(&late->client);
    heap_free(late->kept);
    heap_free(late);
}

static void take_back_done(struct request *request, enum status status)
{
    struct late_will *late = container_of(request, struct late_will, canceled);
    if (status == STATUS_OK && late->is_ended && late->client.open)
        publish_will(&late->client, &late->kept->will, 0);
    late_free(late);
}

/* Its session goes on, and nobody gets it; or has ended, and it is due. */
static void take_back(struct late_will *late)
{
    late->state = LATE_TAKING_BACK;
    loop_timer_stop(broker_loop(late->client.worker), &late->timer);
    request_init(&late->canceled, broker_loop(late->client.worker), take_back_done);
    const struct queue *queue =
        late->stored && late->client.open
            ? catalog_queue_of_partition(broker_catalog(late->client.worker), late->id.partition)
            : NULL;
    if (queue != NULL)
        broker_cancel_delayed(&late->client, queue, &late->id, &late->canceled);
    else
        request_complete(&late->canceled, late->stored ? STATUS_NOT_FOUND : STATUS_OK);
}

static void session_is_back(struct mail *mail)
{
    struct late_will *late = container_of(mail, struct late_will, mail);
    late->resumed = true;
    if (!late->client.open)
        late_free(late);
    else if (late->state == LATE_WAITING)
        take_back(late);
}

static void is_due(struct loop_timer *timer)
{
    struct late_will *late = container_of(timer, struct late_will, timer);
    if (late->state == LATE_STORING) { /* else it might be published twice */
        loop_timer_start(broker_loop(late->client.worker), timer, STORING_MS);
        return;
    }
    if (!leave_table(late))
        return;
    if (!late->stored && late->client.open)
        publish_will(&late->client, &late->kept->will, 0);
    late_free(late);
}

static void late_delayed(struct client *client, uint64_t token, const struct delay_id *id)
{
    (void)token;
    late_of(client)->id = *id;
}

/* Where records cannot wait (a stream), the will waits in memory. */
static void late_answered(struct client *client, uint64_t token, enum status status,
                          uint64_t partition, uint64_t offset)
{
    struct late_will *late = late_of(client);
    (void)token;
    (void)partition;
    (void)offset;
    late->stored = status == STATUS_OK;
    late->state = LATE_WAITING;
    if (late->resumed)
        take_back(late);
}

static void late_resume(struct client *client)
{
    (void)client;
}

/* The gateway ends, or the user has gone. */
static void late_end(struct client *client, enum status why)
{
    struct late_will *late = late_of(client);
    (void)why;
    if (late->state == LATE_TAKING_BACK)
        client_close(client);
    else if (leave_table(late))
        late_free(late);
    else /* until its mail comes */
        client_close(client);
}

static const struct client_ops late_ops = {
    .protocol = "mqtt",
    .answered = late_answered,
    .delayed = late_delayed,
    .resume = late_resume,
    .end = late_end,
};

static size_t key_of(const struct client *client, uint8_t *key)
{
    memcpy(key, &client->tenant, sizeof client->tenant);
    if (client->id.size > 0)
        memcpy(key + sizeof client->tenant, client->id.data, client->id.size);
    return sizeof client->tenant + client->id.size;
}

static void put_off(struct mqtt_session *session, uint64_t delay_ms)
{
    struct client *of = &session->client;
    struct late_will *late = heap_new(sizeof *late + sizeof of->tenant + of->id.size);
    client_fork(&late->client, &late_ops, of, 0);
    late->mail.deliver = session_is_back;
    late->kept = session->will;
    session->will = NULL;
    late->key = span_of(late->bytes, key_of(of, late->bytes));
    late->timer.fired = is_due;
    loop_timer_start(broker_loop(of->worker), &late->timer, delay_ms);
    pthread_mutex_lock(&lock);
    struct late_will *older = map_put(&late_wills, late->key, late);
    if (older != NULL) /* of a session that was resumed since */
        mailbox_post(broker_loop(older->client.worker), &older->mail);
    pthread_mutex_unlock(&lock);
    if (!publish_will(&late->client, &late->kept->will, delay_ms))
        late->state = LATE_WAITING; /* for its session or its time, like one that was refused */
}

void mqtt_will_leave(struct mqtt_session *session)
{
    if (session->will == NULL || !session->client.open)
        return;
    const struct mqtt_will *will = &session->will->will;
    /* The session may end earlier than that. */
    uint64_t delay_s = will->properties.will_delay;
    if (!broker_session_is_kept(&session->client))
        delay_s = 0;
    else if (delay_s > session->expiry)
        delay_s = session->expiry;
    uint64_t delay_ms = delay_s * 1000 < LIMIT_DELAY_MS ? delay_s * 1000 : LIMIT_DELAY_MS;
    if (delay_ms > 0)
        put_off(session, delay_ms);
    else
        publish_will(&session->client, will, 0);
}

void mqtt_will_resumed(struct mqtt_session *session, bool present)
{
    const struct client *client = &session->client;
    uint8_t key[sizeof client->tenant + LIMIT_CLIENT_ID_BYTES];
    size_t size = key_of(client, key);
    pthread_mutex_lock(&lock);
    struct late_will *late =
        late_wills.count == 0 ? NULL : map_remove(&late_wills, span_of(key, size));
    if (late != NULL) {
        late->is_ended = !present;
        mailbox_post(broker_loop(late->client.worker), &late->mail);
    }
    pthread_mutex_unlock(&lock);
}
