/* SPDX-License-Identifier: Apache-2.0 */
/* See kept_history.h. */
#include "tests/sim/kept_history.h"

#include "core/base/heap.h"

/* By attempt: what one stay had of it. */
struct seen {
    bool came, once; /* once: as QoS 2 */
    bool acknowledged, heard;
    unsigned life; /* of the gateway, when it came last */
    uint64_t connection;
};

struct arrival {
    uint32_t attempt;
    bool first; /* to this stay */
    uint64_t connection;
};

struct kept_session {
    const char *who;
    bool ended, small;
    struct stay *stays;
    struct kept_session *next;
};

static struct kept_session *sessions;
static uint64_t count, again_count;

void kept_begin(void)
{
    while (sessions != NULL) {
        struct kept_session *session = sessions;
        sessions = session->next;
        while (session->stays != NULL) {
            struct stay *stay = session->stays;
            session->stays = stay->next;
            heap_free(stay->seen);
            heap_free(stay->arrivals);
            heap_free(stay);
        }
        heap_free(session);
    }
    count = again_count = 0;
}

struct kept_session *kept_session_new(const char *who, bool small)
{
    struct kept_session *session = heap_new(sizeof *session);
    session->who = who;
    session->small = small;
    session->next = sessions;
    sessions = session;
    return session;
}

void kept_session_doubtful(struct kept_session *session)
{
    for (struct stay *stay = session->stays; stay != NULL; stay = stay->next) {
        stay->given_up = true;
        for (uint32_t i = 0; i < stay->seen_count; i++)
            stay->seen[i].once = false;
    }
}

void kept_session_ended(struct kept_session *session)
{
    kept_session_doubtful(session);
    session->ended = true;
}

void kept_session_heard(struct kept_session *session, bool heard)
{
    for (struct stay *stay = session->stays; stay != NULL; stay = stay->next) {
        for (uint32_t i = 0; i < stay->seen_count; i++) {
            stay->seen[i].heard |= heard && stay->seen[i].acknowledged;
            stay->seen[i].acknowledged = stay->seen[i].heard;
        }
    }
}

struct stay *kept_stay_new(struct kept_session *session, const char *filter, uint32_t topics)
{
    struct stay *stay = heap_new(sizeof *stay);
    stay->session = session;
    stay->filter = filter;
    stay->topics = topics;
    stay->until = UINT32_MAX;
    stay->next = session->stays;
    session->stays = stay;
    return stay;
}

void kept_asked(struct stay *stay, unsigned qos)
{
    stay->guarantees |= 1u << qos;
}

void kept_confirmed(struct stay *stay)
{
    if (stay->confirmed || stay->given_up)
        return;
    stay->confirmed = true;
    stay->since = history_attempts();
}

void kept_leaving(struct stay *stay)
{
    stay->given_up = true;
}

void kept_left(struct stay *stay)
{
    if (stay->until == UINT32_MAX)
        stay->until = history_attempts();
}

/* ------------------------------------------------ deliveries */

static struct seen *seen_of(struct stay *stay, uint32_t attempt)
{
    if (attempt >= stay->seen_count) {
        uint32_t wanted = attempt + attempt / 2 + 64;
        stay->seen = heap_resize(stay->seen, wanted * sizeof *stay->seen);
        memset(stay->seen + stay->seen_count, 0, (wanted - stay->seen_count) * sizeof *stay->seen);
        stay->seen_count = wanted;
    }
    return &stay->seen[attempt];
}

static bool may_be(const struct stay *stay, unsigned published, unsigned qos)
{
    for (unsigned asked = 0; asked <= 2; asked++)
        if ((stay->guarantees >> asked & 1) != 0 && (asked < published ? asked : published) == qos)
            return true;
    return false;
}

static bool had_it_once(const struct stay *of, uint32_t attempt)
{
    for (const struct stay *stay = of->session->stays; stay != NULL; stay = stay->next)
        if (strcmp(stay->filter, of->filter) == 0 && attempt < stay->seen_count &&
            stay->seen[attempt].once)
            return true;
    return false;
}

static void check_again(const struct stay *stay, const struct seen *seen, uint32_t attempt,
                        bool once_more, uint64_t connection)
{
    if (seen->connection == connection)
        history_fail("%s: %s got attempt %u twice in one connection", stay->session->who,
                     stay->filter, attempt);
    if (seen->heard)
        history_fail("%s: %s had acknowledged attempt %u and gets it again", stay->session->who,
                     stay->filter, attempt);
    /* After a crash the gateway may not know that it has sent it. */
    if (!once_more && seen->life == history_life())
        history_fail("%s: %s gets attempt %u again without DUP", stay->session->who, stay->filter,
                     attempt);
}

void kept_seen(struct stay *stay, struct message message, unsigned qos, bool once_more, bool known,
               uint64_t connection)
{
    uint32_t attempt = message.attempt;
    struct seen *seen = seen_of(stay, attempt);
    if ((stay->topics >> message.topic & 1) == 0)
        history_fail("%s: %s got topic %u", stay->session->who, stay->filter, message.topic);
    if (stay->session->ended)
        history_fail("%s: %s of a session that has ended gets attempt %u", stay->session->who,
                     stay->filter, attempt);
    if (attempt >= stay->until)
        history_fail("%s: %s had ended and gets attempt %u", stay->session->who, stay->filter,
                     attempt);
    if (!may_be(stay, history_qos(attempt), qos))
        history_fail("%s: %s gets attempt %u as QoS %u", stay->session->who, stay->filter, attempt,
                     qos);
    if (!known && had_it_once(stay, attempt))
        history_fail("%s: %s gets attempt %u, which was exactly once, again", stay->session->who,
                     stay->filter, attempt);
    if (seen->came)
        check_again(stay, seen, attempt, once_more, connection);
    if (stay->arrival_count == stay->arrival_capacity) {
        stay->arrival_capacity = stay->arrival_capacity == 0 ? 64 : stay->arrival_capacity * 2;
        stay->arrivals =
            heap_resize(stay->arrivals, stay->arrival_capacity * sizeof *stay->arrivals);
    }
    stay->arrivals[stay->arrival_count++] = (struct arrival){attempt, !seen->came, connection};
    count++;
    again_count += seen->came;
    seen->came = true;
    seen->once |= qos == 2;
    seen->life = history_life();
    seen->connection = connection;
}

void kept_acknowledged(struct stay *stay, struct message message)
{
    seen_of(stay, message.attempt)->acknowledged = true;
}

/* ------------------------------------------------ the end */

static void check_passed_over(const struct stay *stay, uint32_t attempt)
{
    if (stay->confirmed && attempt >= stay->since &&
        !(stay->session->small && history_is_large(attempt)))
        history_fail("%s: %s was never given attempt %u, which came after SUBACK",
                     stay->session->who, stay->filter, attempt);
}

static void check_lane(const struct stay *stay, unsigned topic, unsigned home)
{
    const uint32_t *log;
    uint32_t end = history_log(topic, home, &log), next = 0, in_connection = 0, position;
    uint64_t connection = 0;
    unsigned lies_at;
    for (uint32_t i = 0; i < stay->arrival_count; i++) {
        const struct arrival *arrival = &stay->arrivals[i];
        if (!history_place(arrival->attempt, &lies_at, &position))
            history_fail("%s: %s got attempt %u, which is not in the log", stay->session->who,
                         stay->filter, arrival->attempt);
        if (lies_at != home || history_topic(arrival->attempt) != topic)
            continue;
        if (arrival->connection == connection && position < in_connection)
            history_fail("%s: %s got attempt %u out of order", stay->session->who, stay->filter,
                         arrival->attempt);
        connection = arrival->connection;
        in_connection = position;
        if (!arrival->first)
            continue;
        if (position < next && stay->confirmed && arrival->attempt >= stay->since)
            history_fail("%s: %s got attempt %u for the first time behind later ones",
                         stay->session->who, stay->filter, arrival->attempt);
        for (; next < position; next++)
            check_passed_over(stay, log[next]);
        if (position == next)
            next++;
    }
    for (; stay->live && !stay->given_up && next < end; next++)
        check_passed_over(stay, log[next]);
}

void kept_check_final(void)
{
    for (const struct kept_session *session = sessions; session != NULL; session = session->next)
        for (const struct stay *stay = session->stays; stay != NULL; stay = stay->next)
            for (unsigned lane = 0; lane < TOPICS * HOMES; lane++)
                if ((stay->topics >> lane / HOMES & 1) != 0)
                    check_lane(stay, lane / HOMES, lane % HOMES);
}

uint64_t kept_count(void)
{
    return count;
}

uint64_t kept_again_count(void)
{
    return again_count;
}
