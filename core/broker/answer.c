/* SPDX-License-Identifier: Apache-2.0 */
/* One ring of unanswered publishes per client: settled in any order, answered in the order in which
 * they came. */
#include "core/broker/answer.h"

#include "core/base/heap.h"
#include "core/broker/session.h"

enum { RING_FIRST = 16, RING_KEEP = 64 };
enum { ANSWER_PENDING = -1 };

struct ring_slot {
    uint64_t token;
    struct answer_place place;
    int status;
};

struct answer_ring {
    struct client *client;   /* NULL once it has gone */
    struct session *session; /* waits until no answer is owed */
    struct protocol_figures *figures;
    struct ring_slot *slots;
    uint32_t capacity;   /* a power of two */
    uint32_t head, tail; /* running numbers; oldest at head */
    uint32_t in_flight;  /* answers that are owed */
    uint64_t bytes;
    bool popping;
    struct loop_task task; /* answers refusals from the loop, not from inside the call */
};

static void ring_free(struct answer_ring *ring)
{
    heap_free(ring->slots);
    heap_free(ring);
}

static void slot_answer(struct client *client, const struct ring_slot *slot)
{
    const struct answer_place *place = &slot->place;
    if (slot->status == STATUS_OK && place->due_ms != 0 && client->ops->delayed != NULL) {
        struct delay_id id = {
            .partition = place->partition, .due_ms = place->due_ms, .number = place->offset};
        client->ops->delayed(client, slot->token, &id);
    }
    client->ops->answered(client, slot->token, (enum status)slot->status, place->partition,
                          place->offset);
}

/* An answer may make the client close, and then nothing holds the ring but what is owed. */
static void ring_pop(struct answer_ring *ring)
{
    CHECK(!ring->popping);
    ring->popping = true;
    while (ring->client != NULL && ring->head != ring->tail) {
        struct ring_slot slot = ring->slots[ring->head & (ring->capacity - 1)];
        if (slot.status == ANSWER_PENDING)
            break;
        ring->head++;
        slot_answer(ring->client, &slot);
    }
    ring->popping = false;
    if (ring->client == NULL) {
        if (ring->in_flight == 0)
            ring_free(ring);
    } else if (ring->head == ring->tail && ring->capacity > RING_KEEP) {
        heap_free(ring->slots);
        ring->slots = NULL;
        ring->capacity = 0;
    }
}

static void ring_task(struct loop_task *task)
{
    struct answer_ring *ring = container_of(task, struct answer_ring, task);
    struct broker_worker *worker = ring->client->worker;
    ring_pop(ring);
    publish_wake(worker);
}

static uint32_t ring_push(struct client *client, uint64_t token)
{
    struct answer_ring *ring = client->ring;
    if (ring == NULL) {
        ring = client->ring = heap_new(sizeof *ring);
        ring->client = client;
        ring->figures = client->figures;
        ring->task.run = ring_task;
    }
    if (ring->tail - ring->head == ring->capacity) {
        uint32_t capacity = ring->capacity == 0 ? RING_FIRST : ring->capacity * 2;
        struct ring_slot *slots = heap_array(capacity, sizeof *slots);
        for (uint32_t i = ring->head; i != ring->tail; i++)
            slots[i & (capacity - 1)] = ring->slots[i & (ring->capacity - 1)];
        heap_free(ring->slots);
        ring->slots = slots;
        ring->capacity = capacity;
    }
    uint32_t number = ring->tail++;
    ring->slots[number & (ring->capacity - 1)] =
        (struct ring_slot){.token = token, .status = ANSWER_PENDING};
    return number;
}

static void ring_settle(struct answer_ring *ring, uint32_t number, enum status status,
                        const struct answer_place *place)
{
    if (ring->client == NULL)
        return;
    struct ring_slot *slot = &ring->slots[number & (ring->capacity - 1)];
    slot->status = (int)status;
    slot->place = *place;
}

struct answer answer_owe(struct client *client, uint64_t token, size_t bytes,
                         struct session *noting)
{
    uint32_t number = ring_push(client, token);
    if (noting != NULL)
        noting->publishing++;
    client->ring->in_flight++;
    client->ring->bytes += bytes;
    return (struct answer){
        .ring = client->ring, .number = number, .bytes = (uint32_t)bytes, .noting = noting};
}

void answers_add(struct answers *answers, struct client *client, uint64_t token, size_t bytes,
                 uint32_t record, struct session *noting)
{
    if (answers->count == answers->capacity) {
        answers->capacity = answers->capacity == 0 ? 64 : answers->capacity * 2;
        answers->items = heap_resize(answers->items, answers->capacity * sizeof *answers->items);
    }
    struct answer *answer = &answers->items[answers->count++];
    *answer = answer_owe(client, token, bytes, noting);
    answer->record = record;
}

void answers_deinit(struct answers *answers)
{
    heap_free(answers->items);
    *answers = (struct answers){0};
}

void answer_settle(const struct answer *answer, enum status status,
                   const struct answer_place *place)
{
    struct answer_ring *ring = answer->ring;
    if (status != STATUS_OK)
        figures_refused(ring->figures, status);
    ring_settle(ring, answer->number, status, place);
    ring->bytes -= answer->bytes;
}

/* Consecutive answers mostly belong to one client: its ring is emptied once, at the end of its run.
 */
void answers_return(const struct answer *answers, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        struct answer_ring *ring = answers[i].ring;
        ring->in_flight--;
        if (answers[i].noting != NULL)
            session_published(answers[i].noting);
        if (ring->in_flight == 0 && ring->session != NULL) {
            struct session *session = ring->session;
            ring->session = NULL;
            session_published(session);
        }
        if (i + 1 == count || answers[i + 1].ring != ring)
            ring_pop(ring);
    }
}

void answer_refuse(struct client *client, uint64_t token, enum status status)
{
    uint32_t number = ring_push(client, token);
    ring_settle(client->ring, number, status, &(struct answer_place){0});
    loop_defer(client->worker->loop, &client->ring->task, LOOP_WORK);
}

struct owed_answer broker_owe(struct client *client, uint64_t token)
{
    CHECK(loop_is_home(client->worker->loop));
    struct answer answer = answer_owe(client, token, 0, NULL);
    return (struct owed_answer){answer.ring, answer.number};
}

void broker_give(struct owed_answer owed, enum status status)
{
    struct answer answer = {.ring = owed.ring, .number = owed.number};
    answer_settle(&answer, status, &(struct answer_place){0});
    answers_return(&answer, 1);
}

void broker_refuse(struct client *client, uint64_t token, enum status status)
{
    figures_refused(client->figures, status);
    answer_refuse(client, token, status);
}

bool answers_are_full(const struct client *client)
{
    const struct answer_ring *ring = client->ring;
    return ring != NULL && (ring->bytes >= LIMIT_CLIENT_IN_BYTES ||
                            ring->tail - ring->head >= LIMIT_PUBLISH_PENDING);
}

bool answers_watch(struct client *client, struct session *session)
{
    struct answer_ring *ring = client->ring;
    if (ring == NULL || ring->in_flight == 0)
        return false;
    ring->session = session;
    return true;
}

void answers_close(struct client *client)
{
    struct answer_ring *ring = client->ring;
    client->ring = NULL;
    if (ring == NULL)
        return;
    loop_task_cancel(client->worker->loop, &ring->task);
    ring->client = NULL;
    if (ring->in_flight == 0 && !ring->popping)
        ring_free(ring);
}
