/* SPDX-License-Identifier: Apache-2.0 */
/* Deliveries of a session that are over with a unit. Its part is the row of position and flights as
 * it will be then: while it is on its way the session writes no other, so that neither can undo the
 * other. What is refused leaves the flights as they were.
 *
 *   come --a write is under way--> waits for it --> row on its way --stored--> flights over
 *       \--> refused                                          \--refused--> as before */
#include "core/broker/session.h"

static void refused(struct request *request, enum status status)
{
    struct session_unit *unit = container_of(request, struct session_unit, refusal.request);
    unit->request.done(&unit->request, status);
}

static void refuse(struct log *log, struct session_unit *unit, enum status why)
{
    unit->refusal =
        (struct log_rows){.unit = unit->unit, .part_count = unit->part_count, .refused = why};
    request_init(&unit->refusal.request, unit->request.home, refused);
    log_rows_write(log, &unit->refusal);
}

static void let_go(struct session *session, const struct session_unit *unit, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        session->flights[unit->numbers[i]].in_unit = false;
}

/* All or none. */
static enum status hold(struct session *session, const struct session_unit *unit)
{
    for (uint32_t i = 0; i < unit->count; i++) {
        uint32_t number = unit->numbers[i];
        struct flight *flight =
            number == 0 || number > session->flight_count ? NULL : &session->flights[number];
        if (flight == NULL || flight->at.state != FLIGHT_SENT || flight->in_unit ||
            flight->seat != NULL || flight->returned) {
            let_go(session, unit, i);
            return STATUS_STALE;
        }
        flight->in_unit = true;
    }
    return STATUS_OK;
}

void session_settle_unit(struct session *session, struct session_unit *unit)
{
    struct log *log = session->worker->broker->log;
    CHECK(loop_is_home(session->worker->loop) && unit->count > 0 && session->unit == NULL);
    enum status status = session->client == NULL ? STATUS_STALE : hold(session, unit);
    if (status != STATUS_OK) {
        refuse(log, unit, status);
        return;
    }
    unit->sent = false;
    session->unit = unit;
    if (!session->writing)
        session_write_unit(session);
}

void session_unit_go_on(struct session *session)
{
    struct session_unit *unit = session->unit;
    if (unit == NULL || session->writing)
        return;
    if (session->client != NULL) {
        session_write_unit(session);
        return;
    }
    session->unit = NULL;
    let_go(session, unit, unit->count);
    refuse(session->worker->broker->log, unit, STATUS_STALE);
}

void session_unit_end(struct session *session, const struct session_unit *unit, enum status status)
{
    let_go(session, unit, unit->count);
    for (uint32_t i = 0; i < unit->count && status == STATUS_OK; i++)
        session_flight_end(session, &session->flights[unit->numbers[i]]);
    session->unit = NULL;
}
