/* SPDX-License-Identifier: Apache-2.0 */
/* One run: publishers, subscribers and a group's consumers over a gateway that is killed, whose
 * disk fails, whose connections break, all drawn from the seed; then peace, and the checkers.
 * Usage: sim [FIRST_SEED [COUNT]]. */
#include <stdio.h>
#include <stdlib.h>

#include "adapters/amqp/amqp.h"
#include "adapters/http/websocket.h"
#include "adapters/mqtt/mqtt.h"
#include "adapters/ws/ws.h"
#include "core/base/heap.h"
#include "core/base/trace.h"
#include "tests/sim/admin_peer.h"
#include "tests/sim/amqp_peer.h"
#include "tests/sim/due_peer.h"
#include "tests/sim/group_peer.h"
#include "tests/sim/guest_peer.h"
#include "tests/sim/halted_peer.h"
#include "tests/sim/history.h"
#include "tests/sim/kept_history.h"
#include "tests/sim/link_peer.h"
#include "tests/sim/look_peer.h"
#include "tests/sim/link_share.h"
#include "tests/sim/moment.h"
#include "tests/sim/mqtt_peer.h"
#include "tests/sim/repeat_peer.h"
#include "tests/sim/resume_peer.h"
#include "tests/sim/retained_peer.h"
#include "tests/sim/session_peer.h"
#include "tests/sim/share_peer.h"
#include "tests/sim/sim.h"
#include "tests/sim/stray_peer.h"
#include "tests/sim/will_peer.h"
#include "tests/sim/work_history.h"
#include "tests/sim/ws_peer.h"

enum {
    WORKERS_MAX = 3,
    SUBSCRIBERS = 3,
    MEMBERS = 3,
    SESSIONS = 4,
    WILL_PEERS = 2,
    AMQP_PEERS = 3,
    LINK_PEERS = 5,         /* the first two share, of the last nothing is kept */
    TRANSACTION_MS = 20000, /* some are forgotten, and over before the end */
    WS_PEERS = 2,
    CONSUMERS = 4 /* one of dead letters */,
    CRASHES_MAX = 5,
    ROUNDS = 20,
    STANDS_ONE_IN = 3, /* runs, amid all; else it stands at the end */
    RUNS_MANY = 10,
    MOMENT_MS = 500,
    STANDS_MS = 160 * 1000, /* as long as the disk may, and a little */
    MINUTE_MS = 60 * 1000
};

/* The gateway of the moment. */
static struct {
    struct broker *broker;
    unsigned workers;
    struct loop *loops[WORKERS_MAX];
    bool ready;
    struct request ready_request;
    struct consumer *consumers[CONSUMERS];
    struct http *https[WORKERS_MAX];
} gateway;

static struct sim_disk *disk;
static struct publisher *publishers[TOPICS];
static struct subscriber *subscribers[SUBSCRIBERS];
static struct member *members[MEMBERS];
static struct session_peer *sessions[SESSIONS];
static struct share_peer *share_peers[SHARE_PEERS];
static struct amqp_peer *amqp_peers[AMQP_PEERS];
static struct will_peer *will_peers[WILL_PEERS];
static struct link_peer *link_peers[LINK_PEERS];
static struct ws_peer *ws_peers[WS_PEERS];
static bool polite;

/* ------------------------------------------------ the gateway's life */

static void when_ready(struct request *request, enum status status)
{
    (void)request;
    gateway.ready = status == STATUS_OK;
}

static bool is_ready(void *context)
{
    (void)context;
    return gateway.ready;
}

static void boot(void)
{
    struct storage_options storage_options = {0};
    struct storage *storage;
    struct err err = {.text = ""};
    sim_disk_use(disk);
    sim_storage_ops.open(&storage_options, &storage, &err);
    amqp_configure(&(struct amqp_options){
        .auto_create = true}); /* forgets what the last gateway had in memory */
    gateway.workers = 1 + (unsigned)sim_below(WORKERS_MAX);
    for (unsigned i = 0; i < gateway.workers; i++)
        gateway.loops[i] = loop_new();
    struct broker_options options = {
        .storage = storage,
        .workers = gateway.workers,
        .loops = gateway.loops,
        .built_in_queue = "mqtt",
        .transaction_ms = TRANSACTION_MS,
        .session_expiry_s = history_life() % 2 == 0 ? 0 : KEPT_S,
    };
    gateway.broker = broker_open(&options, &err);
    if (gateway.broker == NULL)
        history_fail("the gateway does not start: %s", err.text);
    gateway.ready = false;
    request_init(&gateway.ready_request, gateway.loops[0], when_ready);
    broker_when_ready(gateway.broker, &gateway.ready_request);
    if (!sim_run(is_ready, NULL, MINUTE_MS))
        history_fail("the gateway never becomes ready");
    static const struct websocket_protocol protocols[] = {
        {"polylog.v1", &ws_adapter, .messages = true}};
    struct http_options http_options = {0};
    for (unsigned i = 0; i < gateway.workers; i++) {
        gateway.https[i] = http_open(broker_worker(gateway.broker, i), &http_options);
        http_serve_websockets(gateway.https[i], protocols, 1);
    }
}

static void crash(void)
{
    gateway.broker = NULL;
    gateway.ready = false;
    sim_forget_loops();
    sim_cut_all();
    sim_run(NULL, NULL, 0);
    sim_disk_crash(disk);
    sim_run(NULL, NULL, sim_below(50));
    history_crashed();
}

static struct broker_worker *any_worker(void)
{
    return broker_worker(gateway.broker, (unsigned)sim_below(gateway.workers));
}

struct dialing {
    const struct adapter *adapter; /* NULL: HTTP */
    struct broker_worker *worker;
    struct stream *stream;
};

static void accepted(void *context)
{
    struct dialing *dialing = context;
    connection_start(dialing->adapter, dialing->worker, dialing->stream);
    heap_free(dialing);
}

static void accepted_http(void *context)
{
    struct dialing *dialing = context;
    http_accept_stream(gateway.https[broker_worker_index(dialing->worker)], dialing->stream,
                       ENTRY_FREE);
    heap_free(dialing);
}

static void dial_again(void *context)
{
    struct sim_peer *peer = context;
    peer->closed(peer);
}

static bool dial_any(const struct adapter *adapter, struct sim_peer *peer)
{
    if (!gateway.ready) {
        peer->ended = SIM_ENDED_BY_CRASH;
        sim_after(10, dial_again, peer); /* connection refused */
        return false;
    }
    struct dialing *dialing = heap_new(sizeof *dialing);
    dialing->adapter = adapter;
    dialing->worker = any_worker();
    dialing->stream = sim_connect(broker_loop(dialing->worker), peer);
    sim_on(broker_loop(dialing->worker), adapter == NULL ? accepted_http : accepted, dialing);
    return true;
}

static void dial(struct sim_peer *peer)
{
    if (dial_any(&mqtt_adapter, peer))
        mqtt_peer_dialed(peer);
}

static void dial_http(struct sim_peer *peer)
{
    dial_any(NULL, peer);
}

static void dial_amqp(struct sim_peer *peer)
{
    dial_any(&amqp_adapter, peer);
}

/* ------------------------------------------------ the group */

static void find_group(void *context)
{
    const struct group_spec *group = admin_group(context);
    if (group == NULL)
        history_fail("the group is gone");
    for (unsigned i = 0; i < CONSUMERS; i++)
        gateway.consumers[i] = consumer_new(any_worker(), group->id, polite, i == 0);
}

static void start_consumers(void)
{
    sim_on(gateway.loops[0], find_group, broker_worker(gateway.broker, 0));
}

/* ------------------------------------------------ the run */

static unsigned left;
static uint64_t repeats;

static void final_here(uint64_t partition, uint64_t offset, struct span payload)
{
    history_final(0, partition, offset, payload);
}

static void final_elsewhere(uint64_t partition, uint64_t offset, struct span payload)
{
    history_final(1, partition, offset, payload);
}

static void other_final(uint64_t partition, uint64_t offset, struct span payload)
{
    (void)partition;
    (void)offset;
    if (payload.size > 0 && payload.data[0] == 'w')
        will_final(payload);
    else if (payload.size > 0 && payload.data[0] == 'd')
        due_final(payload);
    else if (payload.size > 0 && payload.data[0] == 's')
        resumed_final(payload);
}

static bool is_read(void *context)
{
    (void)context;
    return left == 0;
}

struct read_call {
    const char *queue;
    show_record *show;
};

static void begin_read(void *context)
{
    const struct read_call *call = context;
    struct broker_worker *worker = broker_worker(gateway.broker, 0);
    read_everything(
        worker,
        catalog_queue_by_text(broker_catalog(worker), TENANT_DEFAULT, span_from_text(call->queue)),
        call->show, &left);
}

static void read_all(const char *queue, show_record *show)
{
    struct read_call call = {queue, show};
    left = 1;
    sim_on(gateway.loops[0], begin_read, &call);
    if (!sim_run(is_read, NULL, 10 * MINUTE_MS))
        history_fail("reading the log never ends");
}

static bool all_published(void *context)
{
    (void)context;
    for (unsigned i = 0; i < TOPICS; i++)
        if (!publisher_is_finished(publishers[i]))
            return false;
    return true;
}

static bool all_settled(void *context)
{
    (void)context;
    const struct group_spec *group = admin_group(broker_worker(gateway.broker, 0));
    return group != NULL && atomic_load(&group->stat->backlog) == 0 &&
           atomic_load(&group->stat->dead) == 0 && history_done_count() == history_final_count();
}

/* Between two packets of somebody's exchange, whether or not the second has been heard. */
static void wait_for_moment(void)
{
    if (sim_chance(30))
        return;
    moment_wait((enum moment)(MOMENT_NONE + 1 + sim_below(MOMENTS - 1)));
    sim_run(moment_came, NULL, MOMENT_MS);
    if (sim_chance(50))
        sim_run(NULL, NULL, sim_below(12));
    moment_wait(MOMENT_NONE);
}

/* The disk stands still in the round stands_at, if there is one. */
static void trouble(unsigned stands_at)
{
    unsigned crashes = (unsigned)sim_below(CRASHES_MAX);
    for (unsigned i = 0; i < ROUNDS; i++) {
        if (i == stands_at) {
            halted_peer_begin(dial_amqp, disk);
            sim_run(NULL, NULL, sim_below(STANDS_MS));
        }
        sim_run(all_published, NULL, 50 + sim_below(400));
        if (sim_chance(40))
            publisher_hang_up(publishers[sim_below(TOPICS)]);
        if (sim_chance(40))
            subscriber_hang_up(subscribers[sim_below(SUBSCRIBERS)]);
        if (sim_chance(40))
            member_hang_up(members[sim_below(MEMBERS)]);
        if (crashes > 0 && sim_chance(30)) {
            crashes--;
            wait_for_moment();
            if (sim_chance(20)) {
                sim_disk_fail_sync(disk);
                sim_run(NULL, NULL, 1000);
                for (unsigned at = 0; at < TOPICS; at++)
                    publisher_check_told(publishers[at]);
            } else if (sim_chance(30)) {
                read_all("mqtt", history_read);
            }
            crash();
            boot();
            start_consumers();
            repeat_start(any_worker);
            admin_move_topics(any_worker());
            if (sim_chance(50))
                read_all("mqtt", history_read);
        }
    }
}

static void run(uint64_t seed)
{
    sim_begin(seed);
    history_begin(seed);
    moments_begin();
    repeat_begin();
    mqtt_peers_begin();
    share_peers_begin();
    work_begin();
    session_peers_begin();
    link_peers_begin();
    will_peers_begin();
    disk = sim_disk_new();
    polite = false;
    boot();
    admin_prepare(broker_worker(gateway.broker, 0));
    if (!sim_run(admin_is_prepared, NULL, MINUTE_MS))
        history_fail("making queues and a group never ends");
    for (unsigned i = 0; i < TOPICS; i++) {
        publishers[i] = publisher_new(i, (uint32_t)(20 + sim_below(150)), dial);
        publisher_start(publishers[i]);
    }
    for (unsigned i = 0; i < SUBSCRIBERS; i++) {
        subscribers[i] = subscriber_new(dial);
        subscriber_start(subscribers[i]);
    }
    for (unsigned i = 0; i < MEMBERS; i++) {
        members[i] = member_new(dial);
        member_start(members[i]);
    }
    for (unsigned i = 0; i < SESSIONS; i++) {
        sessions[i] = session_peer_new(dial);
        session_peer_start(sessions[i]);
    }
    for (unsigned i = 0; i < SHARE_PEERS; i++) {
        share_peers[i] = share_peer_new(i, dial);
        share_peer_start(share_peers[i]);
    }
    for (unsigned i = 0; i < AMQP_PEERS; i++) {
        amqp_peers[i] = amqp_peer_new(i, dial_amqp);
        amqp_peer_start(amqp_peers[i]);
    }
    for (unsigned i = 0; i < LINK_PEERS; i++) {
        link_peers[i] = link_peer_new(i < 2                ? LINK_SHARED
                                      : i < LINK_PEERS - 1 ? LINK_KEPT
                                                           : LINK_PLAIN,
                                      dial_amqp);
        link_peer_start(link_peers[i]);
    }
    for (unsigned i = 0; i < WS_PEERS; i++) {
        ws_peers[i] = ws_peer_new(i, dial_http);
        ws_peer_start(ws_peers[i]);
    }
    for (unsigned i = 0; i < WILL_PEERS; i++) {
        will_peers[i] = will_peer_new(dial);
        will_peer_start(will_peers[i]);
    }
    will_watch(dial);
    retained_peers_begin(dial);
    due_peers_begin(dial);
    guest_peer_begin(dial);
    look_peer_begin(dial_amqp);
    resume_peers_begin(dial_amqp);
    start_consumers();
    repeat_start(any_worker);
    admin_move_topics(any_worker());

    unsigned stands_at = (unsigned)sim_below(STANDS_ONE_IN * ROUNDS);
    trouble(stands_at);

    /* Peace: everything must come to its end. The share has one member left, whatever became of it.
     */
    for (unsigned i = 0; i < TOPICS; i++)
        publisher_calm(publishers[i]);
    for (unsigned i = 1; i < MEMBERS; i++)
        member_leave(members[i]);
    for (unsigned i = 0; i < SESSIONS; i++)
        session_peer_calm(sessions[i]);
    for (unsigned i = 0; i < SHARE_PEERS; i++)
        share_peer_calm(share_peers[i]);
    for (unsigned i = 0; i < AMQP_PEERS; i++)
        amqp_peer_calm(amqp_peers[i]);
    for (unsigned i = 0; i < LINK_PEERS; i++)
        link_peer_calm(link_peers[i]);
    for (unsigned i = 0; i < WILL_PEERS; i++)
        will_peer_calm(will_peers[i]);
    retained_peers_calm();
    due_peers_calm();
    guest_peer_calm();
    resume_peers_calm();
    for (unsigned i = 0; i < WS_PEERS; i++)
        ws_peer_calm(ws_peers[i]);
    if (!sim_run(all_published, NULL, 10 * MINUTE_MS))
        history_fail("publishers never finish");
    stray_peer_begin(dial_amqp);
    sim_run(NULL, NULL, 3 * MINUTE_MS);
    stray_peer_check();
    for (unsigned i = 0; i < SUBSCRIBERS; i++)
        subscriber_finish(subscribers[i]);
    member_finish(members[0]);
    for (unsigned i = 0; i < SHARE_PEERS; i++)
        share_peer_finish(share_peers[i]);
    guest_peer_check();
    look_peer_check();
    retained_peers_check();
    for (unsigned i = 0; i < SESSIONS; i++)
        session_peer_finish(sessions[i]);
    for (unsigned i = 0; i < LINK_PEERS; i++)
        link_peer_finish(link_peers[i]);
    history_share_check();
    share_peers_check();
    repeat_stop();
    admin_stop();
    read_all("mqtt", final_here);
    read_all(MOVED_QUEUE, final_elsewhere);
    history_check_final();
    kept_check_final();
    read_all(OTHER_QUEUE, other_final);
    wills_check_final();
    due_check_final();
    resume_peers_check();
    read_all(WORK_QUEUE, work_final);
    read_all(MORE_QUEUE, work_final);
    read_all(DEAL_QUEUE, work_final);
    work_check_final();
    link_share_check();
    for (unsigned i = 0; i < AMQP_PEERS; i++)
        amqp_peer_stop(amqp_peers[i]);
    for (unsigned i = 0; i < WS_PEERS; i++)
        ws_peer_stop(ws_peers[i]);
    if (stands_at >= ROUNDS)
        halted_peer_begin(dial_amqp, disk);
    sim_run(NULL, NULL, 5 * MINUTE_MS);
    halted_peer_check();
    read_all(REPEAT_QUEUE, repeat_final);
    repeats += repeat_check_final();
    crash();
    boot();
    polite = true;
    start_consumers();
    if (!sim_run(all_settled, NULL, 10 * MINUTE_MS))
        history_fail("the group settled %llu of %llu records",
                     (unsigned long long)history_done_count(),
                     (unsigned long long)history_final_count());
    crash();
}

int main(int argc, char **argv)
{
    uint64_t first = argc > 1 ? strtoull(argv[1], NULL, 10) : 1;
    uint64_t count = argc > 2 ? strtoull(argv[2], NULL, 10) : 200;
    /* Refusing writes after a failed sync is expected here, and would fill the screen. */
    trace_set_level(argc > 3 ? TRACE_DEBUG : (enum trace_level)(TRACE_ERROR + 1));
    mqtt_configure(&(struct mqtt_options){.topic_alias_max = 10});
    uint64_t records = 0, acknowledged = 0, dead = 0, shared = 0, kept = 0, again = 0, work = 0,
             deals = 0, linked = 0, linked_again = 0, linked_deals = 0, attached = 0, wills = 0,
             retained = 0, expired = 0, resumed = 0;
    for (uint64_t i = 0; i < count; i++) {
        run(first + i);
        records += history_final_count();
        acknowledged += history_acknowledged_count();
        dead += history_dead_count();
        shared += history_share_count() + share_peers_count() + guest_peer_count();
        kept += kept_count();
        linked += link_peers_count();
        linked_again += link_peers_again();
        attached += link_peers_attach();
        linked_deals += link_peers_deals();
        wills += wills_count();
        retained += retained_count();
        expired += due_count();
        resumed += resumed_count();
        again += kept_again_count();
        work += work_count();
        deals += deals_count();
    }
    if (count >= RUNS_MANY)
        history_check_gets();
    uint32_t between;
    unsigned kinds = moments_hit(&between);
    printf("%llu seeds from %llu: %llu records, %llu of them acknowledged, %llu dead letters, "
           "%llu said several times and stored once, %llu to members of shares, %llu to sessions "
           "and %llu of them again, topics moved %llu times, "
           "%llu over AMQP to links that attached %llu times, %llu of them again and %llu ended in "
           "transactions, "
           "%llu wills, %llu shown as retained, %llu expired, "
           "%llu sent again on links that were resumed, "
           "%llu done over AMQP and WebSocket, %llu transactions, %u crashes between two packets "
           "of %u of %u kinds, nothing wrong\n",
           (unsigned long long)count, (unsigned long long)first, (unsigned long long)records,
           (unsigned long long)acknowledged, (unsigned long long)dead, (unsigned long long)repeats,
           (unsigned long long)shared, (unsigned long long)kept, (unsigned long long)again,
           (unsigned long long)admin_moves(), (unsigned long long)linked,
           (unsigned long long)attached, (unsigned long long)linked_again,
           (unsigned long long)linked_deals, (unsigned long long)wills,
           (unsigned long long)retained, (unsigned long long)expired, (unsigned long long)resumed,
           (unsigned long long)work, (unsigned long long)deals, between, kinds, MOMENTS - 1);
    printf("%llu passed, 0 failed\n", (unsigned long long)count);
    return 0;
}
