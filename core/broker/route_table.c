/* SPDX-License-Identifier: Apache-2.0 */
/* Matching changes nothing in a trie, so any number of workers may ask one table at once. */
#include "core/broker/route_table.h"

#include "core/base/heap.h"
#include "core/base/list.h"
#include "core/broker/topic.h"
#include "core/broker/topic_trie.h"

struct tenant_routes {
    uint64_t tenant;
    struct topic_trie *trie;
};

struct route_entry {
    struct topic_entry base;
    const struct route *route;
};

struct route_table {
    atomic_uint refs;
    struct map tenants; /* by the bytes of the number */
};

static struct span filter_of(const struct route *route)
{
    return span_from_text(route->filter);
}

static struct tenant_routes *tenant_get(const struct route_table *table, uint64_t tenant)
{
    return map_get(&table->tenants, span_of(&tenant, sizeof tenant));
}

struct route_table *route_table_new(void)
{
    struct route_table *table = heap_new(sizeof *table);
    atomic_init(&table->refs, 1);
    map_init(&table->tenants);
    return table;
}

struct route_table *route_table_ref(struct route_table *table)
{
    atomic_fetch_add_explicit(&table->refs, 1, memory_order_relaxed);
    return table;
}

void route_table_unref(struct route_table *table)
{
    if (atomic_fetch_sub_explicit(&table->refs, 1, memory_order_acq_rel) != 1)
        return;
    struct map_slot *slot;
    for (size_t i = 0; (slot = map_next(&table->tenants, &i)) != NULL;) {
        struct tenant_routes *routes = slot->value;
        topic_trie_free(routes->trie);
        heap_free(routes);
    }
    map_deinit(&table->tenants);
    heap_free(table);
}

void route_table_put(struct route_table *table, const struct route *route)
{
    struct tenant_routes *routes = tenant_get(table, route->tenant);
    if (routes == NULL) {
        routes = heap_new(sizeof *routes);
        routes->tenant = route->tenant;
        routes->trie = topic_trie_new(sizeof(struct route_entry));
        map_put(&table->tenants, span_of(&routes->tenant, sizeof routes->tenant), routes);
    }
    struct topic_entry *entry = topic_trie_put(routes->trie, filter_of(route));
    container_of(entry, struct route_entry, base)->route = route;
}

void route_table_remove(struct route_table *table, const struct route *route)
{
    struct tenant_routes *routes = tenant_get(table, route->tenant);
    struct topic_entry *entry =
        routes == NULL ? NULL : topic_trie_get(routes->trie, filter_of(route));
    if (entry != NULL && container_of(entry, struct route_entry, base)->route == route)
        topic_trie_remove(routes->trie, entry);
}

static void keep_most_specific(void *context, struct topic_entry *entry)
{
    const struct route **best = context;
    const struct route *route = container_of(entry, struct route_entry, base)->route;
    if (*best == NULL || topic_filter_compare(filter_of(route), filter_of(*best)) > 0)
        *best = route;
}

const struct route *route_table_find(const struct route_table *table, uint64_t tenant,
                                     struct span topic)
{
    const struct tenant_routes *routes = tenant_get(table, tenant);
    const struct route *best = NULL;
    if (routes != NULL)
        topic_trie_match(routes->trie, topic, keep_most_specific, &best);
    return best;
}
