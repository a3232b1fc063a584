/* SPDX-License-Identifier: Apache-2.0 */
/* Push over pull: one take is under way for the credit there is, a long poll without an end; what
 * comes back is handed over, and the next take asks for more. Leases live in a table of slots whose
 * free ones are chained. */
#include "core/broker/consume.h"

#include "core/base/heap.h"
#include "core/broker/lease_room.h"
#include "core/broker/worker.h"
#include "core/queue/due_heap.h"

enum {
    BATCH_DEFAULT = 128,
    BATCH_FIRST = 16, /* asked for until a take comes back full: who waits holds little memory */
    TAKE_BYTES = 256 * 1024,
    PIECE = 64,       /* settlements of one piece */
    SLOTS_FIRST = 16, /* slots of a new table */
    LOOK_MS = 64,     /* looks for room at least so often */
    LATE_MS = 100,    /* the group's own clock comes first */
    HELD_MS = 1000,   /* a lease that has run out in a transaction is asked for again then */
    OUTCOMES = SETTLE_RENEWED + 1,
    NO_SLOT = UINT32_MAX
};

/* A lease, or a place for one: then group is 0 and offset is the next free place. */
struct slot {
    struct receipt receipt;
    void *bound;
};

/* Settlements with the same outcome, on their way to the group. */
struct piece {
    struct group_settle settle;
    struct consumer *consumer;
    char *note; /* of its one settlement */
    uint64_t tokens[PIECE];
    struct receipt receipts[PIECE];
    enum status results[PIECE];
};

struct consumer {
    struct client *client; /* valid until it is closed */
    struct broker_worker *worker;
    const struct consumer_ops *ops;
    void *context;
    struct group_spec *group;
    struct link of_client;
    struct lease_taker room; /* for leases */
    struct loop_task work;
    struct loop_timer look; /* output may fall below the budget without a drained() */
    uint32_t look_ms;

    struct taker *taker;
    struct group_take take;
    bool taking;
    uint32_t item_capacity, batch, batch_size; /* batch: asked for now, at most batch_size */
    char name[LIMIT_GROUP_NAME + 1];           /* empty: none */
    char *label_text;
    struct selector *selector;

    uint32_t credit;
    bool drain;
    bool over;               /* ended() has been told */
    bool closed, delivering; /* delivering: callbacks are under way */
    uint64_t checked;        /* generation of the catalog for which the right was looked up, + 1 */
    struct slot *slots;
    uint32_t slot_capacity, slot_free, lease_count;
    struct due_heap ends;  /* by slot, on the loop's clock; of a protocol that wants to know them */
    struct loop_timer end; /* of the first of them */
    struct piece *open[OUTCOMES]; /* being filled in this turn */
    uint32_t pieces;              /* on their way */
};

static void consumer_work(struct loop_task *task);
static void room_is_there(struct lease_taker *taker);
static void look_fired(struct loop_timer *timer);
static void leases_look(struct loop_timer *timer);
static void take_back(struct request *request, enum status status);

struct consumer *consumer_open(struct client *client, const struct consumer_ops *ops, void *context,
                               const struct consumer_options *options)
{
    CHECK(loop_is_home(client->worker->loop));
    CHECK(options->batch_size <= CONSUMER_BATCH_MAX);
    struct consumer *consumer = heap_new(sizeof *consumer);
    consumer->client = client;
    consumer->worker = client->worker;
    consumer->ops = ops;
    consumer->context = context;
    consumer->group = group_spec_ref(options->group);
    consumer->batch_size = options->batch_size == 0 ? BATCH_DEFAULT : options->batch_size;
    consumer->batch = consumer->batch_size < BATCH_FIRST ? consumer->batch_size : BATCH_FIRST;
    consumer->slot_free = NO_SLOT;
    consumer->work.run = consumer_work;
    consumer->room.wake = room_is_there;
    consumer->look.fired = look_fired;
    consumer->end.fired = leases_look;
    due_heap_init(&consumer->ends);
    consumer->selector = options->selector == NULL ? NULL : selector_ref(options->selector);
    consumer->taker = taker_new();
    consumer->take = (struct group_take){
        .taker = consumer->taker,
        .max_bytes = TAKE_BYTES,
        .lease_ms = options->lease_ms,
        .dead = options->dead,
        .selector = consumer->selector,
        .labels = options->labels,
    };
    if (options->name.size > 0) {
        broadcast_name(options->name, consumer->name);
        consumer->take.consumer = span_from_text(consumer->name);
    }
    size_t label_size = 0;
    for (uint32_t i = 0; i < options->labels.count; i++)
        label_size += options->labels.labels[i].size;
    consumer->label_text = label_size == 0 ? NULL : heap_new(label_size);
    for (uint32_t i = 0, at = 0; label_size > 0 && i < options->labels.count; i++) {
        struct span *label = &consumer->take.labels.labels[i];
        memcpy(consumer->label_text + at, label->data, label->size);
        *label = span_of(consumer->label_text + at, label->size);
        at += (uint32_t)label->size;
    }
    list_push(&client->consumers, &consumer->of_client);
    return consumer;
}

void *consumer_context(const struct consumer *consumer)
{
    return consumer->context;
}

uint32_t consumer_credit_left(const struct consumer *consumer)
{
    return consumer->credit;
}

struct taker *consumer_taker(const struct consumer *consumer)
{
    return consumer->taker;
}

uint32_t consumer_lease_count(const struct consumer *consumer)
{
    return consumer->lease_count;
}

static void consumer_wake(struct consumer *consumer)
{
    loop_defer(consumer->worker->loop, &consumer->work, LOOP_WORK);
}

static void room_is_there(struct lease_taker *taker)
{
    consumer_wake(container_of(taker, struct consumer, room));
}

/* The last one out turns off the light. */
static void consumer_leave(struct consumer *consumer)
{
    if (!consumer->closed || consumer->taking || consumer->delivering || consumer->pieces > 0)
        return;
    loop_task_cancel(consumer->worker->loop, &consumer->work);
    loop_timer_stop(consumer->worker->loop, &consumer->look);
    due_heap_deinit(&consumer->ends);
    group_spec_unref(consumer->group);
    selector_unref(consumer->selector);
    taker_unref(consumer->taker);
    heap_free(consumer->take.items);
    heap_free(consumer->label_text);
    heap_free(consumer->slots);
    heap_free(consumer);
}

/* ------------------------------------------------ leases */

static uint32_t lease_add(struct consumer *consumer, const struct receipt *receipt)
{
    if (consumer->slot_free == NO_SLOT) {
        uint32_t old = consumer->slot_capacity;
        consumer->slot_capacity = old == 0 ? SLOTS_FIRST : 2 * old;
        consumer->slots =
            heap_resize(consumer->slots, consumer->slot_capacity * sizeof *consumer->slots);
        for (uint32_t i = consumer->slot_capacity; i-- > old;) {
            consumer->slots[i].receipt = (struct receipt){.offset = consumer->slot_free};
            consumer->slot_free = i;
        }
    }
    uint32_t slot = consumer->slot_free;
    consumer->slot_free = (uint32_t)consumer->slots[slot].receipt.offset;
    consumer->slots[slot] = (struct slot){.receipt = *receipt};
    consumer->lease_count++;
    lease_room_take(consumer->client, 1);
    return slot;
}

static void lease_remove(struct consumer *consumer, uint32_t slot)
{
    due_heap_remove(&consumer->ends, slot);
    consumer->slots[slot].receipt = (struct receipt){.offset = consumer->slot_free};
    consumer->slot_free = slot;
    consumer->lease_count--;
    lease_room_give_back(consumer->client, 1);
}

const struct receipt *consumer_lease(const struct consumer *consumer, uint32_t slot)
{
    return slot < consumer->slot_capacity && consumer->slots[slot].receipt.group != 0
               ? &consumer->slots[slot].receipt
               : NULL;
}

void consumer_bind(struct consumer *consumer, uint32_t slot, void *what)
{
    CHECK(consumer_lease(consumer, slot) != NULL);
    consumer->slots[slot].bound = what;
}

void *consumer_bound(const struct consumer *consumer, uint32_t slot)
{
    CHECK(consumer_lease(consumer, slot) != NULL);
    return consumer->slots[slot].bound;
}

static void lease_ends_in(struct consumer *consumer, uint32_t slot, uint32_t ms)
{
    due_heap_put(
        &consumer->ends,
        (struct due){.due_ms = (int64_t)loop_now_ms(consumer->worker->loop) + ms, .offset = slot});
}

static void lease_runs(struct consumer *consumer, uint32_t slot, uint32_t lease_ms)
{
    if (consumer->ops->expired == NULL)
        return;
    lease_ends_in(consumer, slot, lease_ms + LATE_MS);
    if (consumer->ends.entries[0].offset == slot)
        loop_timer_start(consumer->worker->loop, &consumer->end, lease_ms + LATE_MS);
}

static void lease_expired(struct consumer *consumer, uint32_t slot)
{
    bool over = consumer->ops->expired(consumer, slot);
    if (consumer->closed)
        return;
    if (over) /* if the group has not noticed yet, this is what it would do */
        consumer_settle(consumer, slot, SETTLE_FAILED, 0, 0);
    else
        lease_ends_in(consumer, slot, HELD_MS);
}

static void leases_look(struct loop_timer *timer)
{
    struct consumer *consumer = container_of(timer, struct consumer, end);
    struct loop *loop = consumer->worker->loop;
    int64_t now_ms = (int64_t)loop_now_ms(loop);
    consumer->delivering = true;
    while (!consumer->closed && consumer->ends.count > 0) {
        struct due first = consumer->ends.entries[0];
        if (first.due_ms > now_ms) {
            loop_timer_start(loop, timer, (uint64_t)(first.due_ms - now_ms));
            break;
        }
        due_heap_remove(&consumer->ends, first.offset);
        lease_expired(consumer, (uint32_t)first.offset);
    }
    consumer->delivering = false;
    consumer_leave(consumer);
}

/* ------------------------------------------------ settlements */

static void piece_done(struct request *request, enum status status)
{
    struct piece *piece = container_of(request, struct piece, settle.request);
    struct consumer *consumer = piece->consumer;
    consumer->pieces--;
    bool nested = consumer->delivering;
    consumer->delivering = true;
    for (uint32_t i = 0; i < piece->settle.count && !consumer->closed; i++) {
        if (piece->tokens[i] != 0)
            consumer->ops->settled(consumer, piece->tokens[i],
                                   status != STATUS_OK ? status : piece->results[i]);
    }
    consumer->delivering = nested;
    heap_free(piece->note);
    heap_free(piece);
    if (!consumer->closed)
        consumer_wake(consumer); /* there may be room for more leases */
    consumer_leave(consumer);
}

static void piece_send(struct consumer *consumer, enum settle_outcome outcome)
{
    struct piece *piece = consumer->open[outcome];
    if (piece == NULL)
        return;
    consumer->open[outcome] = NULL;
    consumer->pieces++;
    groups_settle(consumer->worker, consumer->group, &piece->settle);
}

static void pieces_send(struct consumer *consumer)
{
    for (unsigned outcome = 0; outcome < OUTCOMES; outcome++)
        piece_send(consumer, (enum settle_outcome)outcome);
}

static void settle_receipt(struct consumer *consumer, const struct receipt *receipt,
                           const struct group_settle *how, uint64_t token)
{
    struct piece *piece = consumer->open[how->outcome];
    if (piece != NULL &&
        (piece->settle.count == PIECE || piece->settle.delay_ms != how->delay_ms ||
         piece->settle.lease_ms != how->lease_ms || piece->settle.not_for != how->not_for ||
         piece->settle.unharmed != how->unharmed || piece->settle.note.size + how->note.size > 0)) {
        piece_send(consumer, how->outcome);
        piece = NULL;
    }
    if (piece == NULL) {
        piece = consumer->open[how->outcome] = heap_new(sizeof *piece);
        piece->consumer = consumer;
        piece->settle = *how;
        if (how->note.size > 0) {
            piece->note = heap_text((const char *)how->note.data, how->note.size);
            piece->settle.note.data = (const uint8_t *)piece->note;
        }
        piece->settle.receipts = piece->receipts;
        piece->settle.results = piece->results;
        piece->settle.patient = how->outcome == SETTLE_DONE;
        request_init(&piece->settle.request, consumer->worker->loop, piece_done);
        consumer_wake(consumer);
    }
    piece->settle.patient = piece->settle.patient && token == 0;
    piece->tokens[piece->settle.count] = token;
    piece->receipts[piece->settle.count++] = *receipt;
}

static void settle_slot(struct consumer *consumer, uint32_t slot, const struct group_settle *how,
                        uint64_t token)
{
    CHECK(!consumer->closed && how->outcome != SETTLE_RENEWED);
    const struct receipt *receipt = consumer_lease(consumer, slot);
    CHECK(receipt != NULL);
    settle_receipt(consumer, receipt, how, token);
    lease_remove(consumer, slot);
}

void consumer_settle(struct consumer *consumer, uint32_t slot, enum settle_outcome outcome,
                     uint32_t delay_ms, uint64_t token)
{
    struct group_settle how = {.outcome = outcome, .delay_ms = delay_ms};
    settle_slot(consumer, slot, &how, token);
}

void consumer_settle_as(struct consumer *consumer, uint32_t slot,
                        const struct consumer_outcome *outcome, uint64_t token)
{
    struct group_settle how = {.outcome = outcome->outcome,
                               .delay_ms = outcome->delay_ms,
                               .not_for = outcome->away ? consumer->taker : NULL,
                               .unharmed = outcome->unharmed,
                               .note = outcome->note};
    settle_slot(consumer, slot, &how, token);
}

void consumer_renew(struct consumer *consumer, uint32_t slot, uint32_t lease_ms, uint64_t token)
{
    CHECK(!consumer->closed);
    const struct receipt *receipt = consumer_lease(consumer, slot);
    CHECK(receipt != NULL);
    struct group_settle how = {.outcome = SETTLE_RENEWED, .lease_ms = lease_ms};
    settle_receipt(consumer, receipt, &how, token);
    lease_runs(consumer, slot, lease_ms);
}

void consumer_forget(struct consumer *consumer, uint32_t slot)
{
    CHECK(!consumer->closed && consumer_lease(consumer, slot) != NULL);
    lease_remove(consumer, slot);
    consumer_wake(consumer); /* there may be room for more leases */
}

/* ------------------------------------------------ takes */

static bool output_is_full(const struct consumer *consumer)
{
    struct client *client = consumer->client;
    return client->ops->queued != NULL && client->ops->queued(client) >= LIMIT_CLIENT_OUT_BYTES;
}

static void look_fired(struct loop_timer *timer)
{
    consumer_wake(container_of(timer, struct consumer, look));
}

/* What is queued may leave with the flush of this turn; else drained() comes, or a look. */
static void look_again(struct consumer *consumer)
{
    if (loop_timer_is_running(&consumer->look))
        return;
    consumer->look_ms = consumer->look_ms == 0         ? 1
                        : consumer->look_ms >= LOOK_MS ? LOOK_MS
                                                       : 2 * consumer->look_ms;
    loop_timer_start(consumer->worker->loop, &consumer->look, consumer->look_ms);
}

static uint32_t most_leases(const struct consumer *consumer)
{
    uint32_t own = LIMIT_CONSUMER_LEASES - consumer->lease_count;
    uint32_t all = lease_room_left(consumer->client);
    return own < all ? own : all;
}

static void take(struct consumer *consumer)
{
    uint32_t most = consumer->batch;
    if (most > consumer->credit)
        most = consumer->credit;
    if (most > most_leases(consumer))
        most = most_leases(consumer);
    if (most > consumer->item_capacity) {
        heap_free(consumer->take.items);
        consumer->take.items = heap_array(most, sizeof *consumer->take.items);
        consumer->item_capacity = most;
    }
    consumer->take.max_records = most;
    consumer->take.wait_ms = consumer->drain ? 0 : UINT32_MAX;
    consumer->look_ms = 0;
    consumer->taking = true;
    lease_room_take(consumer->client, most); /* until it comes back: then what was taken */
    request_init(&consumer->take.request, consumer->worker->loop, take_back);
    broker_take(consumer->client, consumer->group, &consumer->take);
}

static void drained(struct consumer *consumer)
{
    consumer->drain = false;
    consumer->credit = 0;
    consumer->ops->drained(consumer);
}

/* What follows from credit and drain as they are now. */
static void go_on(struct consumer *consumer)
{
    struct client *client = consumer->client;
    if (consumer->closed || consumer->over)
        return;
    bool takes = !consumer->taking && consumer->credit > 0 &&
                 consumer->lease_count < LIMIT_CONSUMER_LEASES &&
                 consumer->pieces < LIMIT_CONSUMER_PIECES;
    if (consumer->taking) {
        bool unwanted = consumer->credit == 0 || consumer->drain;
        if (unwanted && consumer->take.wait_ms != 0)
            broker_take_cancel(client, consumer->group, &consumer->take);
    } else if (consumer->drain && (consumer->credit == 0 || most_leases(consumer) == 0)) {
        drained(consumer);
    } else if (takes && output_is_full(consumer)) {
        look_again(consumer);
    } else if (takes && !lease_room_is_its(client, &consumer->room, consumer->drain)) {
        return;
    } else if (takes) {
        take(consumer);
    }
    if (!consumer->closed)
        lease_room_go_on(client, &consumer->room);
}

static void consumer_work(struct loop_task *task)
{
    struct consumer *consumer = container_of(task, struct consumer, work);
    consumer->delivering = true;
    pieces_send(consumer);
    go_on(consumer);
    consumer->delivering = false;
    consumer_leave(consumer);
}

/* Rights may be others since the take began. */
static enum status still_allowed(struct consumer *consumer)
{
    const struct catalog *catalog = consumer->worker->catalog;
    uint64_t checked = catalog_generation(catalog) + 1;
    if (consumer->checked == checked)
        return STATUS_OK;
    const struct queue *queue = catalog_queue(catalog, consumer->group->queue);
    enum status status = queue == NULL ? STATUS_NOT_FOUND
                                       : broker_check(consumer->client, ACTION_CONSUME, false,
                                                      span_from_text(queue->name));
    if (status == STATUS_OK)
        consumer->checked = checked;
    return status;
}

/* Hands over what was taken; what nobody wants any more is given back. */
static void hand_over(struct consumer *consumer, bool wanted)
{
    static const struct group_settle back = {.outcome = SETTLE_RELEASED};
    for (uint32_t i = 0; i < consumer->take.count; i++) {
        struct group_item *item = &consumer->take.items[i];
        if (!wanted || consumer->closed || consumer->credit == 0) {
            settle_receipt(consumer, &item->receipt, &back, 0);
        } else {
            consumer->credit--;
            consumer->client->figures->delivered_now++;
            uint32_t slot = lease_add(consumer, &item->receipt);
            lease_runs(consumer, slot, item->lease_ms);
            consumer->ops->deliver(consumer, slot, item);
        }
        batch_unref(item->batch);
        blob_unref(item->note);
    }
}

static void take_back(struct request *request, enum status status)
{
    struct consumer *consumer = container_of(request, struct consumer, take.request);
    consumer->taking = false;
    if (!consumer->closed)
        lease_room_give_back(consumer->client, consumer->take.max_records);
    consumer->delivering = true;
    if (consumer->take.count == consumer->batch)
        consumer->batch =
            consumer->batch > consumer->batch_size / 4 ? consumer->batch_size : 4 * consumer->batch;
    if (status == STATUS_OK && consumer->take.count > 0 && !consumer->closed)
        status = still_allowed(consumer);
    hand_over(consumer, status == STATUS_OK);
    figures_flush(consumer->worker);
    if (consumer->closed) {
        pieces_send(consumer);
    } else if (status != STATUS_OK && status != STATUS_CANCELED) {
        consumer->over = true;
        lease_room_go_on(consumer->client, &consumer->room);
        consumer->ops->ended(consumer, status);
    } else {
        bool nothing = consumer->take.count == 0 && consumer->take.wait_ms == 0;
        if (consumer->drain && nothing && status == STATUS_OK)
            drained(consumer);
        go_on(consumer);
    }
    consumer->delivering = false;
    consumer_leave(consumer);
}

void consumer_credit(struct consumer *consumer, uint32_t credit, bool drain)
{
    CHECK(!consumer->closed && (!drain || consumer->ops->drained != NULL));
    consumer->credit = credit;
    consumer->drain = drain;
    consumer_wake(consumer);
}

/* ------------------------------------------------ the end */

void consumer_close(struct consumer *consumer, bool release)
{
    if (consumer == NULL || consumer->closed)
        return;
    CHECK(loop_is_home(consumer->worker->loop));
    static const struct group_settle back = {.outcome = SETTLE_RELEASED};
    for (uint32_t slot = 0; release && slot < consumer->slot_capacity; slot++) {
        const struct receipt *receipt = consumer_lease(consumer, slot);
        if (receipt != NULL)
            settle_receipt(consumer, receipt, &back, 0);
    }
    if (consumer->taking)
        broker_take_cancel(consumer->client, consumer->group, &consumer->take);
    loop_timer_stop(consumer->worker->loop, &consumer->look);
    loop_timer_stop(consumer->worker->loop, &consumer->end);
    atomic_store_explicit(&consumer->taker->gone, true, memory_order_relaxed);
    consumer->closed = true;
    link_remove(&consumer->of_client);
    lease_room_go_on(consumer->client, &consumer->room);
    lease_room_give_back(consumer->client, consumer->lease_count +
                                               (consumer->taking ? consumer->take.max_records : 0));
    pieces_send(consumer);
    consumer->client = NULL;
    if (!consumer->delivering)
        consumer_leave(consumer);
}

void consumers_close(struct client *client)
{
    struct link *link;
    while ((link = list_first(&client->consumers)) != NULL)
        consumer_close(container_of(link, struct consumer, of_client), true);
}

void consumers_go_on(struct client *client)
{
    list_each(link, &client->consumers)
        consumer_wake(container_of(link, struct consumer, of_client));
}
