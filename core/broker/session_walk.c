/* SPDX-License-Identifier: Apache-2.0 */
/* How far the subscriptions of a session have got with the retained records that they begin with: a
 * row from the subscribe on until everything was shown. It is written with the position and the
 * flights, so that each record is in flight, or shown, or still to come. */
#include "core/broker/session.h"

#include "core/base/heap.h"

enum { WALK_VALUE = 16 + RETAINED_KEY_MAX, RETRY_MS = 500 };

static struct span filter_of(const struct subscription *subscription)
{
    return span_of(subscription->entry->filter, subscription->entry->filter_size);
}

static struct retained_walk *walk_of(const struct subscription *subscription)
{
    struct retained_walk *walk = subscription->walk;
    return walk != NULL && retained_walk_is_kept(walk) ? walk : NULL;
}

static void not_over(struct session *session, uint64_t filter)
{
    for (uint32_t i = 0; i < session->over_count; i++)
        if (session->walks_over[i] == filter)
            session->walks_over[i] = 0;
}

void session_walk_begin(struct session *session, struct session_rows *rows,
                        struct subscription *subscription)
{
    uint64_t filter = hash_stable(filter_of(subscription));
    uint8_t key[SESSION_STATE_KEY];
    struct buf value;
    retained_walk_end(subscription); /* it begins anew when the row is stored */
    not_over(session, filter);
    buf_init(&value, WALK_VALUE);
    CHECK(session_walk_encode(&(struct session_walk_row){0}, &value) == STATUS_OK);
    session_kind_key(session->id, SESSION_KIND_WALK, filter, key);
    session_rows_add(rows, STORAGE_PUT, span_of(key, sizeof key), buf_span(&value))
        ->commit_in_value = SESSION_WALK_UPTO;
    buf_deinit(&value);
}

void session_walk_forget(struct session_rows *rows, const struct session *session,
                         struct span filter)
{
    uint8_t key[SESSION_STATE_KEY];
    session_kind_key(session->id, SESSION_KIND_WALK, hash_stable(filter), key);
    session_rows_add(rows, STORAGE_DELETE, span_of(key, sizeof key), (struct span){0});
}

void session_walk_over(const struct subscription *subscription)
{
    struct session *session = subscription->client->session;
    if (session->over_count == session->over_capacity) {
        session->over_capacity = session->over_capacity == 0 ? 8 : session->over_capacity * 2;
        session->walks_over =
            heap_resize(session->walks_over, session->over_capacity * sizeof *session->walks_over);
    }
    session->walks_over[session->over_count++] = hash_stable(filter_of(subscription));
    session_touch(session);
}

/* ------------------------------------------------ saving */

struct walk_row {
    uint8_t key[SESSION_STATE_KEY];
    uint8_t value[WALK_VALUE];
};

static uint32_t walk_count(const struct session *session)
{
    uint32_t count = 0;
    list_each(link, &session->client->subscriptions) count +=
        walk_of(container_of(link, struct subscription, of_client)) != NULL;
    return count;
}

static void put_place(struct session *session, const struct subscription *subscription,
                      const struct session_walk_row *at, struct walk_row *to,
                      struct storage_row *row)
{
    struct buf value;
    buf_init(&value, sizeof to->value);
    CHECK(session_walk_encode(at, &value) == STATUS_OK);
    session_kind_key(session->id, SESSION_KIND_WALK, hash_stable(filter_of(subscription)), to->key);
    memcpy(to->value, value.data, value.size);
    *row = (struct storage_row){.change = STORAGE_PUT,
                                .key = span_of(to->key, sizeof to->key),
                                .value = span_of(to->value, value.size),
                                .offset_at = -1};
    buf_deinit(&value);
}

struct storage_row *session_walk_rows(struct session *session, const struct storage_row *first,
                                      uint32_t *count)
{
    uint32_t most = list_is_empty(&session->client->walks) ? 0 : walk_count(session);
    most += session->over_count;
    if (most == 0)
        return NULL;
    struct storage_row *rows = heap_new((most + 1) * (sizeof *rows + sizeof(struct walk_row)));
    struct walk_row *memory = (struct walk_row *)(rows + most + 1);
    *count = 0;
    rows[(*count)++] = *first;
    list_each(link, &session->client->subscriptions)
    {
        const struct subscription *subscription =
            container_of(link, struct subscription, of_client);
        struct session_walk_row at;
        if (walk_of(subscription) == NULL ||
            !retained_walk_moved(subscription->walk, &at.upto, &at.place))
            continue;
        put_place(session, subscription, &at, &memory[*count], &rows[*count]);
        ++*count;
    }
    for (uint32_t i = 0; i < session->over_count; i++) {
        if (session->walks_over[i] == 0)
            continue;
        session_kind_key(session->id, SESSION_KIND_WALK, session->walks_over[i],
                         memory[*count].key);
        rows[*count] = (struct storage_row){.change = STORAGE_DELETE,
                                            .key = span_of(memory[*count].key, SESSION_STATE_KEY),
                                            .offset_at = -1};
        ++*count;
    }
    session->over_written = session->over_count;
    return rows;
}

static void unsaved(struct session *session)
{
    list_each(link, &session->client->subscriptions)
    {
        struct retained_walk *walk = walk_of(container_of(link, struct subscription, of_client));
        if (walk != NULL)
            retained_walk_unsaved(walk);
    }
}

void session_walk_written(struct session *session, bool stored)
{
    if (stored) {
        session->over_count -= session->over_written;
        if (session->over_count > 0)
            memmove(session->walks_over, session->walks_over + session->over_written,
                    session->over_count * sizeof *session->walks_over);
    } else if (session->client != NULL) {
        unsaved(session);
    }
    session->over_written = 0;
}

void session_walk_last(struct session *session, struct session_rows *rows)
{
    uint32_t count = 0;
    struct storage_row none = {0};
    unsaved(session); /* also what a write under way may not store */
    struct storage_row *walks = session_walk_rows(session, &none, &count);
    for (uint32_t i = 1; i < count; i++)
        session_rows_add(rows, walks[i].change, walks[i].key, walks[i].value);
    heap_free(walks);
    list_each(link, &session->client->subscriptions)
    {
        struct subscription *subscription = container_of(link, struct subscription, of_client);
        if (walk_of(subscription) != NULL)
            retained_walk_end(subscription);
    }
}

/* ------------------------------------------------ showing */

void session_walks_start(struct session *session)
{
    list_each_safe(link, following, &session->client->subscriptions)
    {
        struct retained_walk *walk = walk_of(container_of(link, struct subscription, of_client));
        if (walk != NULL)
            retained_walk_start(walk);
    }
}

/* ------------------------------------------------ what was in flight */

/* A row being read again; outlives the client. */
struct session_row_read {
    struct storage_scan scan;
    struct session *session;
    uint32_t number; /* of the flight */
    uint8_t first[RETAINED_KEY_MAX], end[RETAINED_KEY_MAX + 1];
};

/* NULL: there is another record by now, or none. */
static struct batch *row_of(const struct session_row_read *read, const struct session_flight *at)
{
    struct span key, value;
    struct batch *batch;
    size_t position = 0;
    if (!storage_scan_next(&read->scan, &position, &key, &value) ||
        retained_value_open(value, &batch) != STATUS_OK)
        return NULL;
    if (batch->partition == at->partition && batch->base_offset == at->offset)
        return batch;
    batch_unref(batch);
    return NULL;
}

static void row_read(struct request *request, enum status status)
{
    struct session_row_read *read = container_of(request, struct session_row_read, scan.request);
    struct session *session = read->session;
    session->reading = false;
    bool alive = session_back(session);
    if (alive && status == STATUS_OK) {
        struct session_flight *at = &session->flights[read->number].at;
        struct batch *batch = row_of(read, at);
        if (batch != NULL) {
            session_hold(session, batch);
        } else {
            heap_free((void *)(uintptr_t)at->retained.data);
            at->retained = (struct span){0};
        }
    }
    if (status == STATUS_OK)
        blob_unref(read->scan.rows);
    heap_free(read);
    if (alive && status == STATUS_OK)
        session_go_on(session);
    else if (alive)
        session_retry(session, RETRY_MS);
}

void session_row_fetch(struct session *session, const struct flight *flight)
{
    struct session_row_read *read = heap_new(sizeof *read);
    size_t size = flight->at.retained.size;
    read->session = session;
    read->number = flight->at.number;
    memcpy(read->first, flight->at.retained.data, size);
    memcpy(read->end, flight->at.retained.data, size); /* and a zero: the next key there is */
    read->scan = (struct storage_scan){
        .first = span_of(read->first, size), .end = span_of(read->end, size + 1), .limit = 1};
    request_init(&read->scan.request, session->worker->loop, row_read);
    session->reading = true;
    session->calls++;
    session->worker->calls++;
    log_rows_scan(session->worker->broker->log, &read->scan);
}

enum deliver_result session_recall(struct subscription *subscription, uint64_t partition,
                                   const struct record *record, struct span key,
                                   struct frame_cache *frames)
{
    struct client *client = subscription->client;
    const struct session *session = client->session;
    if (subscription->guarantee == GUARANTEE_AT_MOST_ONCE ||
        record_guarantee(record) == GUARANTEE_AT_MOST_ONCE)
        return deliver_to(subscription, record, frames);
    if (!deliver_is_wanted(subscription, record))
        return DELIVER_SKIPPED;
    /* What is to be sent again has its number, but no credit yet. */
    if (!session_takes(session) || session->in_flight >= LIMIT_CLIENT_CREDIT ||
        client->credit == 0 || client->ops->queued(client) >= LIMIT_CLIENT_OUT_BYTES)
        return DELIVER_FULL;
    session_send(subscription, partition, record, &(struct session_origin){.retained = key},
                 frames);
    return DELIVERED;
}
