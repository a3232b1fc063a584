/* SPDX-License-Identifier: Apache-2.0 */
/* A broker over the memory engine on real loops, and peers of a protocol that does not exist. The
 * test's thread asks for things and waits; everything happens on the loops, and what a peer saw is
 * looked at there too. */
#ifndef TESTS_UNIT_BROKER_RIG_H
#define TESTS_UNIT_BROKER_RIG_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "core/base/check.h"
#include "core/base/heap.h"
#include "core/base/limits.h"
#include "core/base/trace.h"
#include "core/broker/administer.h"
#include "core/broker/broker.h"
#include "core/broker/metrics.h"
#include "core/net/offload.h"
#include "core/net/worker.h"
#include "storage/memory/memory.h"

enum { RIG_WORKERS_MAX = 3, RIG_WAIT_MS = 20000 };

struct rig {
    unsigned count;
    struct worker *workers[RIG_WORKERS_MAX];
    struct loop *loops[RIG_WORKERS_MAX];
    struct storage *storage;
    struct broker *broker;
    struct broker_options options;
    atomic_bool sync_fails;
};
static struct rig rig;

/* ------------------------------------------------ things to do on a loop */

struct errand {
    struct mail mail;
    void (*run)(void *context);
    void *context;
    atomic_bool done;
};

static inline void errand_deliver(struct mail *mail)
{
    struct errand *errand = container_of(mail, struct errand, mail);
    errand->run(errand->context);
    atomic_store(&errand->done, true);
}

static inline void rig_await(atomic_bool *done)
{
    for (unsigned i = 0; !atomic_load(done); i++) {
        CHECK(i < RIG_WAIT_MS * 10u);
        usleep(100);
    }
}

static inline void on(unsigned worker, void (*run)(void *), void *context)
{
    struct errand errand = {.mail = {.deliver = errand_deliver}, .run = run, .context = context};
    mailbox_post(rig.loops[worker], &errand.mail);
    rig_await(&errand.done);
}

/* A worker that does nothing for a while. */
struct standstill {
    struct errand errand;
    atomic_bool over;
};

static inline void standstill_run(void *context)
{
    rig_await(context);
}

static inline void stand_still(struct standstill *standstill, unsigned worker)
{
    *standstill = (struct standstill){.errand = {.run = standstill_run}};
    standstill->errand.mail.deliver = errand_deliver;
    standstill->errand.context = &standstill->over;
    mailbox_post(rig.loops[worker], &standstill->errand.mail);
}

static inline void move_on(struct standstill *standstill)
{
    atomic_store(&standstill->over, true);
    rig_await(&standstill->errand.done);
}

/* A request that the test's thread waits for. */
struct waiter {
    struct request request;
    atomic_bool done;
    enum status status;
};

static inline void waiter_done(struct request *request, enum status status)
{
    struct waiter *waiter = container_of(request, struct waiter, request);
    waiter->status = status;
    atomic_store(&waiter->done, true);
}

/* ------------------------------------------------ the broker */

static inline enum status rig_sync(void *context)
{
    struct rig *of = context;
    return atomic_load(&of->sync_fails) ? STATUS_STORAGE_FAILED : STATUS_OK;
}

static inline void broker_rise(unsigned workers)
{
    rig.count = workers;
    for (unsigned i = 0; i < workers; i++) {
        rig.workers[i] = worker_new(i);
        rig.loops[i] = worker_loop(rig.workers[i]);
    }
    rig.options.storage = rig.storage;
    rig.options.workers = workers;
    rig.options.loops = rig.loops;
    rig.options.built_in_queue = "mqtt";
    struct err err = {0};
    rig.broker = broker_open(&rig.options, &err);
    if (rig.broker == NULL)
        fail_msg("%s", err.text);
    for (unsigned i = 0; i < workers; i++)
        worker_start(rig.workers[i]);
    struct waiter ready = {0};
    request_init(&ready.request, rig.loops[0], waiter_done);
    broker_when_ready(rig.broker, &ready.request);
    rig_await(&ready.done);
    assert_int_equal(ready.status, STATUS_OK);
    assert_true(broker_is_ready(rig.broker));
}

static inline void rig_open(unsigned workers)
{
    memset(&rig, 0, sizeof rig);
    trace_set_level(TRACE_ERROR);
    offload_open();
    struct storage_options options = {.sync_hook = rig_sync, .sync_context = &rig};
    struct err err = {0};
    assert_int_equal(memory_storage_ops.open(&options, &rig.storage, &err), STATUS_OK);
    broker_rise(workers);
}

static inline void broker_fall(void)
{
    struct waiter down = {0};
    request_init(&down.request, rig.loops[0], waiter_done);
    broker_shut_down(rig.broker, &down.request);
    rig_await(&down.done);
    for (unsigned i = 0; i < rig.count; i++)
        worker_stop(rig.workers[i]);
}

static inline void broker_bury(void)
{
    broker_free(rig.broker);
    rig.broker = NULL;
    for (unsigned i = 0; i < rig.count; i++)
        worker_free(rig.workers[i]);
}

static inline void rig_close(void)
{
    broker_fall();
    offload_close();
    rig.storage->ops->close(rig.storage);
    broker_bury();
}

/* ------------------------------------------------ peers */

enum { SEEN_MAX = 4096, VALUE_MAX = 24 };

struct seen_record {
    uint32_t identifier; /* of the subscription */
    uint32_t variant, failures;
    uint64_t offset, at_ms; /* on the loop's clock */
    char topic[VALUE_MAX], value[VALUE_MAX];
};

/* A delivery of a shared subscription that is not settled. */
struct seen_lease {
    struct subscription *subscription;
    uint32_t lease;
};

struct seen_answer {
    uint64_t token;
    enum status status;
    uint64_t partition, offset;
};

struct peer {
    struct client client;
    unsigned worker;
    /* Only on the loop: */
    struct seen_record *records;
    uint32_t record_count;
    struct seen_answer *answers;
    uint32_t answer_count;
    uint32_t resumed, forgotten, released;
    size_t queued, queued_max; /* grows with deliveries while it is stalled */
    bool stalled, settles;
    bool ended, closes_at_end, closes_at_answer;
    bool oversized, unlimited; /* nothing fits; or all credit comes back at once, from inside */
    enum status why;
    struct loop_task settle_task;
    uint32_t to_settle;
    struct seen_lease leases[SEEN_MAX]; /* a ring, the oldest settled first */
    uint32_t lease_first, lease_count;
};

static inline struct peer *peer_of(struct client *client)
{
    return container_of(client, struct peer, client);
}

static inline void peer_answered(struct client *client, uint64_t token, enum status status,
                                 uint64_t partition, uint64_t offset)
{
    struct peer *peer = peer_of(client);
    CHECK(loop_is_home(rig.loops[peer->worker]));
    CHECK(client->open);
    CHECK(peer->answer_count < SEEN_MAX);
    peer->answers[peer->answer_count++] = (struct seen_answer){token, status, partition, offset};
    if (peer->closes_at_answer)
        client_close(client);
}

static inline uint32_t peer_variant(struct client *client, const struct subscription *subscription,
                                    const struct record *record)
{
    (void)client;
    (void)record;
    return (uint32_t)subscription->guarantee;
}

static inline struct blob *peer_encode(uint32_t variant, const struct record *record)
{
    (void)variant;
    return blob_new(record->value.size + 16);
}

static inline bool peer_deliver(struct client *client, struct subscription *subscription,
                                struct blob *frame, uint32_t variant, const struct record *record)
{
    struct peer *peer = peer_of(client);
    CHECK(loop_is_home(rig.loops[peer->worker]));
    CHECK(client->open);
    if (peer->oversized)
        return false;
    bool leased = subscription->shared && subscription->guarantee != GUARANTEE_AT_MOST_ONCE &&
                  record_guarantee(record) != GUARANTEE_AT_MOST_ONCE;
    if (leased)
        peer->leases[(peer->lease_first + peer->lease_count++) % SEEN_MAX] =
            (struct seen_lease){subscription, subscription->lease};
    if (peer->unlimited) {
        client_settled(client, 1);
        return true;
    }
    CHECK(peer->record_count < SEEN_MAX);
    struct seen_record *seen = &peer->records[peer->record_count++];
    struct span topic = {0};
    record_find(record, HEADER_TOPIC, &topic);
    *seen = (struct seen_record){
        .identifier = subscription->identifier,
        .variant = variant,
        .failures = subscription->failures,
        .offset = record->offset,
        .at_ms = loop_now_ms(rig.loops[peer->worker]),
    };
    snprintf(seen->topic, VALUE_MAX, "%.*s", (int)topic.size, (const char *)topic.data);
    snprintf(seen->value, VALUE_MAX, "%.*s", (int)record->value.size,
             (const char *)record->value.data);
    if (peer->stalled)
        peer->queued += frame->size;
    if (peer->queued > peer->queued_max)
        peer->queued_max = peer->queued;
    if (peer->settles) {
        peer->to_settle++;
        loop_defer(rig.loops[peer->worker], &peer->settle_task, LOOP_FLUSH);
    }
    return true;
}

/* Of a session that outlives its client; it is not settled. Its number is the identifier. */
static inline bool peer_deliver_kept(struct client *client, struct blob *frame,
                                     const struct kept_delivery *kept)
{
    struct peer *peer = peer_of(client);
    (void)frame;
    CHECK(loop_is_home(rig.loops[peer->worker]) && peer->record_count < SEEN_MAX);
    peer->records[peer->record_count++] =
        (struct seen_record){.identifier = kept->number,
                             .offset = kept->offset,
                             .at_ms = loop_now_ms(rig.loops[peer->worker])};
    return true;
}

static inline void peer_settle_some(struct peer *peer, uint32_t count)
{
    for (uint32_t i = 0; i < count && peer->lease_count > 0; i++) {
        struct seen_lease *lease = &peer->leases[peer->lease_first++ % SEEN_MAX];
        peer->lease_count--;
        broker_share_settled(lease->subscription, lease->lease);
    }
    client_settled(&peer->client, count);
}

static inline void peer_settle_task(struct loop_task *task)
{
    struct peer *peer = container_of(task, struct peer, settle_task);
    uint32_t count = peer->to_settle;
    peer->to_settle = 0;
    peer_settle_some(peer, count);
}

static inline size_t peer_queued(struct client *client)
{
    return peer_of(client)->queued;
}

static inline void peer_resume(struct client *client)
{
    peer_of(client)->resumed++;
}

static inline void peer_forgotten(struct client *client, uint32_t number)
{
    (void)number;
    peer_of(client)->forgotten++;
}

static inline void peer_end(struct client *client, enum status why)
{
    struct peer *peer = peer_of(client);
    CHECK(!peer->ended);
    peer->ended = true;
    peer->why = why;
    if (peer->closes_at_end) {
        loop_task_cancel(rig.loops[peer->worker], &peer->settle_task);
        client_close(client);
    }
}

static inline void peer_release(struct client *client, uint32_t number)
{
    (void)number;
    peer_of(client)->released++;
}

static const struct client_ops peer_ops = {
    .protocol = "peer",
    .answered = peer_answered,
    .variant = peer_variant,
    .encode = peer_encode,
    .deliver = peer_deliver,
    .deliver_kept = peer_deliver_kept,
    .release = peer_release,
    .forgotten = peer_forgotten,
    .queued = peer_queued,
    .resume = peer_resume,
    .end = peer_end,
};

static inline void peer_init_run(void *context)
{
    struct peer *peer = context;
    client_init(&peer->client, broker_worker(rig.broker, peer->worker), &peer_ops);
}

struct login_call {
    struct broker_login login;
    atomic_bool done;
    enum status status;
};

static inline void login_call_done(struct request *request, enum status status)
{
    struct login_call *call = container_of(request, struct login_call, login.request);
    call->status = status;
    atomic_store(&call->done, true);
}

static inline void login_call_run(void *context)
{
    struct login_call *call = context;
    broker_login(&call->login);
}

static inline enum status peer_login(struct peer *peer, const char *user, const char *password,
                                     const char *id)
{
    struct login_call call = {.login = {.client = &peer->client,
                                        .user = span_from_text(user),
                                        .password = span_from_text(password),
                                        .client_id = span_from_text(id)}};
    request_init(&call.login.request, rig.loops[peer->worker], login_call_done);
    on(peer->worker, login_call_run, &call);
    rig_await(&call.done);
    return call.status;
}

/* A client that may not do anything yet. */
static inline struct peer *peer_connect(unsigned worker)
{
    struct peer *peer = heap_new(sizeof *peer);
    peer->worker = worker % rig.count;
    peer->records = heap_array(SEEN_MAX, sizeof *peer->records);
    peer->answers = heap_array(SEEN_MAX, sizeof *peer->answers);
    peer->settles = true;
    peer->closes_at_end = true;
    peer->settle_task.run = peer_settle_task;
    on(peer->worker, peer_init_run, peer);
    return peer;
}

static inline struct peer *peer_new(unsigned worker, const char *id)
{
    struct peer *peer = peer_connect(worker);
    assert_int_equal(peer_login(peer, "", "", id), STATUS_OK);
    return peer;
}

static inline void peer_close_run(void *context)
{
    struct peer *peer = context;
    loop_task_cancel(rig.loops[peer->worker], &peer->settle_task);
    client_close(&peer->client);
}

/* Before the broker is shut down, or after it when the broker has told it to go. */
static inline void peer_free(struct peer *peer)
{
    heap_free(peer->records);
    heap_free(peer->answers);
    heap_free(peer);
}

static inline void peer_close(struct peer *peer)
{
    on(peer->worker, peer_close_run, peer);
    peer_free(peer);
}

/* ------------------------------------------------ sessions */

struct attach_call {
    struct broker_attach attach;
    atomic_bool done;
    enum status status;
};

static inline void attach_call_done(struct request *request, enum status status)
{
    struct attach_call *call = container_of(request, struct attach_call, attach.request);
    call->status = status;
    atomic_store(&call->done, true);
}

static inline void attach_call_run(void *context)
{
    struct attach_call *call = context;
    broker_attach(&call->attach);
}

static inline void session_begin_run(void *context)
{
    broker_session_begin(&((struct peer *)context)->client);
}

/* Of a client that is logged in; present: its session was there. It has not begun: a session takes
 * part in its shares again before. */
static inline enum status session_find(struct peer *peer, struct broker_attach attach,
                                       bool *present)
{
    struct attach_call call = {.attach = attach};
    call.attach.client = &peer->client;
    request_init(&call.attach.request, rig.loops[peer->worker], attach_call_done);
    on(peer->worker, attach_call_run, &call);
    rig_await(&call.done);
    *present = call.attach.present;
    heap_free(call.attach.received);
    buf_deinit(&call.attach.notes);
    return call.status;
}

static inline enum status session_attach(struct peer *peer, struct broker_attach attach,
                                         bool *present)
{
    enum status status = session_find(peer, attach, present);
    if (status == STATUS_OK)
        on(peer->worker, session_begin_run, peer);
    return status;
}

/* A client whose session is kept for so long. */
static inline struct peer *peer_attach(unsigned worker, const char *id, uint32_t expiry_s,
                                       const struct broker_will *will, bool *present)
{
    struct peer *peer = peer_new(worker, id);
    struct broker_attach attach = {.expiry_s = expiry_s, .will = will};
    assert_int_equal(session_attach(peer, attach, present), STATUS_OK);
    return peer;
}

/* ------------------------------------------------ what peers do */

struct subscribe_call {
    struct broker_subscribe subscribe;
    struct subscribe_item item;
    atomic_bool done;
};

static inline void subscribe_call_done(struct request *request, enum status status)
{
    struct subscribe_call *call = container_of(request, struct subscribe_call, subscribe.request);
    CHECK(status == STATUS_OK);
    atomic_store(&call->done, true);
}

static inline void subscribe_call_run(void *context)
{
    struct subscribe_call *call = context;
    broker_subscribe(&call->subscribe);
}

static inline enum status peer_subscribe_item(struct peer *peer, struct subscribe_item item)
{
    struct subscribe_call call = {.item = item};
    call.subscribe = (struct broker_subscribe){.client = &peer->client, .count = 1};
    call.subscribe.items = &call.item;
    request_init(&call.subscribe.request, rig.loops[peer->worker], subscribe_call_done);
    on(peer->worker, subscribe_call_run, &call);
    rig_await(&call.done);
    return call.item.status;
}

static inline enum status peer_subscribe(struct peer *peer, const char *filter,
                                         enum guarantee guarantee, uint32_t identifier)
{
    return peer_subscribe_item(peer, (struct subscribe_item){.filter = span_from_text(filter),
                                                             .guarantee = guarantee,
                                                             .identifier = identifier});
}

struct publish_call {
    struct peer *peer;
    struct publish publish;
    const char *queue;
    uint32_t first, count; /* of one turn; the value is the number, the token too */
    const char *value;     /* instead of the number */
};

static inline void publish_call_run(void *context)
{
    struct publish_call *call = context;
    struct client *client = &call->peer->client;
    if (call->queue != NULL)
        call->publish.queue = catalog_queue_by_text(broker_catalog(client->worker), client->tenant,
                                                    span_from_text(call->queue));
    for (uint32_t i = 0; i < call->count; i++) {
        char text[16];
        snprintf(text, sizeof text, "%u", call->first + i);
        struct publish publish = call->publish;
        if (publish.body.data == NULL)
            publish.body = span_from_text(call->value != NULL ? call->value : text);
        publish.token = call->first + i;
        broker_publish(client, &publish);
    }
}

static inline void publish_many(struct peer *peer, const char *topic, enum guarantee guarantee,
                                uint32_t first, uint32_t count)
{
    struct publish_call call = {
        .peer = peer,
        .publish = {.topic = span_from_text(topic),
                    .guarantee = guarantee,
                    .answer = guarantee != GUARANTEE_AT_MOST_ONCE},
        .first = first,
        .count = count,
    };
    on(peer->worker, publish_call_run, &call);
}

static inline void publish_to_queue(struct peer *peer, const char *queue, uint32_t first,
                                    uint32_t count)
{
    struct publish_call call = {
        .peer = peer, .publish = {.answer = true}, .queue = queue, .first = first, .count = count};
    on(peer->worker, publish_call_run, &call);
}

struct settle_call {
    struct peer *peer;
    uint32_t count;
};

static inline void settle_call_run(void *context)
{
    struct settle_call *call = context;
    peer_settle_some(call->peer, call->count);
}

static inline void peer_settle(struct peer *peer, uint32_t count)
{
    on(peer->worker, settle_call_run, &(struct settle_call){peer, count});
}

static inline void drained_run(void *context)
{
    struct peer *peer = context;
    peer->queued = 0;
    client_drained(&peer->client);
}

/* ------------------------------------------------ looking */

static inline int number_of(const char *text)
{
    return (int)strtol(text, NULL, 10);
}

struct look {
    struct peer *peer;
    uint32_t records, answers, resumed, released;
    size_t queued_max;
    bool ended;
    enum status why;
};

static inline void look_run(void *context)
{
    struct look *look = context;
    const struct peer *peer = look->peer;
    look->records = peer->record_count;
    look->answers = peer->answer_count;
    look->resumed = peer->resumed;
    look->released = peer->released;
    look->queued_max = peer->queued_max;
    look->ended = peer->ended;
    look->why = peer->why;
}

static inline struct look peer_look(struct peer *peer)
{
    struct look look = {.peer = peer};
    on(peer->worker, look_run, &look);
    return look;
}

#define await(condition)                                                                           \
    for (unsigned waited = 0; !(condition); waited++) {                                            \
        if (waited > RIG_WAIT_MS)                                                                  \
            fail_msg("waited for nothing: %s", #condition);                                        \
        usleep(1000);                                                                              \
    }

static inline void nothing_run(void *context)
{
    (void)context;
}

/* Whatever was on its way between the loops has arrived (several hops of each). */
static inline void rig_calm(void)
{
    for (unsigned round = 0; round < 20; round++) {
        for (unsigned i = 0; i < rig.count; i++)
            on(i, nothing_run, NULL);
        usleep(500);
    }
}

static inline void await_records(struct peer *peer, uint32_t count)
{
    await(peer_look(peer).records >= count);
    rig_calm();
    assert_int_equal(peer_look(peer).records, count);
}

static inline void await_answers(struct peer *peer, uint32_t count)
{
    await(peer_look(peer).answers >= count);
    assert_int_equal(peer_look(peer).answers, count);
}

/* ------------------------------------------------ administration */

struct admin_call {
    struct broker_admin admin;
    atomic_bool done;
    enum status status;
};

static inline void admin_call_done(struct request *request, enum status status)
{
    struct admin_call *call = container_of(request, struct admin_call, admin.request);
    call->status = status;
    atomic_store(&call->done, true);
}

static inline void admin_call_run(void *context)
{
    struct admin_call *call = context;
    broker_administer(&call->admin);
}

static inline void admin_begin(struct peer *peer, struct admin_call *call)
{
    call->admin.client = &peer->client;
    request_init(&call->admin.request, rig.loops[peer->worker], admin_call_done);
    on(peer->worker, admin_call_run, call);
}

/* Gives back the id of what was made. */
static inline enum status administer(struct peer *peer, struct broker_admin admin, uint64_t *id)
{
    struct admin_call call = {.admin = admin};
    admin_begin(peer, &call);
    rig_await(&call.done);
    if (call.admin.queue != NULL && id != NULL)
        *id = call.admin.queue->id;
    if (call.admin.group != NULL && id != NULL)
        *id = call.admin.group->id;
    queue_unref(call.admin.queue);
    group_spec_unref(call.admin.group);
    return call.status;
}

static inline enum status queue_make(struct peer *peer, const char *name, uint64_t *id)
{
    return administer(
        peer, (struct broker_admin){.action = ADMIN_QUEUE_CREATE, .name = span_from_text(name)},
        id);
}

static inline enum status group_make(struct peer *peer, uint64_t queue, const char *name, bool dms,
                                     uint64_t *id)
{
    return administer(
        peer,
        (struct broker_admin){
            .action = ADMIN_GROUP_CREATE, .name = span_from_text(name), .id = queue, .dms = dms},
        id);
}

static inline enum status user_make(struct peer *peer, const char *name, const char *password)
{
    return administer(peer,
                      (struct broker_admin){.action = ADMIN_USER_SET,
                                            .name = span_from_text(name),
                                            .password = span_from_text(password)},
                      NULL);
}

static inline enum status grants_set(struct peer *peer, const char *name, const char *actions,
                                     const char *pattern)
{
    struct grant grant = {0};
    struct err err;
    if (actions != NULL)
        assert_int_equal(
            grant_parse(span_from_text(actions), span_from_text(pattern), &grant, &err), STATUS_OK);
    enum status status = administer(peer,
                                    (struct broker_admin){.action = ADMIN_GRANTS_SET,
                                                          .name = span_from_text(name),
                                                          .grants = &grant,
                                                          .grant_count = actions != NULL},
                                    NULL);
    grant_deinit(&grant);
    return status;
}

static inline int64_t rig_metric(const char *name, const char *labels)
{
    struct metric *metric = metric_counter(name, "", labels);
    return atomic_load(&metric->value);
}

#endif
