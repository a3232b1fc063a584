/* SPDX-License-Identifier: Apache-2.0 */
/* Records to the client of a session: each one once to all of its subscriptions that match, under
 * numbers that the session remembers. */
#include "core/broker/session.h"
#include "core/broker/share.h"

#include "core/base/heap.h"
#include "core/broker/topic.h"

enum { MARKS_MAX = 16, SETTLED_MAX = 4096 };

/* ------------------------------------------------ flights */

static void unlink_flight(struct session *session, struct flight *flight)
{
    session->flights[flight->previous].next = flight->next;
    session->flights[flight->next].previous = flight->previous;
}

struct flight *session_flight_new(struct session *session)
{
    if (session->free_first == 0) {
        if (session->flight_count + 1 >= session->flight_capacity) {
            session->flight_capacity =
                session->flight_capacity == 0 ? 8 : session->flight_capacity * 2;
            session->flights =
                heap_resize(session->flights, session->flight_capacity * sizeof *session->flights);
            if (session->flight_count == 0)
                session->flights[0] = (struct flight){0};
        }
        uint32_t number = ++session->flight_count;
        CHECK(session->share != 0 || number <= LIMIT_CLIENT_CREDIT); /* else no row of it is read */
        session->flights[number] = (struct flight){.at.number = number};
        session->free_first = number;
    }
    struct flight *flight = &session->flights[session->free_first];
    uint32_t number = flight->at.number;
    session->free_first = flight->next;
    *flight = (struct flight){.at.number = number, .previous = session->flights[0].previous};
    session->flights[flight->previous].next = number;
    session->flights[0].previous = number;
    session->in_flight++;
    session_flight_changed(session, flight);
    return flight;
}

void session_flight_end(struct session *session, struct flight *flight)
{
    blob_unref(flight->frame);
    heap_free((void *)(uintptr_t)flight->at.retained.data);
    if (flight->seat != NULL)
        session_flight_left(session, flight);
    unlink_flight(session, flight);
    session_flight_changed(session, flight);
    session->again_out -= flight->returned;
    *flight = (struct flight){.at.number = flight->at.number, .next = session->free_first};
    session->free_first = flight->at.number;
    session->in_flight--;
}

static struct span key_copy(struct span key)
{
    return key.size == 0 ? (struct span){0}
                         : span_of(heap_text((const char *)key.data, key.size), key.size);
}

bool session_deliver(struct session *session, const struct flight *flight, struct blob *frame,
                     bool again)
{
    struct kept_delivery kept = {
        .number = flight->at.number,
        .again = again,
        .partition = flight->at.partition,
        .offset = flight->at.offset,
    };
    bool sent = session->client->ops->deliver_kept(session->client, frame, &kept);
    if (!sent)
        metric_add(session->worker->broker->metrics.dropped_too_large, 1);
    return sent;
}

enum status session_flights_load(struct session *session, struct session_position *position)
{
    struct session_flight stored;
    struct session_position all = *position;
    uint32_t last = session->flight_count;
    while (session_flight_next(&all, &stored))
        last = stored.number > last ? stored.number : last;
    if (last >= session->flight_capacity) {
        uint32_t before = session->flight_capacity;
        session->flight_capacity = last < 2 * before ? 2 * before : last + 1;
        session->flights =
            heap_resize(session->flights, session->flight_capacity * sizeof *session->flights);
        memset(session->flights + before, 0,
               (session->flight_capacity - before) * sizeof *session->flights);
    }
    session->flight_count = last;
    while (session_flight_next(position, &stored)) {
        struct flight *flight = &session->flights[stored.number];
        if (flight->at.state != FLIGHT_FREE)
            return STATUS_CORRUPT;
        *flight =
            (struct flight){.at = stored, .again = true, .previous = session->flights[0].previous};
        flight->at.retained = key_copy(stored.retained);
        session->flights[flight->previous].next = stored.number;
        session->flights[0].previous = stored.number;
        session->in_flight++;
    }
    return STATUS_OK;
}

void session_flights_loaded(struct session *session)
{
    for (uint32_t i = session->flight_count; i > 0; i--) {
        struct flight *flight = &session->flights[i];
        if (flight->at.state != FLIGHT_FREE)
            continue;
        *flight = (struct flight){.at.number = i, .next = session->free_first};
        session->free_first = i;
    }
}

static struct flight *flight_of(struct session *session, uint32_t number)
{
    if (session == NULL || number == 0 || number > session->flight_count ||
        session->flights[number].at.state == FLIGHT_FREE)
        return NULL;
    return &session->flights[number];
}

void broker_settled(struct client *client, uint32_t number)
{
    struct session *session = client->session;
    struct flight *flight = flight_of(session, number);
    if (flight == NULL)
        return;
    session_flight_end(session, flight);
    session_touch(session);
    if (++session->settled >= SETTLED_MAX)
        session_write_now(session);
}

void broker_again(struct client *client, uint32_t number, bool failed)
{
    struct session *session = client->session;
    struct flight *flight = flight_of(session, number);
    if (flight == NULL || flight->at.state != FLIGHT_SENT)
        return;
    flight->again = true;
    flight->at.failures = flight_failures(flight->at.failures, failed);
    if (failed)
        session_touch(session);
    session_handled(session); /* as after a delivery that did not fit */
    session->phase = SESSION_RESENDING;
    session_go_on(session);
}

void broker_taken(struct client *client, uint32_t number)
{
    struct session *session = client->session;
    struct flight *flight = flight_of(session, number);
    if (flight == NULL)
        return;
    if (flight->at.state == FLIGHT_RELEASED) {
        client->ops->release(client, number);
    } else if (flight->at.state == FLIGHT_SENT) {
        flight->at.state = FLIGHT_TAKEN;
        flight->covered = false;
        session_write_now(session);
    }
}

/* ------------------------------------------------ marks */

static struct session_mark *mark_of(const struct session *session, uint64_t partition)
{
    for (uint32_t i = 0; i < session->mark_count; i++)
        if (session->marks[i].partition == partition)
            return &session->marks[i];
    return NULL;
}

static void prune_marks(struct session *session)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < session->mark_count; i++)
        if (session->marks[i].commit > session->position)
            session->marks[kept++] = session->marks[i];
    session->mark_count = kept;
}

void session_mark(struct session *session, uint64_t partition, uint64_t next, uint64_t commit)
{
    struct session_mark *mark = mark_of(session, partition);
    if (mark == NULL) {
        if (session->mark_count >= MARKS_MAX) {
            session_handled(session);
            prune_marks(session);
        }
        if (session->mark_count == session->mark_capacity) {
            session->mark_capacity = session->mark_capacity == 0 ? 4 : session->mark_capacity * 2;
            session->marks =
                heap_resize(session->marks, session->mark_capacity * sizeof *session->marks);
        }
        mark = &session->marks[session->mark_count++];
    }
    *mark = (struct session_mark){.partition = partition, .next = next, .commit = commit};
    session_touch(session);
}

/* Whatever this worker has been told of was shown to a session that is live. */
void session_handled(struct session *session)
{
    if (session->phase == SESSION_LIVE && session->position < session->worker->handled)
        session->position = session->worker->handled;
    prune_marks(session);
}

/* ------------------------------------------------ one record */

struct showing {
    struct session *session;
    uint64_t partition, commit;
    const struct record *record;
    struct span topic; /* empty: it is shown to nobody */
};

static bool is_at_most_once(const struct subscription *subscription, const struct record *record)
{
    return subscription->guarantee == GUARANTEE_AT_MOST_ONCE ||
           record_guarantee(record) == GUARANTEE_AT_MOST_ONCE;
}

static bool takes(const struct showing *showing, const struct subscription *subscription)
{
    const struct record *record = showing->record;
    struct span filter = span_of(subscription->entry->filter, subscription->entry->filter_size);
    return subscription->index != 0 && showing->commit > subscription->since &&
           showing->topic.size > 0 && !is_at_most_once(subscription, record) &&
           topic_matches(filter, showing->topic) && deliver_is_wanted(subscription, record);
}

static enum guarantee lower(const struct subscription *subscription, const struct record *record)
{
    return subscription->guarantee == GUARANTEE_EXACTLY_ONCE &&
                   record_guarantee(record) == GUARANTEE_EXACTLY_ONCE
               ? GUARANTEE_EXACTLY_ONCE
               : GUARANTEE_AT_LEAST_ONCE;
}

/* Takes credit; where there is none it goes out when there is. */
enum deliver_result session_send(struct subscription *subscription, uint64_t partition,
                                 const struct record *record, const struct session_origin *origin,
                                 struct frame_cache *frames)
{
    struct client *client = subscription->client;
    struct session *session = client->session;
    uint32_t variant = client->ops->variant(client, subscription, record);
    struct blob *frame = deliver_frame(frames, client->ops, variant, record);
    if (frame == NULL) {
        metric_add(client->worker->broker->metrics.dropped_encode, 1);
        return DELIVER_SKIPPED;
    }
    struct flight *flight = session_flight_new(session);
    flight->at.partition = partition;
    flight->at.offset = record->offset;
    flight->at.identifier = subscription->identifier;
    flight->at.retain_as_published = subscription->retain_as_published;
    flight->at.guarantee = (uint8_t)lower(subscription, record);
    flight->at.retained = key_copy(origin->retained);
    flight->at.share = origin->seat == NULL ? 0 : origin->seat->id;
    flight->seat = origin->seat;
    flight->lease = origin->lease;
    flight->unpaid = client->credit == 0;
    session->unpaid += flight->unpaid;
    client->credit -= !flight->unpaid;
    client->figures->delivered_now++;
    /* What comes behind one that is held is held too, so that they keep their order. */
    if (flight->at.guarantee == GUARANTEE_EXACTLY_ONCE || session->holding > 0 || flight->unpaid) {
        flight->at.state = FLIGHT_HELD;
        flight->frame = blob_ref(frame);
        session->holding++;
        session_write_now(session);
        return DELIVERED;
    }
    flight->at.state = FLIGHT_SENT;
    if (!session_deliver(session, flight, frame, false)) {
        session_flight_end(session, flight); /* too large for this client: as if it had it */
        client->credit++;
    }
    return DELIVERED;
}

enum deliver_result session_give(struct share_seat *seat, uint32_t lease, uint64_t partition,
                                 const struct record *record, struct frame_cache *frames)
{
    session_touch(seat->subscription.client->session);
    return session_send(&seat->subscription, partition, record,
                        &(struct session_origin){.seat = seat, .lease = lease}, frames);
}

/* False: the share whose session this is has nobody who can take it now. */
static bool hand(const struct showing *showing, struct subscription *subscription,
                 struct frame_cache *frames)
{
    const struct record *record = showing->record;
    if (showing->session->share != 0)
        return share_show(subscription, showing->partition, record, frames) != DELIVER_FULL;
    subscription->shown_partition = showing->partition;
    subscription->shown_offset = record->offset;
    session_send(subscription, showing->partition, record, &(struct session_origin){0}, frames);
    return true;
}

/* Empty: it is shown to nobody. */
static struct span topic_of(const struct session *session, const struct record *record)
{
    struct span topic;
    return deliver_topic(record, worker_wall_ms(session->worker), &topic) ? topic
                                                                          : (struct span){0};
}

static enum deliver_result show(const struct showing *showing, struct frame_cache *frames)
{
    struct session *session = showing->session;
    struct client *client = session->client;
    const struct record *record = showing->record;
    uint64_t partition = showing->partition, commit = showing->commit;
    const struct session_mark *mark = mark_of(session, partition);
    if (commit <= session->position || (mark != NULL && record->offset < mark->next))
        return DELIVER_SKIPPED;
    const struct subscription *first = NULL; /* of those that take it */
    uint32_t count = 0;
    bool has_time = false; /* for all of them: else a record would begin again and again */
    list_each(link, &client->subscriptions)
    {
        const struct subscription *subscription =
            container_of(link, struct subscription, of_client);
        if (!has_time && !deliver_has_time(subscription))
            return DELIVER_FULL;
        has_time |= subscription->selector != NULL;
        if (!takes(showing, subscription))
            continue;
        if (count++ == 0)
            first = subscription;
    }
    if (session->share != 0 && share_has_given(client, partition, record->offset))
        count = 0;
    if (session->returning && session_drops(session, record, count))
        count = 0;
    if (count > 0) {
        if (session->returning && !session_is_paced(session))
            return DELIVER_FULL;
        /* All of them at once, so that what is stored knows of all or of none. Where there can
         * never be so much credit, those that find none wait for it. */
        uint32_t needed = count < client->credit_max ? count : client->credit_max;
        if (client->credit < needed || session->unpaid > 0 ||
            client->ops->queued(client) >= LIMIT_CLIENT_OUT_BYTES)
            return DELIVER_FULL;
        /* More copies than there are numbers are not made: one would do (MQTT-3.3.4-2). */
        uint32_t left = count < LIMIT_CLIENT_CREDIT ? count : LIMIT_CLIENT_CREDIT;
        list_each(link, &client->subscriptions)
        {
            struct subscription *subscription = container_of(link, struct subscription, of_client);
            if (left == 0)
                break;
            if (subscription != first && !takes(showing, subscription))
                continue;
            if (!hand(showing, subscription, frames))
                return DELIVER_FULL;
            left--;
            if (session->returning)
                session_pace(session);
        }
    }
    session_mark(session, partition, record->offset + 1, commit);
    return count > 0 ? DELIVERED : DELIVER_SKIPPED;
}

enum deliver_result session_show(struct session *session, uint64_t partition, uint64_t commit,
                                 const struct record *record, struct frame_cache *frames)
{
    struct showing showing = {.session = session,
                              .partition = partition,
                              .commit = commit,
                              .record = record,
                              .topic = topic_of(session, record)};
    return show(&showing, frames);
}

void session_pass(struct session *session, struct batch *batch, uint32_t index,
                  const struct record *record, struct span topic, struct frame_cache *frames)
{
    if (session->phase != SESSION_LIVE) {
        session_note(session, batch, index);
        return;
    }
    struct showing showing = {.session = session,
                              .partition = batch->partition,
                              .commit = batch->commit,
                              .record = record,
                              .topic = topic};
    if (show(&showing, frames) == DELIVER_FULL) {
        session_handled(session);
        session->phase = SESSION_BEHIND;
    }
}
