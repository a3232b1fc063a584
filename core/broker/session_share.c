/* SPDX-License-Identifier: Apache-2.0 */
/* Sessions and shares. What a share gives to a client whose session is kept becomes the session's:
 * its flight and the row that takes the record out of the share (share_rows.h) are one write, and
 * when the session is over its records go back by another. A share's own session deletes those rows
 * when its position says the same without them. */
#include "core/broker/session.h"
#include "core/broker/share.h"

#include <stdlib.h>

#include "core/base/heap.h"
#include "core/base/pack.h"

static void lease_add(struct session *session, struct share_seat *seat, uint32_t lease,
                      uint32_t number)
{
    if (session->handed_count == session->handed_capacity) {
        session->handed_capacity = session->handed_capacity == 0 ? 8 : session->handed_capacity * 2;
        session->handed =
            heap_resize(session->handed, session->handed_capacity * sizeof *session->handed);
    }
    session->handed[session->handed_count++] =
        (struct session_lease){.seat = seat, .lease = lease, .number = number};
}

/* ------------------------------------------------ with the row of position and flights */

/* A row behind the others, its key too. */
static void aside_add(struct session *session, enum storage_change change, enum share_kind kind,
                      uint64_t share, uint64_t partition, uint64_t offset)
{
    struct storage_row *row = &session->aside[session->aside_count++];
    uint8_t *key = (uint8_t *)(uintptr_t)row->key.data;
    share_row_key(share, kind, partition, offset, key);
    row->change = change;
    row->value = change == STORAGE_PUT ? span_of("\1", 1) : (struct span){0};
    row->offset_at = -1;
}

/* The rows of the write so far, with room for that many and their keys, in one piece of memory. */
static void aside_new(struct session *session, uint32_t count)
{
    uint32_t before = session->write.row_count;
    session->aside =
        heap_new((before + count) * sizeof *session->aside + (size_t)count * SHARE_ROW_KEY);
    uint8_t *keys = (uint8_t *)(session->aside + before + count);
    memcpy(session->aside, session->write.rows, before * sizeof *session->aside);
    for (uint32_t i = 0; i < count; i++)
        session->aside[before + i].key = span_of(keys + (size_t)i * SHARE_ROW_KEY, SHARE_ROW_KEY);
    session->aside_count = before;
}

void session_superfluous(struct session *session, const struct share_ref *ref)
{
    if (session->superfluous_count == session->superfluous_capacity) {
        session->superfluous_capacity =
            session->superfluous_capacity == 0 ? 16 : session->superfluous_capacity * 2;
        session->superfluous = heap_resize(session->superfluous, session->superfluous_capacity *
                                                                     sizeof *session->superfluous);
    }
    session->superfluous[session->superfluous_count++] = *ref;
    session_touch(session);
}

/* Records that were given back and are out again, sorted; NULL: none are. */
static struct share_ref *out_again(const struct session *session, uint32_t *count)
{
    struct share_ref *refs = NULL;
    for (uint32_t i = session->again_out == 0 ? 0 : session->flights[0].next; i != 0;
         i = session->flights[i].next) {
        const struct flight *flight = &session->flights[i];
        if (!flight->returned)
            continue;
        if (*count % 64 == 0)
            refs = heap_resize(refs, (*count + 64) * sizeof *refs);
        refs[(*count)++] =
            (struct share_ref){.partition = flight->at.partition, .offset = flight->at.offset};
    }
    if (refs != NULL)
        qsort(refs, *count, sizeof *refs, share_ref_compare);
    return refs;
}

/* Those that can go now come first; returns how many. The row that says that a session has a record
 * stays while the record is out again: the session of the member that has it now may have written
 * the same row, and as long as the record is in flight here nothing else says whose it is. */
static uint32_t superfluous_now(struct session *session)
{
    uint32_t out_count = 0, now = 0;
    struct share_ref *out = out_again(session, &out_count);
    for (uint32_t i = 0; i < session->superfluous_count; i++) {
        struct share_ref ref = session->superfluous[i];
        if (out != NULL && !ref.returned &&
            bsearch(&ref, out, out_count, sizeof *out, share_ref_compare) != NULL)
            continue;
        session->superfluous[i] = session->superfluous[now];
        session->superfluous[now++] = ref;
    }
    heap_free(out);
    return now;
}

static void superfluous_begin(struct session *session)
{
    uint32_t count = session->superfluous_writing = superfluous_now(session);
    if (count == 0)
        return;
    aside_new(session, count);
    for (uint32_t i = 0; i < count; i++) {
        const struct share_ref *ref = &session->superfluous[i];
        aside_add(session, STORAGE_DELETE, ref->returned ? SHARE_KIND_RETURNED : SHARE_KIND_GONE,
                  session->share, ref->partition, ref->offset);
    }
}

static void take_over(struct session *session)
{
    uint32_t count = 0;
    for (uint32_t i = session->in_flight == 0 ? 0 : session->flights[0].next; i != 0;
         i = session->flights[i].next)
        count += session->flights[i].seat != NULL;
    if (count == 0)
        return;
    aside_new(session, count * 2);
    for (uint32_t i = session->flights[0].next; i != 0; i = session->flights[i].next) {
        struct flight *flight = &session->flights[i];
        const struct session_flight *at = &flight->at;
        if (flight->seat == NULL)
            continue;
        flight->handing = true;
        lease_add(session, flight->seat, flight->lease, i);
        aside_add(session, STORAGE_PUT, SHARE_KIND_GONE, at->share, at->partition, at->offset);
        if (share_lease_is_returned(flight->seat, flight->lease))
            aside_add(session, STORAGE_DELETE, SHARE_KIND_RETURNED, at->share, at->partition,
                      at->offset);
    }
}

void session_aside_begin(struct session *session)
{
    if (session->share != 0)
        superfluous_begin(session);
    else
        take_over(session);
    if (session->aside == NULL)
        return;
    session->write.rows = session->aside;
    session->write.row_count = session->aside_count;
}

static void superfluous_end(struct session *session, enum status status)
{
    uint32_t written = status == STATUS_OK ? session->superfluous_writing : 0;
    session->superfluous_count -= written;
    session->superfluous_writing = 0;
    if (written > 0 && session->superfluous_count > 0)
        memmove(session->superfluous, session->superfluous + written,
                session->superfluous_count * sizeof *session->superfluous);
}

/* Was the flight settled meanwhile? Its lease is in use until it ends here. */
static bool was_left(const struct session *session, const struct session_lease *handed)
{
    const struct flight *flight = &session->flights[handed->number];
    return flight->seat != handed->seat || flight->lease != handed->lease;
}

void session_aside_end(struct session *session, enum status status)
{
    heap_free(session->aside);
    session->aside = NULL;
    superfluous_end(session, status);
    uint32_t count = session->handed_count;
    struct session_lease *all = session->handed;
    session->handed = NULL;
    session->handed_count = session->handed_capacity = 0;
    for (uint32_t i = 0; i < count; i++) {
        bool left = was_left(session, &all[i]);
        if (!left) {
            struct flight *flight = &session->flights[all[i].number];
            flight->handing = false;
            if (status == STATUS_OK)
                flight->seat = NULL;
        }
        if (left || status == STATUS_OK)
            share_lease_end(all[i].seat, all[i].lease, status == STATUS_OK);
    }
    heap_free(all);
    /* The client may have settled all of it before, and then says nothing more. */
    if (count > 0 && session->client != NULL)
        share_seats_go_on(session->client);
}

void session_flight_left(struct session *session, struct flight *flight)
{
    (void)session;
    if (!flight->handing) /* else its row may be there in a moment, and somebody must delete it */
        share_lease_end(flight->seat, flight->lease, false);
}

/* ------------------------------------------------ who takes part */

bool session_share_is_in(const struct session *session, uint64_t share)
{
    for (uint32_t i = 0; i < session->share_count; i++)
        if (session->shares[i] == share)
            return true;
    return false;
}

void session_share_join(struct session *session, struct session_rows *rows, uint64_t share)
{
    uint8_t own[SESSION_STATE_KEY], member[SHARE_ROW_KEY];
    if (!session_share_is_in(session, share)) {
        if (session->share_count == session->share_capacity) {
            session->share_capacity =
                session->share_capacity == 0 ? 4 : session->share_capacity * 2;
            session->shares =
                heap_resize(session->shares, session->share_capacity * sizeof *session->shares);
        }
        session->shares[session->share_count++] = share;
    }
    if (rows == NULL)
        return;
    session_kind_key(session->id, SESSION_KIND_SHARE, share, own);
    session_rows_add(rows, STORAGE_PUT, span_of(own, sizeof own), span_of("\1", 1));
    share_member_key(share, session->id, member);
    session_rows_add(rows, STORAGE_PUT, span_of(member, sizeof member), span_of("\1", 1));
}

void session_share_forget(struct session *session, uint64_t share)
{
    for (uint32_t i = 0; i < session->share_count; i++)
        if (session->shares[i] == share)
            session->shares[i--] = session->shares[--session->share_count];
}

void session_share_leave(struct session *session, struct session_rows *rows, uint64_t share)
{
    session_share_forget(session, share);
    session_share_erase(rows, session->name.tenant, session->id, share);
}

struct leaving {
    struct session *session;
    uint32_t count;
    uint64_t shares[];
};

static void left(void *context, enum status status, uint64_t commit)
{
    struct leaving *leaving = context;
    (void)commit;
    session_shares_left(leaving->session, leaving->shares, leaving->count, status);
    heap_free(leaving);
}

void session_shares_left(struct session *session, const uint64_t *shares, uint32_t count,
                         enum status status)
{
    for (uint32_t i = 0; i < count && status != STATUS_OK; i++)
        session_share_join(session, NULL, shares[i]);
}

void session_shares_leave(struct session *session, const uint64_t *shares, uint32_t count)
{
    if (count == 0)
        return;
    struct session_rows *rows = session_rows_new(session);
    struct leaving *leaving = heap_new(sizeof *leaving + count * sizeof *shares);
    leaving->session = session;
    leaving->count = count;
    memcpy(leaving->shares, shares, count * sizeof *shares);
    for (uint32_t i = 0; i < count; i++)
        session_share_leave(session, rows, leaving->shares[i]);
    session_rows_send(rows, left, leaving);
}

void session_shares_sort_out(struct session *session)
{
    uint64_t *shares = heap_array(session->share_count + 1, sizeof *shares);
    uint32_t count = 0;
    for (uint32_t i = 0; i < session->share_count; i++)
        if (!share_has_seat(session->client, session->shares[i]))
            shares[count++] = session->shares[i];
    session_shares_leave(session, shares, count);
    heap_free(shares);
}

/* The sweep looks whether anybody is left. */
static void put_due(struct session_rows *rows, uint64_t tenant, uint64_t session, uint64_t share)
{
    uint8_t due[SESSION_DUE_KEY], value[SHARE_DUE];
    share_due_key(tenant, share, session, due);
    share_due_value(share, value);
    session_rows_add(rows, STORAGE_PUT, span_of(due, sizeof due), span_of(value, sizeof value));
}

void session_share_erase(struct session_rows *rows, uint64_t tenant, uint64_t session,
                         uint64_t share)
{
    uint8_t own[SESSION_STATE_KEY], member[SHARE_ROW_KEY];
    session_kind_key(session, SESSION_KIND_SHARE, share, own);
    session_rows_add(rows, STORAGE_DELETE, span_of(own, sizeof own), (struct span){0});
    share_member_key(share, session, member);
    session_rows_add(rows, STORAGE_DELETE, span_of(member, sizeof member), (struct span){0});
    put_due(rows, tenant, session, share);
}

/* ------------------------------------------------ the end */

static bool goes_back(const struct session_flight *at)
{
    return at->share != 0 && at->guarantee != GUARANTEE_EXACTLY_ONCE;
}

static void return_add(struct session_return **returns, uint32_t *count,
                       const struct session_flight *at)
{
    if (*count % 64 == 0)
        *returns = heap_resize(*returns, (*count + 64) * sizeof **returns);
    (*returns)[(*count)++] = (struct session_return){
        .share = at->share, .partition = at->partition, .offset = at->offset};
}

void session_returns_load(const struct session_position *position, struct session_return **returns,
                          uint32_t *count)
{
    struct session_position rest = *position;
    struct session_flight flight;
    while (session_flight_next(&rest, &flight))
        if (goes_back(&flight))
            return_add(returns, count, &flight);
}

void session_returns_drop(const struct session_position *position, struct buf *to)
{
    struct session_position rest = *position, again = *position;
    struct session_mark *marks = heap_array(position->mark_count + 1, sizeof *marks);
    struct session_flight flight;
    struct pack pack = pack_into(to);
    uint32_t mark_count = 0, flight_count = 0;
    while (session_mark_next(&rest, &marks[mark_count]))
        mark_count++;
    while (session_flight_next(&rest, &flight))
        flight_count += !goes_back(&flight);
    session_position_begin(&pack, position->position, marks, mark_count, flight_count);
    while (session_flight_next(&again, &flight))
        if (!goes_back(&flight))
            session_flight_encode(&pack, &flight);
    CHECK(pack.status == STATUS_OK);
    heap_free(marks);
}

void session_returns_add(struct session_rows *rows, uint64_t tenant, uint64_t session,
                         const struct session_return *returns, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        uint8_t key[SHARE_ROW_KEY];
        if (i == 0 || returns[i].share != returns[i - 1].share)
            put_due(rows, tenant, session, returns[i].share);
        share_row_key(returns[i].share, SHARE_KIND_RETURNED, returns[i].partition,
                      returns[i].offset, key);
        session_rows_add(rows, STORAGE_PUT, span_of(key, sizeof key), span_of("\1", 1));
    }
}

/* The seats stay until what the session stores last is durable. */
void session_share_detach(struct client *client, struct session *session)
{
    session->seats = heap_array(client->seat_count + 1, sizeof *session->seats);
    list_each(link, &client->seats)
    {
        struct share_seat *seat = container_of(link, struct share_seat, of_client);
        if (!seat->kept)
            continue;
        session->seats[session->seat_count++] =
            (struct session_seat){.seat = seat, .lease = share_lease_hold(seat)};
    }
}

/* Kept: the rest becomes the session's. Over: what is not goes back as what nobody has had, and
 * what is by rows. */
static void leave_flights(struct session *session, struct session_rows *rows, bool over)
{
    for (uint32_t i = session->in_flight == 0 ? 0 : session->flights[0].next; i != 0;
         i = session->flights[i].next) {
        struct flight *flight = &session->flights[i];
        const struct session_flight *at = &flight->at;
        uint8_t key[SHARE_ROW_KEY];
        if (flight->seat == NULL) {
            if (over && goes_back(at))
                return_add(&session->returns, &session->return_count, at);
            continue;
        }
        if (over) {
            share_lease_return(flight->seat, flight->lease);
        } else {
            lease_add(session, flight->seat, flight->lease, i);
            share_row_key(at->share, SHARE_KIND_GONE, at->partition, at->offset, key);
            session_rows_add(rows, STORAGE_PUT, span_of(key, sizeof key), span_of("\1", 1));
            key[9] = SHARE_KIND_RETURNED;
            session_rows_add(rows, STORAGE_DELETE, span_of(key, sizeof key), (struct span){0});
        }
        flight->seat = NULL;
    }
}

void session_share_clear(struct session_rows *rows, uint64_t share)
{
    static const enum share_kind kinds[] = {SHARE_KIND_GONE, SHARE_KIND_RETURNED};
    for (unsigned i = 0; i < 2; i++) {
        uint8_t first[SHARE_ROW_KEY], end[SHARE_ROW_KEY];
        share_row_key(share, kinds[i], 0, 0, first);
        share_row_key(share, kinds[i], UINT64_MAX, UINT64_MAX, end);
        session_rows_add(rows, STORAGE_DELETE_RANGE, span_of(first, sizeof first),
                         span_of(end, sizeof end));
    }
}

/* Of a share: what it says of records, or what became superfluous of that. */
static void last_of_share(struct session *session, struct session_rows *rows, bool over)
{
    uint8_t first[SHARE_ROW_KEY];
    if (over) {
        session_share_clear(rows, session->share);
        return;
    }
    for (uint32_t i = 0; i < session->superfluous_count; i++) {
        const struct share_ref *ref = &session->superfluous[i];
        share_row_key(session->share, ref->returned ? SHARE_KIND_RETURNED : SHARE_KIND_GONE,
                      ref->partition, ref->offset, first);
        session_rows_add(rows, STORAGE_DELETE, span_of(first, sizeof first), (struct span){0});
    }
}

void session_share_last(struct session *session, struct session_rows *rows)
{
    bool over = session->expiry_s == 0;
    if (session->share != 0) {
        last_of_share(session, rows, over);
        return;
    }
    leave_flights(session, rows, over);
    session_returns_add(rows, session->name.tenant, session->id, session->returns,
                        session->return_count);
    for (uint32_t i = 0; over && i < session->share_count; i++)
        session_share_erase(rows, session->name.tenant, session->id, session->shares[i]);
}

void session_share_ended(struct session *session, enum status status)
{
    for (uint32_t i = 0; i < session->handed_count; i++) {
        const struct session_lease *handed = &session->handed[i];
        if (status == STATUS_NO_SPACE) /* no row tells of it */
            share_lease_return(handed->seat, handed->lease);
        else /* a store that has failed: who starts next knows by what is there whose it is */
            share_lease_end(handed->seat, handed->lease, status == STATUS_OK);
    }
    for (uint32_t i = 0; i < session->seat_count; i++)
        share_lease_end(session->seats[i].seat, session->seats[i].lease, false);
    session->handed_count = session->seat_count = 0;
    if (status == STATUS_OK)
        share_returned_post(session->worker->broker, session->returns, session->return_count);
    session->return_count = 0;
}

void session_share_free(struct session *session)
{
    heap_free(session->superfluous);
    heap_free(session->handed);
    heap_free(session->seats);
    heap_free(session->shares);
    heap_free(session->returns);
}
