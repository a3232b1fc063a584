/* SPDX-License-Identifier: Apache-2.0 */
/* The checkers. Plain arrays and maps: they must be easier to trust than what they check. */
#include "tests/sim/history.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/base/check.h"
#include "core/base/heap.h"
#include "core/base/map.h"
#include "core/queue/queue.h"
#include "tests/sim/sim.h"

static uint64_t seed_now;
static struct message attempts[ATTEMPTS_MAX];
static enum fate fates[ATTEMPTS_MAX];
static uint8_t qualities[ATTEMPTS_MAX];
static uint32_t attempt_count;
static unsigned life;

struct place {
    uint64_t key[2]; /* partition, offset */
    uint32_t attempt;
    /* delivery */
    uint64_t leased_until_ms;
    uint32_t failures;
    bool done, maybe_done;
    uint64_t not_before_ms;
    bool delay_stored;
    uint64_t dead_offset; /* + 1; 0: not dead */
};
static struct map places;

static struct {
    uint32_t *attempts;
    uint32_t count, capacity;
} final[TOPICS][HOMES];
static struct {
    bool known;
    uint8_t home;
    uint32_t position;
} lies[ATTEMPTS_MAX];
static uint64_t final_count, done_count, dead_count;
static struct seen_run *runs;

enum { PEERS_MAX = 64 };
static struct {
    char name[16];
    uint64_t got;
} peers[PEERS_MAX];
static unsigned peer_count;

static void share_begin(void);

/* ------------------------------------------------ who gets anything */

static unsigned peer_find(const char *name)
{
    unsigned at = 0;
    while (at < peer_count && strcmp(peers[at].name, name) != 0)
        at++;
    return at;
}

void history_asks(const char *peer)
{
    if (peer_find(peer) < peer_count)
        return;
    CHECK(peer_count < PEERS_MAX);
    snprintf(peers[peer_count++].name, sizeof peers->name, "%s", peer);
}

void history_gets(const char *peer)
{
    unsigned at = peer_find(peer);
    if (at < peer_count)
        peers[at].got++;
}

void history_check_gets(void)
{
    for (unsigned i = 0; i < peer_count; i++)
        if (peers[i].got == 0)
            history_fail("%s never got anything, in all runs", peers[i].name);
}

/* ------------------------------------------------ messages */

void history_begin(uint64_t seed)
{
    seed_now = seed;
    attempt_count = 0;
    memset(fates, 0, sizeof fates);
    struct map_slot *slot;
    for (size_t i = 0; places.slots != NULL && (slot = map_next(&places, &i)) != NULL;)
        heap_free(slot->value);
    map_deinit(&places);
    map_init(&places);
    for (unsigned i = 0; i < TOPICS * HOMES; i++)
        final[i / HOMES][i % HOMES].count = 0;
    memset(lies, 0, sizeof lies);
    life = 0;
    final_count = done_count = dead_count = 0;
    share_begin();
    while (runs != NULL) {
        struct seen_run *next = runs->next;
        heap_free(runs->attempts);
        heap_free(runs);
        runs = next;
    }
}

void history_fail(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "seed %llu, at %llu ms: ", (unsigned long long)seed_now,
            (unsigned long long)sim_now_ms());
    vfprintf(stderr, format, arguments);
    fprintf(stderr, "\n");
    va_end(arguments);
    abort();
}

struct message history_attempt(unsigned topic, uint32_t number, unsigned qos)
{
    if (attempt_count == ATTEMPTS_MAX)
        history_fail("too many attempts");
    struct message message = {.topic = topic, .number = number, .attempt = attempt_count};
    qualities[attempt_count] = (uint8_t)qos;
    attempts[attempt_count++] = message;
    return message;
}

bool history_is_acknowledged(uint32_t attempt)
{
    return fates[attempt] == FATE_ACKNOWLEDGED;
}

unsigned history_topic(uint32_t attempt)
{
    return attempts[attempt].topic;
}

unsigned history_qos(uint32_t attempt)
{
    return qualities[attempt];
}

uint32_t history_attempts(void)
{
    return attempt_count;
}

bool history_is_large(uint32_t attempt)
{
    return attempt % 4 == 3;
}

void history_format(struct message message, char text[HISTORY_TEXT])
{
    int padding = history_is_large(message.attempt) ? PACKET_SMALL : 0;
    snprintf(text, HISTORY_TEXT, "%u %u %u%*s", message.topic, message.number, message.attempt,
             padding, "");
}

bool history_parse(struct span payload, struct message *message)
{
    char text[HISTORY_TEXT];
    if (payload.size >= sizeof text)
        return false;
    memcpy(text, payload.data, payload.size);
    text[payload.size] = '\0';
    return sscanf(text, "%u %u %u", &message->topic, &message->number, &message->attempt) == 3 &&
           message->attempt < attempt_count &&
           attempts[message->attempt].number == message->number &&
           attempts[message->attempt].topic == message->topic;
}

void history_fate(struct message message, enum fate fate)
{
    fates[message.attempt] = fate;
}

static struct place *place_of(uint64_t partition, uint64_t offset)
{
    uint64_t key[2] = {partition, offset};
    struct place *place = map_get(&places, span_of(key, sizeof key));
    if (place != NULL)
        return place;
    place = heap_new(sizeof *place);
    memcpy(place->key, key, sizeof key);
    place->attempt = UINT32_MAX;
    map_put(&places, span_of(place->key, sizeof place->key), place);
    return place;
}

void history_read(uint64_t partition, uint64_t offset, struct span payload)
{
    struct message message;
    if (!history_parse(payload, &message))
        history_fail("a record nobody published: %.*s", (int)payload.size,
                     (const char *)payload.data);
    if (fates[message.attempt] == FATE_REFUSED)
        history_fail("attempt %u was refused and is delivered", message.attempt);
    struct place *place = place_of(partition, offset);
    if (place->attempt == UINT32_MAX)
        place->attempt = message.attempt;
    if (place->attempt != message.attempt)
        history_fail("partition %llu offset %llu had attempt %u and has %u now",
                     (unsigned long long)partition, (unsigned long long)offset, place->attempt,
                     message.attempt);
}

void history_final(unsigned home, uint64_t partition, uint64_t offset, struct span payload)
{
    history_read(partition, offset, payload);
    struct message message;
    history_parse(payload, &message);
    unsigned topic = message.topic;
    if (lies[message.attempt].known)
        history_fail("attempt %u is in the log twice", message.attempt);
    if (final[topic][home].count == final[topic][home].capacity) {
        uint32_t capacity = final[topic][home].capacity == 0 ? 64 : final[topic][home].capacity * 2;
        final[topic][home].attempts =
            heap_resize(final[topic][home].attempts, capacity * sizeof(uint32_t));
        final[topic][home].capacity = capacity;
    }
    lies[message.attempt].known = true;
    lies[message.attempt].home = (uint8_t)home;
    lies[message.attempt].position = final[topic][home].count;
    final[topic][home].attempts[final[topic][home].count++] = message.attempt;
    final_count += home == 0;
}

bool history_place(uint32_t attempt, unsigned *home, uint32_t *position)
{
    *home = lies[attempt].home;
    *position = lies[attempt].position;
    return lies[attempt].known;
}

uint32_t history_log(unsigned topic, unsigned home, const uint32_t **log)
{
    *log = final[topic][home].attempts;
    return final[topic][home].count;
}

/* A run is part of the log: of each home it begins somewhere, and follows without a hole. */
static void check_run(const struct seen_run *run, unsigned home)
{
    const uint32_t *log;
    uint32_t count = history_log(run->topic, home, &log), at = 0, position;
    unsigned lies_at;
    bool any = false;
    for (uint32_t i = 0; i < run->count; i++) {
        if (!history_place(run->attempts[i], &lies_at, &position))
            history_fail("topic %u: a subscriber saw attempt %u, which is not in the log",
                         run->topic, run->attempts[i]);
        if (lies_at != home)
            continue;
        for (; !any && at < position; at++)
            if (run->confirmed && log[at] >= run->since)
                history_fail("topic %u: attempt %u came after SUBACK and was not delivered",
                             run->topic, log[at]);
        if (position != at)
            history_fail("topic %u: a subscriber saw attempt %u where the log goes on with %d",
                         run->topic, run->attempts[i], at < count ? (int)log[at] : -1);
        any = true;
        at++;
    }
    for (; run->live && at < count; at++)
        if (any || (run->confirmed && log[at] >= run->since))
            history_fail("topic %u: a connected subscriber never saw attempt %u", run->topic,
                         log[at]);
}

/* Numbers may come again (sent again), but a new one is always the next, unless the topic moved. */
static void check_order(unsigned topic)
{
    for (unsigned home = 0; home < HOMES; home++) {
        const uint32_t *log;
        uint32_t count = history_log(topic, home, &log), next = 0;
        for (uint32_t i = 0; i < count && final[topic][HOMES - 1 - home].count == 0; i++) {
            uint32_t number = attempts[log[i]].number;
            if (number > next)
                history_fail("topic %u: %u comes where %u is next", topic, number, next);
            if (number == next)
                next++;
        }
    }
}

void history_check_final(void)
{
    for (unsigned topic = 0; topic < TOPICS; topic++)
        check_order(topic);
    for (uint32_t i = 0; i < attempt_count; i++)
        if (fates[i] == FATE_ACKNOWLEDGED && !lies[i].known)
            history_fail("attempt %u (topic %u number %u) was acknowledged and is lost", i,
                         attempts[i].topic, attempts[i].number);
    for (const struct seen_run *run = runs; run != NULL; run = run->next)
        for (unsigned home = 0; home < HOMES; home++)
            check_run(run, home);
}

struct seen_run *history_run(unsigned topic)
{
    struct seen_run *run = heap_new(sizeof *run);
    run->topic = topic;
    run->next = runs;
    runs = run;
    return run;
}

void history_confirmed(struct seen_run *run)
{
    run->confirmed = true;
    run->since = attempt_count;
}

void history_seen(struct seen_run *run, struct message message)
{
    if (fates[message.attempt] == FATE_REFUSED)
        history_fail("attempt %u was refused and is delivered", message.attempt);
    if (run->count == run->capacity) {
        run->capacity = run->capacity == 0 ? 32 : run->capacity * 2;
        run->attempts = heap_resize(run->attempts, run->capacity * sizeof *run->attempts);
    }
    run->attempts[run->count++] = message.attempt;
}

/* ------------------------------------------------ a share */

static struct seen_member *members;
static unsigned confirmed_members;
static uint32_t share_since;                      /* attempts from here on are the share's */
static struct seen_member *seen_by[ATTEMPTS_MAX]; /* by attempt: who got it last */
static bool acked[ATTEMPTS_MAX];                  /* by that one */
static uint64_t share_count;

static void share_begin(void)
{
    while (members != NULL) {
        struct seen_member *member = members;
        members = member->next;
        heap_free(member);
    }
    memset(seen_by, 0, sizeof seen_by);
    memset(acked, 0, sizeof acked);
    confirmed_members = 0;
    share_since = UINT32_MAX;
    share_count = 0;
}

struct seen_member *history_member(void)
{
    struct seen_member *member = heap_new(sizeof *member);
    member->next = members;
    members = member;
    return member;
}

void history_member_confirmed(struct seen_member *member)
{
    member->confirmed = true;
    if (confirmed_members++ == 0)
        share_since = attempt_count;
}

void history_member_gone(struct seen_member *member)
{
    if (member->confirmed && !member->gone && --confirmed_members == 0)
        share_since = UINT32_MAX;
    member->gone = true;
}

void history_member_seen(struct seen_member *member, struct message message)
{
    struct seen_member **last = &seen_by[message.attempt];
    if (fates[message.attempt] == FATE_REFUSED)
        history_fail("attempt %u was refused and goes to a member", message.attempt);
    if (*last != NULL && !(*last)->gone)
        history_fail("attempt %u goes to two members", message.attempt);
    *last = member;
    acked[message.attempt] = false;
    share_count++;
}

void history_member_acks(struct message message)
{
    acked[message.attempt] = true;
}

void history_share_check(void)
{
    for (uint32_t i = share_since; i < attempt_count; i++)
        if (fates[i] == FATE_ACKNOWLEDGED &&
            (seen_by[i] == NULL || (seen_by[i]->gone && !acked[i])))
            history_fail("attempt %u was acknowledged and no member %s it", i,
                         seen_by[i] == NULL ? "saw" : "settled");
}

uint64_t history_share_count(void)
{
    return share_count;
}

/* ------------------------------------------------ leases */

void history_handed_out(uint64_t partition, uint64_t offset, uint32_t failures, uint64_t until_ms)
{
    struct place *place = place_of(partition, offset);
    if (place->done)
        history_fail("partition %llu offset %llu was settled and is handed out again",
                     (unsigned long long)partition, (unsigned long long)offset);
    if (place->leased_until_ms > sim_now_ms())
        history_fail("partition %llu offset %llu is leased until %llu and handed out again",
                     (unsigned long long)partition, (unsigned long long)offset,
                     (unsigned long long)place->leased_until_ms);
    if (place->dead_offset != 0)
        history_fail("partition %llu offset %llu is a dead letter and handed out again",
                     (unsigned long long)partition, (unsigned long long)offset);
    if (sim_now_ms() < place->not_before_ms)
        history_fail("partition %llu offset %llu is handed out %llu ms early",
                     (unsigned long long)partition, (unsigned long long)offset,
                     (unsigned long long)(place->not_before_ms - sim_now_ms()));
    place->not_before_ms = 0;
    if (failures < place->failures)
        history_fail("failures of partition %llu offset %llu fell from %u to %u",
                     (unsigned long long)partition, (unsigned long long)offset, place->failures,
                     failures);
    place->failures = failures;
    place->leased_until_ms = until_ms;
}

void history_settling(uint64_t partition, uint64_t offset)
{
    struct place *place = place_of(partition, offset);
    /* Of dead letters those count that they were. */
    if (!place->maybe_done && place->dead_offset == 0 && dead_partition_group(partition) == 0)
        done_count++;
    place->maybe_done = true;
}

void history_settled(uint64_t partition, uint64_t offset, bool done)
{
    struct place *place = place_of(partition, offset);
    place->leased_until_ms = 0;
    place->done = place->done || done;
}

void history_delaying(uint64_t partition, uint64_t offset, uint64_t due_ms)
{
    struct place *place = place_of(partition, offset);
    place->not_before_ms = due_ms;
    place->delay_stored = false;
}

void history_delayed(uint64_t partition, uint64_t offset, uint64_t due_ms, bool taken)
{
    struct place *place = place_of(partition, offset);
    if (place->not_before_ms != due_ms)
        return;
    place->delay_stored = taken;
    if (!taken)
        place->not_before_ms = 0;
}

void history_dead(uint64_t partition, uint64_t offset, uint64_t dead_offset, struct span payload)
{
    history_read(partition, offset, payload);
    struct place *place = place_of(partition, offset);
    if (place->done)
        history_fail("partition %llu offset %llu was settled as done and is a dead letter",
                     (unsigned long long)partition, (unsigned long long)offset);
    if (place->dead_offset != 0 && place->dead_offset != dead_offset + 1)
        history_fail("partition %llu offset %llu is two dead letters, %llu and %llu",
                     (unsigned long long)partition, (unsigned long long)offset,
                     (unsigned long long)place->dead_offset - 1, (unsigned long long)dead_offset);
    if (place->dead_offset == 0)
        dead_count++;
    if (!place->maybe_done && place->dead_offset == 0)
        done_count++;
    place->dead_offset = dead_offset + 1;
}

uint64_t history_dead_count(void)
{
    return dead_count;
}

unsigned history_life(void)
{
    return life;
}

void history_crashed(void)
{
    life++;
    struct map_slot *slot;
    for (size_t i = 0; (slot = map_next(&places, &i)) != NULL;) {
        struct place *place = slot->value;
        place->leased_until_ms = 0;
        if (!place->delay_stored)
            place->not_before_ms = 0;
    }
}

uint64_t history_done_count(void)
{
    return done_count;
}

uint64_t history_final_count(void)
{
    return final_count;
}

uint64_t history_acknowledged_count(void)
{
    uint64_t count = 0;
    for (uint32_t i = 0; i < attempt_count; i++)
        count += fates[i] == FATE_ACKNOWLEDGED;
    return count;
}
