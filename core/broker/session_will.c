/* SPDX-License-Identifier: Apache-2.0 */
/* The will of a session: its row, and what becomes of it when the client goes. */
#include "core/broker/deduped.h"
#include "core/broker/session.h"
#include "core/broker/will_wait.h"

#include "core/base/heap.h"
#include "core/base/pack.h"
#include "core/base/rng.h"

/* An id that no client can give a will: theirs are text. */
enum { WILL_ID = 1 + 16 };

static struct span id_make(uint8_t id[WILL_ID])
{
    id[0] = 0;
    store_u64(id + 1, rng_u64());
    store_u64(id + 9, rng_u64());
    return span_of(id, WILL_ID);
}

void session_will_take(struct session *session, const struct broker_will *will)
{
    const struct principal *principal = session->client->principal;
    uint8_t id[WILL_ID];
    if (will == NULL)
        return;
    struct broker_will named = *will;
    struct publish *publish = &named.publish;
    if (session->expiry_s > 0 && !publish_is_deduped(publish))
        publish->dedup_id = id_make(id);
    session->will =
        will_encode(principal == NULL ? (struct span){0} : span_from_text(principal->name), &named);
}

/* The row of the will: that of the client that comes, if its session is kept. */
void session_will_put(struct session_rows *rows, struct session *session)
{
    uint8_t key[SESSION_STATE_KEY];
    session_kind_key(session->id, SESSION_KIND_WILL, 0, key);
    if (session->will != NULL)
        session_rows_add(rows, STORAGE_PUT, span_of(key, sizeof key), blob_span(session->will));
    else if (session->present)
        session_rows_add(rows, STORAGE_DELETE, span_of(key, sizeof key), (struct span){0});
    session->will_stored = session->will != NULL;
    session->will_ms = session->will != NULL ? SESSION_WILL_HELD : 0;
}

bool session_will_is_late(const struct session *session, uint64_t will_ms, struct span row)
{
    uint32_t delay_s;
    if (will_ms == 0 || !will_delay(row, &delay_s))
        return false;
    return !session->present || delay_s == 0 ||
           (will_ms != SESSION_WILL_HELD && will_ms <= (uint64_t)clock_wall_ms());
}

void broker_will_drop(struct client *client)
{
    if (client->session != NULL)
        client->session->armed = false;
}

void session_will_hold(struct session *session)
{
    if (session->will != NULL && session->id == 0)
        session->held_will = will_hold(session->worker, session->name.tenant, session->text,
                                       blob_span(session->will));
}

static void let_go(struct session *session)
{
    will_let_go(session->worker, session->held_will);
    session->held_will = NULL;
}

struct leaving {
    struct will_publish publish;
    struct session *session;
};

/* One that waits with its session is due at once. */
static void left(struct request *request, enum status status)
{
    struct leaving *leaving = container_of(request, struct leaving, publish.request);
    struct session *session = leaving->session;
    session->willing = false;
    if (will_waits(status) && leaving->publish.has_row)
        session->will_ms = (uint64_t)clock_wall_ms();
    else if (leaving->publish.has_row)
        session->will_lost = status;
    let_go(session);
    heap_free(leaving);
    session_back(session);
}

/* Of a client that has gone: now, or its row becomes due when the session does not go on. */
void session_will_leave(struct session *session)
{
    uint32_t delay_s = 0;
    session->will_ms = 0;
    if (session->will == NULL || !session->armed) {
        let_go(session);
        return;
    }
    will_delay(blob_span(session->will), &delay_s);
    if (session->id == 0)
        delay_s = 0;
    else if (delay_s > session->expiry_s)
        delay_s = session->expiry_s;
    if (delay_s > 0) {
        session->will_ms = (uint64_t)clock_wall_ms() + delay_s * 1000ULL;
        return;
    }
    struct leaving *leaving = heap_new(sizeof *leaving);
    leaving->session = session;
    leaving->publish = (struct will_publish){
        .say = {.worker = session->worker,
                .tenant = session->name.tenant,
                .client_id = session->text,
                .row = blob_span(session->will)},
        .has_row = session->id != 0 && session->expiry_s > 0,
    };
    session->willing = true;
    session_call(session);
    request_init(&leaving->publish.request, session->worker->loop, left);
    will_publish(&leaving->publish);
}
