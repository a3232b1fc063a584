/* SPDX-License-Identifier: Apache-2.0 */
/* See admin_peer.h. Everything here runs on one worker's loop. */
#include "tests/sim/admin_peer.h"

#include "core/base/heap.h"
#include "tests/sim/amqp_peer.h"
#include "tests/sim/history.h"
#include "tests/sim/repeat_peer.h"
#include "tests/sim/sim.h"
#include "tests/sim/work_history.h"

enum { PAUSE_MS = 600 };

struct administrator {
    struct client client;
    struct broker_login login;
    struct broker_admin admin;
    struct broker_worker *worker;
    void (*next)(struct administrator *administrator);
    unsigned step;
};

static bool prepared, stopped;
static uint64_t moves;

static void no_answer(struct client *client, uint64_t token, enum status status, uint64_t partition,
                      uint64_t offset)
{
    (void)client;
    (void)token;
    (void)status;
    (void)partition;
    (void)offset;
}

static void no_end(struct client *client, enum status why)
{
    (void)client;
    (void)why;
}

static const struct client_ops ops = {.protocol = "sim", .answered = no_answer, .end = no_end};

static const struct queue *queue_called(struct broker_worker *worker, const char *name)
{
    return catalog_queue_by_text(broker_catalog(worker), TENANT_DEFAULT, span_from_text(name));
}

static void login_done(struct request *request, enum status status)
{
    struct administrator *administrator =
        container_of(request, struct administrator, login.request);
    if (status == STATUS_OK)
        administrator->next(administrator);
}

static void begin(void *context)
{
    struct administrator *administrator = context;
    client_init(&administrator->client, administrator->worker, &ops);
    administrator->login.client = &administrator->client;
    request_init(&administrator->login.request, broker_loop(administrator->worker), login_done);
    broker_login(&administrator->login);
}

static void start(struct broker_worker *worker, void (*next)(struct administrator *administrator))
{
    struct administrator *administrator = heap_new(sizeof *administrator);
    administrator->worker = worker;
    administrator->next = next;
    sim_on(broker_loop(worker), begin, administrator);
}

static void administer(struct administrator *administrator,
                       void (*done)(struct request *request, enum status status))
{
    administrator->admin.client = &administrator->client;
    request_init(&administrator->admin.request, broker_loop(administrator->worker), done);
    broker_administer(&administrator->admin);
}

/* ------------------------------------------------ what is there before anything else */

static void prepare(struct administrator *administrator);

static void prepared_one(struct request *request, enum status status)
{
    struct administrator *administrator =
        container_of(request, struct administrator, admin.request);
    if (status != STATUS_OK)
        history_fail("step %u of the preparations: %s", administrator->step, status_text(status));
    administrator->step++;
    prepare(administrator);
}

static void prepare(struct administrator *administrator)
{
    static const char *const work_queues[] = {WORK_QUEUE, MORE_QUEUE, DEAL_QUEUE};
    struct broker_admin *admin = &administrator->admin;
    queue_unref(admin->queue);
    group_spec_unref(admin->group);
    uint64_t built_in = queue_called(administrator->worker, "mqtt")->id;
    switch (administrator->step) {
    case 0:
        *admin = (struct broker_admin){.action = ADMIN_GROUP_CREATE,
                                       .name = span_from_text("readers"),
                                       .id = built_in,
                                       .start = GROUP_EARLIEST};
        break;
    case 1:
        *admin = (struct broker_admin){.action = ADMIN_QUEUE_CHANGE,
                                       .id = built_in,
                                       .fields = QUEUE_FIELD_REDRIVE,
                                       .redrive = true,
                                       .max_consume_count = 3};
        break;
    case 2:
        *admin = (struct broker_admin){
            .action = ADMIN_QUEUE_CREATE, .name = span_from_text(REPEAT_QUEUE), .partitions = 3};
        break;
    case 3:
        *admin = (struct broker_admin){
            .action = ADMIN_QUEUE_CREATE, .name = span_from_text(MOVED_QUEUE), .partitions = 2};
        break;
    case 4:
    case 5:
    case 6:
        *admin = (struct broker_admin){.action = ADMIN_QUEUE_CREATE,
                                       .name = span_from_text(work_queues[administrator->step - 4]),
                                       .partitions = administrator->step - 3};
        break;
    case 7:
    case 8:
    case 9:
        *admin = (struct broker_admin){
            .action = ADMIN_QUEUE_CHANGE,
            .id = queue_called(administrator->worker, work_queues[administrator->step - 7])->id,
            .fields = QUEUE_FIELD_REDRIVE,
            .redrive = true,
            .max_consume_count = WORK_FAILURES_MAX};
        break;
    case 10:
        *admin = (struct broker_admin){.action = ADMIN_ROUTE_SET,
                                       .name = span_from_text(DEAL_TOPIC),
                                       .id = queue_called(administrator->worker, DEAL_QUEUE)->id};
        break;
    case 11:
        *admin = (struct broker_admin){
            .action = ADMIN_QUEUE_CREATE, .name = span_from_text(OTHER_QUEUE), .partitions = 3};
        break;
    case 12:
        *admin = (struct broker_admin){.action = ADMIN_ROUTE_SET,
                                       .name = span_from_text("other/#"),
                                       .id = queue_called(administrator->worker, OTHER_QUEUE)->id};
        break;
    default:
        prepared = true;
        return;
    }
    administer(administrator, prepared_one);
}

void admin_prepare(struct broker_worker *worker)
{
    prepared = stopped = false;
    start(worker, prepare);
}

bool admin_is_prepared(void *context)
{
    (void)context;
    return prepared;
}

const struct group_spec *admin_group(struct broker_worker *worker)
{
    return catalog_group_by_text(broker_catalog(worker), queue_called(worker, "mqtt")->id,
                                 span_from_text("readers"));
}

/* ------------------------------------------------ routes */

static void move_later(void *context)
{
    struct administrator *administrator = context;
    void (*next)(struct administrator *) = administrator->next;
    next(administrator);
}

static void pause_over(void *context)
{
    struct administrator *administrator = context;
    sim_on(broker_loop(administrator->worker), move_later, administrator);
}

static void moved(struct request *request, enum status status)
{
    struct administrator *administrator =
        container_of(request, struct administrator, admin.request);
    if (status != STATUS_OK && status != STATUS_NOT_FOUND)
        return;
    moves += status == STATUS_OK;
    sim_after(sim_below(PAUSE_MS), pause_over, administrator);
}

static void move(struct administrator *administrator)
{
    static const char *const filters[] = {"t/6", "t/7", "t/7", "+/5"};
    const char *filter = filters[sim_below(sizeof filters / sizeof filters[0])];
    if (stopped)
        return;
    administrator->admin = (struct broker_admin){
        .action = sim_chance(50) ? ADMIN_ROUTE_SET : ADMIN_ROUTE_DELETE,
        .name = span_from_text(filter),
    };
    if (administrator->admin.action == ADMIN_ROUTE_SET)
        administrator->admin.id =
            queue_called(administrator->worker, sim_chance(80) ? MOVED_QUEUE : "mqtt")->id;
    administer(administrator, moved);
}

void admin_move_topics(struct broker_worker *worker)
{
    start(worker, move);
}

void admin_stop(void)
{
    stopped = true;
}

uint64_t admin_moves(void)
{
    return moves;
}
