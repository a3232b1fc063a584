/* SPDX-License-Identifier: Apache-2.0 */
/* What is left of a session when its client goes: its last rows, or none, and then the name for who
 * wants it next. */
#include "core/broker/session.h"
#include "core/broker/will_wait.h"

#include "core/base/heap.h"

enum { NAME_ROW_BYTES = 64 + LIMIT_CLIENT_ID_BYTES };

/* ------------------------------------------------ its name's rows */

static void change_due(struct session_rows *rows, const struct session *session, uint64_t due_ms,
                       enum storage_change change)
{
    uint8_t due[SESSION_DUE_KEY];
    if (due_ms == 0 || due_ms == SESSION_WILL_HELD)
        return;
    session_due_key(due_ms, &session->name, due);
    session_rows_add(rows, change, span_of(due, sizeof due),
                     change == STORAGE_PUT ? span_of("\1", 1) : (struct span){0});
}

void session_put_name(struct session_rows *rows, const struct session *session, int64_t ended_ms)
{
    struct session_name_row row = {
        .session = session->id,
        .expiry_s = session->expiry_s,
        .ended_ms = ended_ms,
        .due_ms = session->due_ms,
        .will_ms = session->will_ms,
        .name = session->text,
    };
    uint8_t key[SESSION_KEY];
    struct buf value;
    buf_init(&value, NAME_ROW_BYTES);
    CHECK(session_name_encode(&row, &value) == STATUS_OK);
    session_key(&session->name, key);
    session_rows_add(rows, STORAGE_PUT, span_of(key, sizeof key), buf_span(&value));
    buf_deinit(&value);
    change_due(rows, session, row.due_ms, STORAGE_PUT);
    change_due(rows, session, row.will_ms, STORAGE_PUT);
}

void session_drop_due(struct session_rows *rows, struct session *session)
{
    change_due(rows, session, session->due_ms, STORAGE_DELETE);
    change_due(rows, session, session->will_ms, STORAGE_DELETE);
    session->due_ms = session->will_ms = 0;
}

void session_hold_filter(struct session *session, uint64_t index)
{
    if (index == 0)
        return;
    if (session->held_count == session->held_capacity) {
        session->held_capacity = session->held_capacity == 0 ? 8 : session->held_capacity * 2;
        session->held = heap_resize(session->held, session->held_capacity * sizeof *session->held);
    }
    session->held[session->held_count++] = index;
}

/* Everything of the session with that id, whose filters are listed, but its name. */
void session_erase(struct session_rows *rows, uint64_t id, const uint64_t *held, uint32_t count)
{
    uint8_t first[SESSION_STATE_KEY], end[SESSION_STATE_KEY], holder[FILTER_HOLDER_KEY];
    session_state_key(id, first);
    session_state_key(id + 1, end);
    session_rows_add(rows, STORAGE_DELETE_RANGE, span_of(first, sizeof first),
                     span_of(end, sizeof end));
    for (uint32_t i = 0; i < count; i++) {
        filter_holder_key(held[i], id, holder);
        session_rows_add(rows, STORAGE_DELETE, span_of(holder, sizeof holder), (struct span){0});
    }
}

/* ------------------------------------------------ its memory */

static void session_free(struct session *session)
{
    session_free_frames(session);
    session_share_free(session);
    buf_deinit(&session->write_value);
    session_blocks_free(session);
    blob_unref(session->will);
    heap_free(session->flights);
    heap_free(session->marks);
    heap_free(session->forget);
    heap_free(session->held);
    heap_free(session->walks_over);
    heap_free((void *)(uintptr_t)session->text.data);
    heap_free(session);
}

static void session_may_go(struct session *session)
{
    if (session->client == NULL && session->claim == NULL && session->calls == 0)
        session_free(session);
}

static void session_let_go(struct session *session)
{
    if (session->claim != NULL)
        name_release(&session->worker->broker->names, session->claim);
    session->claim = NULL;
}

/* ------------------------------------------------ the end */

static void ended(void *context, enum status status, uint64_t commit)
{
    struct session *session = context;
    (void)commit;
    if (status != STATUS_OK)
        atomic_store(&session->worker->broker->ends_missing, true);
    else if (session->will_lost != STATUS_OK)
        will_drop(session->worker, session->text, status_text(session->will_lost));
    session_share_ended(session, status);
    if (session->give_up != NULL)
        request_complete(&session->give_up->request, status);
    session->give_up = NULL;
    session_let_go(session); /* what could not be stored is as it was stored last */
}

/* What was there and never attached is left as it was, but for its time. */
static void write_end(struct session *session)
{
    struct session_rows *rows = session->last_rows;
    uint8_t key[SESSION_STATE_KEY], name[SESSION_KEY];
    session->last_rows = NULL;
    if (rows == NULL)
        rows = session_rows_new(session);
    int64_t now_ms = clock_wall_ms();
    session->ended = true;
    if (session->will_stored && session->will_ms == 0) {
        session_kind_key(session->id, SESSION_KIND_WILL, 0, key);
        session_rows_add(rows, STORAGE_DELETE, span_of(key, sizeof key), (struct span){0});
    }
    if (session->phase == SESSION_ENDING)
        session_share_last(session, rows);
    if (session->expiry_s == 0 && (session->phase == SESSION_ENDING || !session->present)) {
        session_erase(rows, session->id, session->held, session->held_count);
        session_key(&session->name, name);
        session_rows_add(rows, STORAGE_DELETE, span_of(name, sizeof name), (struct span){0});
    } else {
        bool held =
            name_is_held(&session->worker->broker->names, session->name.tenant, session->text);
        if (session->expiry_s != UINT32_MAX && !held)
            session->due_ms = (uint64_t)now_ms + session->expiry_s * 1000ULL;
        session_put_name(rows, session, held ? 0 : now_ms);
    }
    if (session->expiry_s > 0 && session->phase == SESSION_ENDING) {
        session_encode(session, &session->write_value);
        session_kind_key(session->id, SESSION_KIND_POSITION, 0, key);
        session_rows_add(rows, STORAGE_PUT, span_of(key, sizeof key),
                         buf_span(&session->write_value));
        session_blocks_last(session, rows);
    }
    session_rows_send(rows, ended, session);
}

/* Everything that might still change a row has to be back before the name goes on to the next. */
void session_end_go_on(struct session *session)
{
    if (session->client != NULL)
        return;
    bool quiet = !session->writing && !session->willing && session->publishing == 0 &&
                 session->row_writes == 0 && list_is_empty(&session->subscribing);
    if (quiet && session->id == 0)
        session_let_go(session);
    else if (quiet && !session->ended)
        write_end(session);
    session_may_go(session);
}

void session_published(struct session *session)
{
    session->publishing--;
    session_end_go_on(session);
}

void session_detach(struct client *client)
{
    struct session *session = client->session;
    if (session == NULL)
        return;
    struct broker_worker *worker = session->worker;
    bool was_attached = session->phase != SESSION_ATTACHING;
    bool has_begun = was_attached && session->phase != SESSION_ATTACHED;
    if (!has_begun && !session->present && session->share == 0)
        session->expiry_s = 0; /* nobody has been told that there is one */
    if (was_attached && session->id != 0)
        session_handled(session);
    if (was_attached && session->id != 0) {
        session->last_rows = session_rows_new(session);
        session_walk_last(session, session->last_rows);
    }
    client->session = NULL;
    session->client = NULL;
    name_use(session->claim, false);
    session_will_leave(session);
    loop_task_cancel(worker->loop, &session->write_task);
    loop_task_cancel(worker->loop, &session->forget_task);
    loop_timer_stop(worker->loop, &session->save_timer);
    session_read_end(session);
    if (session->attach != NULL) {
        request_complete(&session->attach->request, STATUS_CANCELED);
        session->attach = NULL;
    }
    if (was_attached && session->id != 0) {
        list_each(link, &client->subscriptions)
        {
            session_hold_filter(session, container_of(link, struct subscription, of_client)->index);
        }
        session_share_detach(client, session);
        session->phase = SESSION_ENDING;
    }
    /* Whoever has the name next publishes behind it. */
    if (was_attached && answers_watch(client, session))
        session->publishing++;
    session_end_go_on(session);
}
