/* SPDX-License-Identifier: Apache-2.0 */
/* From a name to its session: attaching a client. */
#include "core/broker/session.h"
#include "core/broker/share.h"
#include "core/broker/will_wait.h"

#include "core/base/heap.h"
#include "core/base/pack.h"
#include "core/base/reader.h"
#include "core/base/rng.h"
#include "core/base/trace.h"
#include "core/log/table.h"

enum { READ_BYTES_FIRST = 4096 };

/* The row of a walk, by hash of its filter. */
struct found_walk {
    uint64_t filter;
    struct session_walk_row row;
};

/* What is read of a stored session. */
struct attaching {
    struct storage_scan scan;
    struct session *session;
    struct session_name_row row; /* name borrowed from the scan: not used after it */
    uint64_t old;                /* id of the session found; 0: none */
    bool anew;                   /* it does not go on: nobody wants it, or its time is over */
    uint8_t name_first[SESSION_KEY], name_end[SESSION_KEY + 1];
    uint8_t first[SESSION_STATE_KEY], end[SESSION_STATE_KEY];
    struct broker_subscribe live;
    struct subscribe_item *items; /* all; live takes some at a time */
    uint32_t live_from;
    struct session_filter_row *filters; /* spans into the blobs */
    uint32_t filter_count;
    struct found_walk *walks;
    uint32_t walk_count;
    struct span will; /* its row; empty: there is none */
    struct will_publish late;
    enum status will_lost; /* why it is never said; OK: it is */
    struct blob **blobs;
    uint32_t blob_count;
    uint64_t *shares; /* that it takes part in */
    uint32_t share_count;
    struct session_return *returns; /* of one that is over */
    uint32_t return_count;
};

/* ------------------------------------------------ its memory */

bool session_back(struct session *session)
{
    session->calls--;
    session->worker->calls--;
    if (session->client != NULL)
        return true;
    session_end_go_on(session);
    return false;
}

/* ------------------------------------------------ attaching */

uint32_t session_expiry_granted(const struct broker *broker, uint32_t asked_s)
{
    uint32_t max_s = broker->options.session_expiry_s;
    return max_s > 0 && asked_s > max_s ? max_s : asked_s;
}

/* What is kept of a share ends with those who take part in it, not by time. */
static uint32_t expiry_granted(const struct session *session, uint32_t asked_s)
{
    return session->share != 0 ? asked_s : session_expiry_granted(session->worker->broker, asked_s);
}

static void attached(struct session *session, enum status status)
{
    struct broker_attach *attach = session->attach;
    session->attach = NULL;
    attach->present = session->present;
    attach->granted_s = session->id == 0 ? 0 : session->expiry_s;
    if (status == STATUS_OK) {
        session->phase = SESSION_ATTACHED;
        session_will_hold(session);
    }
    request_complete(&attach->request, status);
    if (status != STATUS_OK && session->client != NULL)
        session_detach(session->client);
}

static void attaching_free(struct attaching *attaching)
{
    for (uint32_t i = 0; attaching->items != NULL && i < attaching->filter_count; i++)
        selector_unref(attaching->items[i].selector);
    for (uint32_t i = 0; i < attaching->blob_count; i++)
        blob_unref(attaching->blobs[i]);
    heap_free(attaching->blobs);
    heap_free(attaching->filters);
    heap_free(attaching->walks);
    heap_free(attaching->items);
    heap_free(attaching->shares);
    heap_free(attaching->returns);
    heap_free(attaching);
}

/* False: the client has gone meanwhile, and everything of the attempt with it. */
static bool goes_on(struct attaching *attaching)
{
    struct session *session = attaching->session;
    if (session_back(session))
        return true;
    attaching_free(attaching);
    return false;
}

static void attach_end(struct attaching *attaching, enum status status)
{
    struct session *session = attaching->session;
    attaching_free(attaching);
    attached(session, status);
}

static void subscribe_some(struct attaching *attaching);

/* It stands until what was in flight is out again. */
static void walk_again(const struct attaching *attaching, struct subscription *subscription,
                       struct span filter)
{
    uint64_t hash = hash_stable(filter);
    for (uint32_t i = 0; i < attaching->walk_count; i++)
        if (attaching->walks[i].filter == hash)
            retained_walk_keep(retained_walk_new(subscription), attaching->walks[i].row.upto,
                               attaching->walks[i].row.place);
}

static void live_again(struct request *request, enum status status)
{
    struct attaching *attaching = container_of(request, struct attaching, live.request);
    struct session *session = attaching->session;
    (void)status;
    if (!goes_on(attaching))
        return;
    for (uint32_t i = 0; i < attaching->live.count; i++) {
        if (attaching->live.items[i].status == STATUS_SHUTTING_DOWN) {
            attach_end(attaching, STATUS_SHUTTING_DOWN);
            return;
        }
        const struct session_filter_row *row = &attaching->filters[attaching->live_from + i];
        struct subscription *subscription = attaching->live.items[i].status == STATUS_OK
                                                ? subscription_of(session->client, row->filter)
                                                : NULL;
        if (subscription == NULL) {
            session_hold_filter(session, row->index);
            continue;
        }
        subscription->index = row->index;
        subscription->since = row->since;
        walk_again(attaching, subscription, row->filter);
    }
    attaching->live_from += attaching->live.count;
    if (attaching->live_from < attaching->filter_count)
        subscribe_some(attaching);
    else
        attach_end(attaching, STATUS_OK);
}

static void subscribe_some(struct attaching *attaching)
{
    struct session *session = attaching->session;
    uint32_t left = attaching->filter_count - attaching->live_from;
    attaching->live = (struct broker_subscribe){
        .client = session->client,
        .items = attaching->items + attaching->live_from,
        .count = left < LIMIT_FILTERS_PER_CALL ? left : LIMIT_FILTERS_PER_CALL,
    };
    session_call(session);
    request_init(&attaching->live.request, session->worker->loop, live_again);
    subscribe_live(&attaching->live);
}

/* Does a filter that is still allowed have the same index rows? */
static bool index_is_needed(const struct attaching *attaching, uint64_t index)
{
    const struct client *client = attaching->session->client;
    for (uint32_t i = 0; i < attaching->filter_count; i++) {
        const struct session_filter_row *row = &attaching->filters[i];
        if (row->index == index &&
            broker_check(client, ACTION_CONSUME, true, row->filter) == STATUS_OK)
            return true;
    }
    return false;
}

/* Rights are looked at once more: what is not allowed any longer is not kept either. */
static void drop_denied(struct attaching *attaching)
{
    struct session *session = attaching->session;
    struct session_rows *rows = NULL;
    for (uint32_t i = 0; i < attaching->filter_count; i++) {
        const struct session_filter_row *row = &attaching->filters[i];
        uint8_t key[SESSION_STATE_KEY], holder[FILTER_HOLDER_KEY];
        if (broker_check(session->client, ACTION_CONSUME, true, row->filter) == STATUS_OK)
            continue;
        if (rows == NULL)
            rows = session_rows_new(session);
        session_kind_key(session->id, SESSION_KIND_FILTER, hash_stable(row->filter), key);
        session_rows_add(rows, STORAGE_DELETE, span_of(key, sizeof key), (struct span){0});
        session_walk_forget(rows, session, row->filter);
        if (index_is_needed(attaching, row->index))
            continue;
        filter_holder_key(row->index, session->id, holder);
        session_rows_add(rows, STORAGE_DELETE, span_of(holder, sizeof holder), (struct span){0});
    }
    if (rows != NULL)
        session_rows_send(rows, NULL, NULL);
}

static void subscribe_again(struct attaching *attaching)
{
    uint32_t count = attaching->filter_count;
    drop_denied(attaching);
    attaching->items = heap_array(count + 1, sizeof *attaching->items);
    for (uint32_t i = 0; i < count; i++) {
        const struct session_filter_row *row = &attaching->filters[i];
        attaching->items[i] = (struct subscribe_item){
            .filter = row->filter,
            .guarantee = row->guarantee,
            .identifier = row->identifier,
            .no_local = row->no_local,
            .retain_as_published = row->retain_as_published,
            .retained = RETAINED_NEVER,
        };
        if (row->selector.size == 0)
            continue;
        enum status status = selector_compile(row->selector, &attaching->items[i].selector, NULL);
        if (status != STATUS_OK) {
            attach_end(attaching, STATUS_CORRUPT);
            return;
        }
    }
    subscribe_some(attaching);
}

/* ------------------------------------------------ its first row */

static void created(void *context, enum status status, uint64_t commit)
{
    struct attaching *attaching = context;
    struct session *session = attaching->session;
    (void)commit;
    if (status == STATUS_OK)
        atomic_store(&session->worker->broker->sessions_kept, true);
    else if (!session->present)
        session->id = 0; /* it has not become this one's name */
    if (status == STATUS_OK)
        share_returned_post(session->worker->broker, attaching->returns, attaching->return_count);
    if (status == STATUS_OK && attaching->will_lost != STATUS_OK) /* its row went with this */
        will_drop(session->worker, session->text, status_text(attaching->will_lost));
    if (!goes_on(attaching))
        return;
    if (status != STATUS_OK || !session->present)
        attach_end(attaching, status);
    else
        subscribe_again(attaching);
}

static uint64_t id_new(void)
{
    return rng_u64() >> 1 | 1;
}

/* The first session brings the key of filters' ids, which also says that there are sessions. */
static void put_shapes(struct session_rows *rows, struct broker *broker)
{
    if (atomic_load(&broker->sessions_kept))
        return;
    struct storage_row shapes[LIMIT_FILTER_SHAPES + 1];
    uint8_t *memory;
    uint32_t count = filter_shapes_rows(&broker->shapes, 0, shapes, &memory);
    for (uint32_t i = 0; i < count; i++)
        session_rows_add(rows, STORAGE_PUT, shapes[i].key, shapes[i].value);
    heap_free(memory);
}

/* Another one begins under its name. */
static void erase_old(struct attaching *attaching, struct session_rows *rows)
{
    uint64_t *held = heap_array(attaching->filter_count + 1, sizeof *held);
    for (uint32_t i = 0; i < attaching->filter_count; i++)
        held[i] = attaching->filters[i].index;
    session_returns_add(rows, attaching->session->name.tenant, attaching->old, attaching->returns,
                        attaching->return_count);
    for (uint32_t i = 0; i < attaching->share_count; i++)
        session_share_erase(rows, attaching->session->name.tenant, attaching->old,
                            attaching->shares[i]);
    session_erase(rows, attaching->old, held, attaching->filter_count);
    heap_free(held);
}

static void begin_stored(struct attaching *attaching);

static void left_without_will(void *context, enum status status, uint64_t commit)
{
    struct session *session = context;
    (void)commit;
    if (status == STATUS_OK && session->will_lost != STATUS_OK)
        will_drop(session->worker, session->text, status_text(session->will_lost));
}

/* The client has gone, and the session stays as it was, but for its will. */
static void without_will(struct attaching *attaching, enum status lost)
{
    struct session *session = attaching->session;
    struct session_rows *rows = session_rows_new(session);
    session->will_lost = lost;
    uint8_t key[SESSION_STATE_KEY];
    session_kind_key(attaching->old, SESSION_KIND_WILL, 0, key);
    session_rows_add(rows, STORAGE_DELETE, span_of(key, sizeof key), (struct span){0});
    session->id = attaching->old;
    session->expiry_s = attaching->row.expiry_s;
    session->due_ms = attaching->row.due_ms;
    session->will_ms = 0; /* its due row is found to be left behind */
    session_put_name(rows, session, attaching->row.ended_ms);
    session->id = 0; /* nothing else of it is ours */
    session_rows_send(rows, left_without_will, session);
}

static void late_published(struct request *request, enum status status)
{
    struct attaching *attaching = container_of(request, struct attaching, late.request);
    attaching->session->willing = false;
    if (attaching->session->client == NULL && !will_waits(status))
        without_will(attaching, status);
    if (!goes_on(attaching))
        return;
    /* Rows may still find room where records do not: a will does not keep its client out. */
    bool no_room = status == STATUS_NO_SPACE;
    if (no_room || !will_waits(status))
        attaching->will_lost = status;
    if (will_waits(status) && !no_room)
        attach_end(attaching, status); /* its row stays */
    else
        begin_stored(attaching);
}

/* What was found has been read: the session goes on, or a new one begins, or none is kept. */
static void begin(struct attaching *attaching)
{
    struct session *session = attaching->session;
    session->present = attaching->old != 0 && !attaching->anew;
    if (attaching->old == 0 ||
        !session_will_is_late(session, attaching->row.will_ms, attaching->will)) {
        begin_stored(attaching);
        return;
    }
    attaching->late = (struct will_publish){
        .say = {.worker = session->worker,
                .tenant = session->name.tenant,
                .client_id = session->text,
                .row = attaching->will},
        .has_row = true,
    };
    session->willing = true;
    session_call(session);
    request_init(&attaching->late.request, session->worker->loop, late_published);
    will_publish(&attaching->late);
}

static void begin_stored(struct attaching *attaching)
{
    struct session *session = attaching->session;
    bool found = attaching->old != 0;
    session->attach->earlier_s = attaching->row.expiry_s;
    if (session->present && session->attach->only_present)
        session->expiry_s = expiry_granted(session, attaching->row.expiry_s);
    if (!found && session->expiry_s == 0) {
        /* After a failed sync, which is final, nobody is let in any more: those who are to be kept
         * cannot be stored, and that there is none of this name may never have been, so that the
         * next start finds it again. */
        bool unknown = broker_storage_health(session->worker) == STATUS_STORAGE_FAILED;
        attach_end(attaching, unknown ? STATUS_STORAGE_FAILED : STATUS_OK);
        return;
    }
    struct session_rows *rows = session_rows_new(session);
    if (found) {
        session->due_ms = attaching->row.due_ms;
        session->will_ms = attaching->row.will_ms;
    }
    session_drop_due(rows, session);
    if (found && !session->present)
        erase_old(attaching, rows);
    if (session->present || session->expiry_s > 0) {
        session->id = session->present ? attaching->old : id_new();
        for (uint32_t i = 0; session->present && i < attaching->share_count; i++)
            session_share_join(session, NULL, attaching->shares[i]);
        session_will_put(rows, session);
        session_put_name(rows, session, 0);
        put_shapes(rows, session->worker->broker);
    } else {
        uint8_t key[SESSION_KEY];
        session_key(&session->name, key);
        session_rows_add(rows, STORAGE_DELETE, span_of(key, sizeof key), (struct span){0});
    }
    session_call(session);
    session_rows_send(rows, created, attaching);
}

/* ------------------------------------------------ reading what there is */

static enum status load_position(struct attaching *attaching, struct span value)
{
    struct session *session = attaching->session;
    struct session_position position;
    struct session_mark mark;
    enum status status = session_position_decode(
        value, session->share == 0 ? LIMIT_CLIENT_CREDIT : LIMIT_SHARE_FLIGHTS, &position);
    if (attaching->anew) { /* what cannot be read goes nevertheless */
        if (status == STATUS_OK)
            session_returns_load(&position, &attaching->returns, &attaching->return_count);
        return STATUS_OK;
    }
    if (status != STATUS_OK)
        return status;
    session->position = position.position;
    session->marks = heap_array(position.mark_count + 1, sizeof *session->marks);
    session->mark_capacity = position.mark_count + 1;
    while (session_mark_next(&position, &mark))
        session->marks[session->mark_count++] = mark;
    struct session_position flights = position;
    struct session_flight flight;
    status = session_flights_load(session, &position);
    while (status == STATUS_OK && session_flight_next(&flights, &flight))
        session_flight_changed(session,
                               &session->flights[flight.number]); /* the next write moves it */
    return status;
}

static enum status load_walk(struct attaching *attaching, uint64_t filter, struct span value)
{
    if (attaching->walk_count % 16 == 0)
        attaching->walks =
            heap_resize(attaching->walks, (attaching->walk_count + 16) * sizeof *attaching->walks);
    struct found_walk *walk = &attaching->walks[attaching->walk_count];
    walk->filter = filter;
    enum status status = session_walk_decode(value, &walk->row);
    attaching->walk_count += status == STATUS_OK && walk->row.upto > 0;
    return status;
}

static enum status load_row(struct attaching *attaching, struct span key, struct span value)
{
    struct session *session = attaching->session;
    struct broker_attach *attach = session->attach;
    if (key.size != SESSION_STATE_KEY)
        return STATUS_CORRUPT;
    switch (key.data[9]) {
    case SESSION_KIND_FILTER: {
        if (attaching->filter_count % 16 == 0)
            attaching->filters = heap_resize(attaching->filters, (attaching->filter_count + 16) *
                                                                     sizeof *attaching->filters);
        return session_filter_decode(value, &attaching->filters[attaching->filter_count++]);
    }
    case SESSION_KIND_WILL:
        attaching->will = value;
        return STATUS_OK;
    case SESSION_KIND_NOTE:
        return attaching->anew ? STATUS_OK : session_note_load(value, &attach->notes);
    case SESSION_KIND_POSITION:
        return load_position(attaching, value);
    case SESSION_KIND_BLOCK:
        return attaching->anew ? STATUS_OK
                               : session_block_load(session, load_u64(key.data + 10), value);
    case SESSION_KIND_SHARE:
        if (attaching->share_count % 16 == 0)
            attaching->shares = heap_resize(attaching->shares, (attaching->share_count + 16) *
                                                                   sizeof *attaching->shares);
        attaching->shares[attaching->share_count++] = load_u64(key.data + 10);
        return STATUS_OK;
    case SESSION_KIND_RECEIVED:
        if (attaching->anew)
            return STATUS_OK;
        if (attach->received_count % 16 == 0)
            attach->received = heap_resize(attach->received, (attach->received_count + 16) *
                                                                 sizeof *attach->received);
        attach->received[attach->received_count++] = (uint32_t)load_u64(key.data + 10);
        return STATUS_OK;
    case SESSION_KIND_WALK:
        return attaching->anew ? STATUS_OK : load_walk(attaching, load_u64(key.data + 10), value);
    default:
        return STATUS_CORRUPT;
    }
}

static void scan_state(struct attaching *attaching);

static void state_scanned(struct request *request, enum status status)
{
    struct attaching *attaching = container_of(request, struct attaching, scan.request);
    if (status == STATUS_OK) {
        attaching->blobs =
            heap_resize(attaching->blobs, (attaching->blob_count + 1) * sizeof *attaching->blobs);
        attaching->blobs[attaching->blob_count++] = attaching->scan.rows;
    }
    if (!goes_on(attaching))
        return;
    struct span key, value;
    for (size_t at = 0;
         status == STATUS_OK && storage_scan_next(&attaching->scan, &at, &key, &value);) {
        status = load_row(attaching, key, value);
        memcpy(attaching->first, key.data,
               key.size < SESSION_STATE_KEY ? key.size : SESSION_STATE_KEY);
    }
    if (status != STATUS_OK) {
        trace(TRACE_ERROR, "session %llx cannot be read: %s", (unsigned long long)attaching->old,
              status_text(status));
        attach_end(attaching, status);
    } else if (attaching->scan.more) {
        store_u64(attaching->first + 10, load_u64(attaching->first + 10) + 1);
        scan_state(attaching);
    } else {
        session_flights_loaded(attaching->session);
        begin(attaching);
    }
}

static void scan_state(struct attaching *attaching)
{
    session_call(attaching->session);
    attaching->scan = (struct storage_scan){
        .first = span_of(attaching->first, SESSION_STATE_KEY),
        .end = span_of(attaching->end, SESSION_STATE_KEY),
    };
    request_init(&attaching->scan.request, attaching->session->worker->loop, state_scanned);
    log_rows_scan(attaching->session->worker->broker->log, &attaching->scan);
}

static void name_scanned(struct request *request, enum status status)
{
    struct attaching *attaching = container_of(request, struct attaching, scan.request);
    struct session *session = attaching->session;
    struct blob *rows = status == STATUS_OK ? attaching->scan.rows : NULL;
    struct span key, value;
    size_t at = 0;
    bool found = rows != NULL && storage_scan_next(&attaching->scan, &at, &key, &value);
    if (found)
        status = session_name_decode(value, &attaching->row);
    if (found && status == STATUS_OK && !span_equal(attaching->row.name, session->text))
        status = STATUS_INTERNAL; /* another name of the same hash */
    attaching->row.name = (struct span){0};
    blob_unref(rows);
    if (!goes_on(attaching))
        return;
    if (status != STATUS_OK) {
        attach_end(attaching, status);
    } else if (!found) {
        begin(attaching);
    } else {
        uint64_t due_ms = attaching->row.due_ms;
        attaching->old = attaching->row.session;
        attaching->anew |= due_ms != 0 && due_ms <= (uint64_t)clock_wall_ms();
        session_state_key(attaching->old, attaching->first);
        session_state_key(attaching->old + 1, attaching->end);
        scan_state(attaching);
    }
}

/* The name is ours. */
static void granted(void *owner)
{
    struct session *session = owner;
    struct broker *broker = session->worker->broker;
    struct attaching *attaching = heap_new(sizeof *attaching);
    attaching->session = session;
    attaching->anew = session->attach->clean;
    if (!atomic_load(&broker->sessions_kept)) {
        begin(attaching); /* there are none */
        return;
    }
    session_call(session);
    session_key(&session->name, attaching->name_first);
    session_key(&session->name, attaching->name_end); /* and a zero: the next key there is */
    attaching->scan = (struct storage_scan){
        .first = span_of(attaching->name_first, SESSION_KEY),
        .end = span_of(attaching->name_end, SESSION_KEY + 1),
        .limit = 1,
    };
    request_init(&attaching->scan.request, session->worker->loop, name_scanned);
    log_rows_scan(broker->log, &attaching->scan);
}

/* Somebody else wants the name. */
static void replaced(void *owner)
{
    struct session *session = owner;
    struct client *client = session->client;
    if (client == NULL)
        return;
    session_call(session); /* an end may close the client */
    client->ops->end(client, STATUS_STALE);
    if (session->client == client)
        session_detach(client);
    session_back(session);
}

void broker_attach(struct broker_attach *attach)
{
    struct client *client = attach->client;
    struct broker_worker *worker = client->worker;
    CHECK(loop_is_home(worker->loop));
    CHECK(client->open && client->session == NULL);
    struct span name = attach->name.size > 0 ? attach->name : client->id;
    attach->received = NULL;
    attach->received_count = 0;
    buf_init(&attach->notes, (size_t)LIMIT_SUBSCRIPTIONS * LIMIT_NOTE_BYTES);
    if (attach->yields && name_is_in_use(&worker->broker->names, client->tenant, name)) {
        request_complete(&attach->request, STATUS_EXISTS);
        return;
    }
    struct session *session = heap_new(sizeof *session);
    session->worker = worker;
    session->client = client;
    session->attach = attach;
    session->yields = attach->yields;
    session->share = share_is_reader(client) ? share_of_name(name) : 0;
    session->expiry_s = attach->only_present ? 0 : expiry_granted(session, attach->expiry_s);
    session_will_take(session, attach->will);
    session->text = span_of(heap_text((const char *)name.data, name.size), name.size);
    session->name = session_name_of(client->tenant, name);
    session->read_bytes = READ_BYTES_FIRST;
    list_init(&session->subscribing);
    list_init(&session->waiting_units);
    session_write_init(session);
    client->session = session;
    session->claim = name_claim(&worker->broker->names, worker->loop, client->tenant, session->text,
                                session, granted, replaced);
}

void session_keep(struct session *session,
                  void (*done)(void *context, enum status status, uint64_t commit), void *context)
{
    struct session_rows *rows = session_rows_new(session);
    session->id = id_new();
    session->expiry_s = UINT32_MAX;
    session_share_clear(rows, session->share); /* of its last life */
    session_put_name(rows, session, 0);
    put_shapes(rows, session->worker->broker);
    session_rows_send(rows, done, context);
}

void broker_session_begin(struct client *client)
{
    struct session *session = client->session;
    if (session == NULL)
        return;
    CHECK(session->phase == SESSION_ATTACHED);
    session_shares_sort_out(session);
    if (!session->yields)
        name_use(session->claim, true);
    session->phase = SESSION_RESENDING;
    session->armed = true;
    session->returning = session->present;
    session_go_on(session);
}

void broker_session_expiry(struct client *client, uint32_t expiry_s)
{
    if (session_is_kept(client))
        client->session->expiry_s = expiry_granted(client->session, expiry_s);
}

void broker_give_up(struct broker_give_up *give_up)
{
    struct client *client = give_up->client;
    if (!session_is_kept(client)) {
        request_complete(&give_up->request, STATUS_OK);
        return;
    }
    client->session->expiry_s = 0;
    client->session->give_up = give_up;
}

bool broker_session_is_kept(const struct client *client)
{
    return session_is_kept(client);
}
