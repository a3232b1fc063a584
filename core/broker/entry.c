/* SPDX-License-Identifier: Apache-2.0 */
/* The rates of connections. An address has one of four places in the row of its hash; one that is
 * new takes the place that has waited longest. So an address is forgotten early when more than a
 * few thousand come at once, and may connect: the rate of all is for that. */
#include "core/broker/entry.h"

#include <arpa/inet.h>

#include "core/base/heap.h"
#include "core/broker/worker.h"

enum { ROWS = 1024, PLACES = 4, NETWORK_BYTES = 8, PEER_MAX = 64 };

void entry_init(struct entry_desk *desk, const struct broker_options *options)
{
    CHECK(pthread_mutex_init(&desk->lock, NULL) == 0);
    if (options->address_rate > 0)
        desk->addresses = heap_array((size_t)ROWS * PLACES, sizeof *desk->addresses);
}

void entry_deinit(struct entry_desk *desk)
{
    heap_free(desk->addresses);
    pthread_mutex_destroy(&desk->lock);
}

/* Of "ADDRESS:PORT" the address; of IPv6 the network, within which its owner takes any he likes. */
static uint64_t hash_of(const char *peer)
{
    const char *port = strrchr(peer, ':');
    size_t size = port == NULL ? strlen(peer) : (size_t)(port - peer);
    char text[PEER_MAX];
    struct in6_addr ip6;
    if (peer[0] == '[' && size > 2 && size - 2 < sizeof text) {
        memcpy(text, peer + 1, size - 2);
        text[size - 2] = '\0';
        if (inet_pton(AF_INET6, text, &ip6) == 1)
            return hash_bytes(span_of(&ip6, NETWORK_BYTES));
    }
    return hash_bytes(span_of(peer, size));
}

static struct entry_address *address_get(struct entry_desk *desk, uint64_t hash)
{
    struct entry_address *row = &desk->addresses[hash % ROWS * PLACES], *oldest = row;
    for (unsigned i = 0; i < PLACES; i++) {
        if (row[i].hash == hash)
            return &row[i];
        if (row[i].rate.paid_us < oldest->rate.paid_us)
            oldest = &row[i];
    }
    *oldest = (struct entry_address){.hash = hash};
    return oldest;
}

enum entry entry_look(struct entry_desk *desk, const struct broker_options *options,
                      const char *peer, uint64_t now_ms)
{
    bool free = true;
    pthread_mutex_lock(&desk->lock);
    /* First its own: who is too many there takes nothing from the others. */
    if (options->address_rate > 0)
        free = rate_take(&address_get(desk, hash_of(peer))->rate, now_ms, options->address_rate);
    if (free && options->connection_rate > 0)
        free = rate_take(&desk->all, now_ms, options->connection_rate);
    enum entry entry = free                                                 ? ENTRY_FREE
                       : rate_take(&desk->refusals, now_ms, LIMIT_REFUSALS) ? ENTRY_REFUSED
                                                                            : ENTRY_CLOSED;
    pthread_mutex_unlock(&desk->lock);
    return entry;
}

enum entry broker_may_connect(struct broker_worker *worker, const char *protocol, const char *peer)
{
    struct broker *broker = worker->broker;
    if (broker->options.connection_rate == 0 && broker->options.address_rate == 0)
        return ENTRY_FREE;
    enum entry entry = entry_look(&broker->desk, &broker->options, peer, loop_now_ms(worker->loop));
    if (entry != ENTRY_FREE)
        figures_refused_entry(figures_of(worker, protocol));
    return entry;
}
