/* SPDX-License-Identifier: Apache-2.0 */
/* What is known of each message outlives the gateway; the clients do not. */
#include "tests/sim/repeat_peer.h"

#include <stdio.h>

#include "core/base/heap.h"
#include "tests/sim/history.h"
#include "tests/sim/sim.h"

/* Of the tales the first are told with ids, by several at once, the others with numbers, by one. */
enum { KEYED = 2, TALES = 4, TELLERS = 3, MESSAGES = 400, BEHIND = 4 };

static struct tale {
    uint32_t next; /* the first that was never answered */
    struct {
        bool known, found;
        uint64_t partition, offset;
    } messages[MESSAGES];
} tales[TALES];
static bool stopped;

struct teller {
    struct client client;
    struct broker_login login;
    struct broker_worker *worker;
    unsigned tale;
};

void repeat_begin(void)
{
    memset(tales, 0, sizeof tales);
    stopped = false;
}

void repeat_stop(void)
{
    stopped = true;
}

static void tell(void *context)
{
    struct teller *teller = context;
    struct tale *tale = &tales[teller->tale];
    if (stopped || tale->next == MESSAGES)
        return;
    /* Mostly what is next, else one before it once more. */
    uint32_t back = sim_chance(60) ? 0 : (uint32_t)sim_below(BEHIND);
    uint32_t number = tale->next > back ? tale->next - back : tale->next;
    char text[32], name[8];
    snprintf(text, sizeof text, "%u %u", teller->tale, number);
    snprintf(name, sizeof name, "tale%u", teller->tale);
    struct publish publish = {
        .queue = catalog_queue_by_text(broker_catalog(teller->worker), TENANT_DEFAULT,
                                       span_from_text(REPEAT_QUEUE)),
        .body = span_from_text(text),
        .answer = true,
        .token = number,
    };
    if (publish.queue == NULL)
        history_fail("the queue of repeats is gone");
    if (teller->tale < KEYED) {
        publish.dedup_id = span_from_text(text);
    } else {
        publish.producer = span_from_text(name);
        publish.sequence = (int32_t)number;
    }
    broker_publish(&teller->client, &publish);
}

static void tell_later(void *context)
{
    struct teller *teller = context;
    sim_on(broker_loop(teller->worker), tell, teller);
}

static void answered(struct client *client, uint64_t token, enum status status, uint64_t partition,
                     uint64_t offset)
{
    struct teller *teller = container_of(client, struct teller, client);
    struct tale *tale = &tales[teller->tale];
    if (status != STATUS_OK && status != STATUS_STORAGE_FAILED && status != STATUS_SHUTTING_DOWN)
        history_fail("message %llu of tale %u was refused: %s", (unsigned long long)token,
                     teller->tale, status_text(status));
    if (status == STATUS_OK && offset == DEDUP_OFFSET_UNKNOWN && !tale->messages[token].known)
        history_fail("message %llu of tale %u is a duplicate of one never stored",
                     (unsigned long long)token, teller->tale);
    if (status == STATUS_OK && offset != DEDUP_OFFSET_UNKNOWN) {
        if (tale->messages[token].known && (tale->messages[token].partition != partition ||
                                            tale->messages[token].offset != offset))
            history_fail("message %llu of tale %u lies at offset %llu and at %llu",
                         (unsigned long long)token, teller->tale,
                         (unsigned long long)tale->messages[token].offset,
                         (unsigned long long)offset);
        tale->messages[token].known = true;
        tale->messages[token].partition = partition;
        tale->messages[token].offset = offset;
        if (tale->next == token)
            tale->next++;
    }
    if (status == STATUS_OK)
        sim_after(sim_below(60), tell_later, teller);
}

static void end(struct client *client, enum status why)
{
    (void)client;
    (void)why;
}

static void resume(struct client *client)
{
    (void)client;
}

static const struct client_ops ops = {
    .protocol = "sim", .answered = answered, .resume = resume, .end = end};

static void login_done(struct request *request, enum status status)
{
    struct teller *teller = container_of(request, struct teller, login.request);
    if (status == STATUS_OK)
        tell(teller);
}

static void teller_begin(void *context)
{
    struct teller *teller = context;
    client_init(&teller->client, teller->worker, &ops);
    teller->login.client = &teller->client;
    request_init(&teller->login.request, broker_loop(teller->worker), login_done);
    broker_login(&teller->login);
}

void repeat_start(struct broker_worker *(*any_worker)(void))
{
    for (unsigned tale = 0; tale < TALES; tale++) {
        for (unsigned i = 0; i < (tale < KEYED ? TELLERS : 1); i++) {
            struct teller *teller = heap_new(sizeof *teller);
            teller->worker = any_worker();
            teller->tale = tale;
            sim_on(broker_loop(teller->worker), teller_begin, teller);
        }
    }
}

void repeat_final(uint64_t partition, uint64_t offset, struct span payload)
{
    unsigned tale, number;
    char text[32] = "";
    memcpy(text, payload.data, payload.size < sizeof text ? payload.size : sizeof text - 1);
    if (sscanf(text, "%u %u", &tale, &number) != 2 || tale >= TALES || number >= MESSAGES)
        history_fail("no message of a tale: %s", text);
    if (tales[tale].messages[number].found)
        history_fail("message %u of tale %u is there twice", number, tale);
    tales[tale].messages[number].found = true;
    if (tales[tale].messages[number].known &&
        (tales[tale].messages[number].partition != partition ||
         tales[tale].messages[number].offset != offset))
        history_fail("message %u of tale %u lies elsewhere than was said", number, tale);
}

uint64_t repeat_check_final(void)
{
    uint64_t count = 0;
    for (unsigned tale = 0; tale < TALES; tale++) {
        for (unsigned i = 0; i < MESSAGES; i++) {
            count += tales[tale].messages[i].found;
            if (tales[tale].messages[i].known && !tales[tale].messages[i].found)
                history_fail("message %u of tale %u was acknowledged and is lost", i, tale);
        }
    }
    return count;
}
