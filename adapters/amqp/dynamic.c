/* SPDX-License-Identifier: Apache-2.0 */
/* Dynamic nodes: what an attach asks to be made for it, how long that lives (part 3, 3.5.10 to
 * 3.5.13), and its end with the link. */
#include "adapters/amqp/dynamic.h"

#include <stdio.h>

#include "adapters/amqp/connection.h"
#include "adapters/amqp/link.h"
#include "adapters/amqp/wire.h"
#include "core/base/heap.h"
#include "core/broker/temporary.h"

static const struct {
    uint64_t code;
    const char *name;
    enum temporary_life life;
} policies[] = {
    {AMQP_DELETE_ON_CLOSE, "amqp:delete-on-close:list", TEMPORARY_MAKER},
    {AMQP_DELETE_ON_NO_LINKS, "amqp:delete-on-no-links:list", TEMPORARY_NO_LINKS},
    {AMQP_DELETE_ON_NO_MESSAGES, "amqp:delete-on-no-messages:list", TEMPORARY_NO_MESSAGES},
    {AMQP_DELETE_ON_NO_LINKS_OR_MESSAGES, "amqp:delete-on-no-links-or-messages:list",
     TEMPORARY_NO_LINKS_OR_MESSAGES},
};

static bool is_symbol(pn_data_t *data, const char *name)
{
    if (pn_data_type(data) != PN_SYMBOL)
        return false;
    pn_bytes_t symbol = pn_data_get_symbol(data);
    return span_is(span_of(symbol.start, symbol.size), name);
}

/* At the descriptor. */
static bool read_policy(pn_data_t *data, enum temporary_life *life)
{
    for (size_t i = 0; i < sizeof policies / sizeof *policies; i++) {
        bool same = pn_data_type(data) == PN_ULONG ? pn_data_get_ulong(data) == policies[i].code
                                                   : is_symbol(data, policies[i].name);
        if (!same)
            continue;
        *life = policies[i].life;
        return true;
    }
    return false;
}

/* Of the node's properties; none: the node lives as long as the connection. False: it is none that
 * we know. */
static bool read_life(pn_data_t *data, enum temporary_life *life)
{
    bool known = true;
    *life = TEMPORARY_CLIENT;
    pn_data_rewind(data);
    if (pn_data_next(data) && pn_data_type(data) == PN_MAP && pn_data_enter(data)) {
        while (pn_data_next(data)) {
            bool is_policy = is_symbol(data, "lifetime-policy");
            if (!pn_data_next(data) || !is_policy)
                continue;
            known = pn_data_is_described(data) && pn_data_enter(data) && pn_data_next(data) &&
                    read_policy(data, life);
            break;
        }
    }
    pn_data_rewind(data);
    return known;
}

/* A topic has none: it is there as long as anybody knows its name. */
void amqp_dynamic_say(const struct amqp_link *link, pn_terminus_t *local)
{
    pn_data_t *data = pn_terminus_properties(local);
    enum temporary_life life = TEMPORARY_CLIENT;
    if (link->temporary != 0)
        read_life(data, &life);
    pn_data_clear(data);
    for (size_t i = 0; i < sizeof policies / sizeof *policies; i++) {
        if (policies[i].life != life)
            continue;
        pn_data_put_map(data);
        pn_data_enter(data);
        pn_data_put_symbol(data, pn_bytes(sizeof "lifetime-policy" - 1, "lifetime-policy"));
        pn_data_put_described(data);
        pn_data_enter(data);
        pn_data_put_ulong(data, policies[i].code);
        pn_data_put_list(data);
        pn_data_exit(data);
        pn_data_exit(data);
    }
}

/* ------------------------------------------------ a queue */

struct making {
    struct broker_temporary make;
    struct amqp_link *link;
};

static void join(struct amqp_link *link, const struct queue *queue)
{
    if (link->joined == NULL && broker_temporary_join(&link->connection->client, queue))
        link->joined = queue_ref(queue);
}

static void made(struct request *request, enum status status)
{
    struct broker_temporary *make = container_of(request, struct broker_temporary, request);
    struct making *making = container_of(make, struct making, make);
    struct amqp_link *link = making->link;
    char address[sizeof "/queues/" + TEMPORARY_NAME];
    if (status == STATUS_OK) {
        link->temporary = make->queue->id;
        join(link, make->queue);
        snprintf(address, sizeof address, "/queues/%s", make->queue->name);
    }
    if (link->pn == NULL) { /* it has gone meanwhile */
        amqp_dynamic_leave(link);
    } else if (status != STATUS_OK) {
        amqp_link_refuse_status(link, status);
    } else {
        pn_terminus_set_address(pn_link_is_receiver(link->pn) ? pn_link_target(link->pn)
                                                              : pn_link_source(link->pn),
                                address);
        amqp_attach(link);
    }
    queue_unref(make->queue);
    heap_free(making);
    amqp_link_unref(link);
}

static void make_queue(struct amqp_link *link, enum temporary_life life)
{
    struct making *making = heap_new(sizeof *making);
    making->link = link;
    making->make = (struct broker_temporary){.client = &link->connection->client, .life = life};
    request_init(&making->make.request, amqp_loop(link->connection), made);
    link->refs++;
    broker_make_temporary(&making->make);
}

void amqp_dynamic_attach(struct amqp_link *link)
{
    bool target = pn_link_is_receiver(link->pn);
    pn_terminus_t *remote =
        target ? pn_link_remote_target(link->pn) : pn_link_remote_source(link->pn);
    pn_terminus_t *local = target ? pn_link_target(link->pn) : pn_link_source(link->pn);
    char address[sizeof "/topics/" + TEMPORARY_NAME] = "/topics/";
    enum temporary_life life;
    if (!read_life(pn_terminus_properties(remote), &life)) {
        amqp_count_refusal(STATUS_UNSUPPORTED);
        amqp_link_refuse(link, amqp_condition_of(STATUS_UNSUPPORTED),
                         "the lifetime-policy is none of those of 3.5.10 to 3.5.13");
    } else if (amqp_is_capable(remote, "temporary-queue")) {
        make_queue(link, life);
    } else {
        broker_temporary_topic(&link->connection->client, address + sizeof "/topics/" - 1);
        pn_terminus_set_address(local, address);
        amqp_attach(link);
    }
}

/* ------------------------------------------------ links of a queue, and their end */

void amqp_queue_join(struct amqp_link *link, const struct queue *queue)
{
    link->queue = queue->id;
    join(link, queue);
}

struct ending {
    struct request request;
    struct amqp_link *link;
};

static void ended(struct request *request, enum status status)
{
    struct ending *ending = container_of(request, struct ending, request);
    struct amqp_link *link = ending->link;
    heap_free(ending);
    amqp_link_given_up(link, status);
}

/* A close that deletes the node is answered when it has gone, so that who waits for the answer
 * meets it no more. */
void amqp_dynamic_leave(struct amqp_link *link)
{
    struct queue *joined = link->joined;
    enum temporary_leaver leaver = link->temporary == 0 ? TEMPORARY_LINK
                                   : link->attached     ? TEMPORARY_FIRST
                                                        : TEMPORARY_UNHEARD;
    if (joined == NULL)
        return;
    link->joined = NULL;
    struct ending *ending = heap_new(sizeof *ending);
    ending->link = link;
    request_init(&ending->request, amqp_loop(link->connection), ended);
    bool ends = broker_temporary_leave(&link->connection->client, joined, leaver, &ending->request);
    queue_unref(joined);
    if (ends) {
        link->closes_later = link->pn != NULL && link->leaving == AMQP_LEAVES_FOR_GOOD;
        link->refs++;
    } else {
        heap_free(ending);
    }
}
