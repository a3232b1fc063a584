/* SPDX-License-Identifier: Apache-2.0 */
/* Which of the units that have parts for the same sessions is next: in the order of the commits. */
#include "core/broker/unit_sessions.h"

#include "core/base/heap.h"
#include "core/broker/session.h"

struct session_part {
    struct link link;
    struct link waiting; /* of the session, while the unit waits */
    struct unit_sessions *sessions;
    struct session *session; /* a call */
    struct session_unit part;
    uint32_t capacity;
};

void unit_sessions_init(struct unit_sessions *sessions, struct broker_worker *worker)
{
    sessions->worker = worker;
    list_init(&sessions->parts);
}

/* ------------------------------------------------ parts */

/* NULL: too many have one for the session. */
static struct session_part *part_of(struct unit_sessions *sessions, struct session *session)
{
    list_each(link, &sessions->parts)
    {
        struct session_part *part = container_of(link, struct session_part, link);
        if (part->session == session)
            return part;
    }
    if (session->unit_count == LIMIT_SESSION_UNITS)
        return NULL;
    struct session_part *part = heap_new(sizeof *part);
    part->sessions = sessions;
    part->session = session;
    link_init(&part->waiting);
    session_call(session);
    session->unit_count++;
    list_push(&sessions->parts, &part->link);
    sessions->count++;
    return part;
}

enum status unit_sessions_add(struct unit_sessions *sessions, const struct client *client,
                              uint32_t number)
{
    if (!session_is_kept(client))
        return STATUS_STALE;
    CHECK(client->session->worker == sessions->worker);
    struct session_part *part = part_of(sessions, client->session);
    if (part == NULL)
        return STATUS_BUSY;
    if (part->part.count == part->capacity) {
        part->capacity = part->capacity == 0 ? 16 : 2 * part->capacity;
        part->part.numbers =
            heap_resize(part->part.numbers, part->capacity * sizeof *part->part.numbers);
    }
    part->part.numbers[part->part.count++] = number;
    return STATUS_OK;
}

static void done(struct request *request, enum status status)
{
    struct unit_sessions *sessions =
        container_of(request, struct session_part, part.request)->sessions;
    sessions->ended(sessions, status);
}

void unit_sessions_send(struct unit_sessions *sessions, uint64_t unit, uint32_t part_count)
{
    list_each(link, &sessions->parts)
    {
        struct session_part *part = container_of(link, struct session_part, link);
        part->part.unit = unit;
        part->part.part_count = part_count;
        request_init(&part->part.request, sessions->worker->loop, done);
        session_settle_unit(part->session, &part->part);
    }
}

/* ------------------------------------------------ turns */

/* Of each session none is under way, and none that came before waits. */
static bool are_next(const struct unit_sessions *sessions)
{
    list_each(link, &sessions->parts)
    {
        struct session_part *part = container_of(link, struct session_part, link);
        const struct link *first = list_first(&part->session->waiting_units);
        if (part->session->unit != NULL || (first != NULL && first != &part->waiting))
            return false;
    }
    return true;
}

void unit_sessions_await(struct unit_sessions *sessions)
{
    if (are_next(sessions)) {
        sessions->start(sessions);
        return;
    }
    list_each(link, &sessions->parts)
    {
        struct session_part *part = container_of(link, struct session_part, link);
        list_push(&part->session->waiting_units, &part->waiting);
    }
}

/* Only the first that waits for the session can have waited for the one that has ended. */
static void go_on(struct session *session)
{
    struct link *first = list_first(&session->waiting_units);
    if (first == NULL)
        return;
    struct unit_sessions *sessions = container_of(first, struct session_part, waiting)->sessions;
    if (!are_next(sessions))
        return;
    list_each(link, &sessions->parts)
    {
        link_remove(&container_of(link, struct session_part, link)->waiting);
    }
    sessions->start(sessions);
}

void unit_sessions_free(struct unit_sessions *sessions)
{
    struct link *link;
    while ((link = list_pop(&sessions->parts)) != NULL) {
        struct session_part *part = container_of(link, struct session_part, link);
        struct session *session = part->session;
        heap_free(part->part.numbers);
        heap_free(part);
        session->unit_count--;
        go_on(session);
        session_back(session);
    }
}
