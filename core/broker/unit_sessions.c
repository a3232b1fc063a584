/* SPDX-License-Identifier: Apache-2.0 */
/* Which of the units that have parts for the same sessions is next: in the order of the commits. */
#include "core/broker/unit_sessions.h"

#include "core/base/heap.h"
#include "core/broker/session.h"

struct session_part {
    struct link link;
    struct unit_sessions *sessions;
    struct session *session; /* a call; NULL: the part is on its way */
    struct session_unit part;
    uint32_t capacity;
};

void unit_sessions_init(struct unit_sessions *sessions, struct broker_worker *worker)
{
    sessions->worker = worker;
    list_init(&sessions->parts);
    link_init(&sessions->waiting);
}

/* ------------------------------------------------ parts */

static struct session_part *part_of(struct unit_sessions *sessions, struct session *session)
{
    list_each(link, &sessions->parts)
    {
        struct session_part *part = container_of(link, struct session_part, link);
        if (part->session == session)
            return part;
    }
    struct session_part *part = heap_new(sizeof *part);
    part->sessions = sessions;
    part->session = session;
    session_call(session);
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
        struct session *session = part->session;
        part->session = NULL;
        part->part.unit = unit;
        part->part.part_count = part_count;
        request_init(&part->part.request, sessions->worker->loop, done);
        session_settle_unit(session, &part->part);
        session_back(session);
    }
}

/* ------------------------------------------------ turns */

static bool are_free(const struct unit_sessions *sessions)
{
    list_each(link, &sessions->parts)
    {
        const struct session *session = container_of(link, struct session_part, link)->session;
        if (session->unit != NULL || session->awaited)
            return false;
    }
    return true;
}

static void set_awaited(const struct unit_sessions *sessions, bool awaited)
{
    list_each(link, &sessions->parts)
    {
        container_of(link, struct session_part, link)->session->awaited = awaited;
    }
}

void unit_sessions_await(struct unit_sessions *sessions)
{
    if (are_free(sessions)) {
        sessions->start(sessions);
        return;
    }
    list_push(&sessions->worker->waiting_units, &sessions->waiting);
    set_awaited(sessions, true);
}

static void go_on(struct broker_worker *worker)
{
    list_each(link, &worker->waiting_units)
    {
        set_awaited(container_of(link, struct unit_sessions, waiting), false);
    }
    list_each_safe(link, following, &worker->waiting_units)
    {
        struct unit_sessions *sessions = container_of(link, struct unit_sessions, waiting);
        if (!are_free(sessions)) {
            set_awaited(sessions, true);
            continue;
        }
        link_remove(link);
        sessions->start(sessions);
    }
}

void unit_sessions_free(struct unit_sessions *sessions)
{
    struct link *link;
    uint32_t count = sessions->count;
    while ((link = list_pop(&sessions->parts)) != NULL) {
        struct session_part *part = container_of(link, struct session_part, link);
        if (part->session != NULL)
            session_back(part->session);
        heap_free(part->part.numbers);
        heap_free(part);
    }
    if (count > 0)
        go_on(sessions->worker);
}
