/* SPDX-License-Identifier: Apache-2.0 */
/* Which route a topic takes: a trie of route filters per tenant, shared by snapshots until routes
 * change. */
#ifndef CORE_BROKER_ROUTE_TABLE_H
#define CORE_BROKER_ROUTE_TABLE_H

#include "core/broker/catalog.h"

struct route_table;

struct route_table *route_table_new(void);
struct route_table *route_table_ref(struct route_table *table);
void route_table_unref(struct route_table *table);
/* Before anybody else holds the table. Routes are borrowed until they are removed or the table
 * ends. Of two routes with the same filter the last one put counts. */
void route_table_put(struct route_table *table, const struct route *route);
void route_table_remove(struct route_table *table, const struct route *route);
/* The most specific route whose filter matches; NULL: none. Any thread. */
const struct route *route_table_find(const struct route_table *table, uint64_t tenant,
                                     struct span topic);

#endif
