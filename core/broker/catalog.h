/* SPDX-License-Identifier: Apache-2.0 */
/* What administration has made: queues, groups, routes, principals. An immutable snapshot with a
 * generation; worker 0 makes the next one, stores the change, and hands it to every worker. Lookups
 * are synchronous and lock-free; results live as long as the snapshot, or longer with a reference
 * of their own. */
#ifndef CORE_BROKER_CATALOG_H
#define CORE_BROKER_CATALOG_H

#include "core/base/map.h"
#include "core/broker/auth.h"
#include "core/broker/section.h"
#include "core/queue/queue.h"

enum { TENANT_DEFAULT = 1 }; /* project "default" */

struct route {
    atomic_uint refs;
    uint64_t tenant, id;
    char *filter;
    uint64_t queue; /* id */
};

struct catalog;

struct catalog *catalog_new(void); /* empty, generation 0, one reference */
struct catalog *catalog_ref(struct catalog *catalog);
void catalog_unref(struct catalog *catalog); /* NULL is fine */
uint64_t catalog_generation(const struct catalog *catalog);

/* A copy with the next generation, to be changed by the calls below before anybody else sees it. */
struct catalog *catalog_next(const struct catalog *catalog);
/* Each takes the caller's reference; one with the same id is replaced. */
void catalog_put_queue(struct catalog *catalog, struct queue *queue);
void catalog_put_group(struct catalog *catalog, struct group_spec *group);
void catalog_put_route(struct catalog *catalog, struct route *route);
void catalog_put_principal(struct catalog *catalog, struct principal *principal);
void catalog_remove_queue(struct catalog *catalog, uint64_t id); /* its groups and routes too */
void catalog_remove_group(struct catalog *catalog, uint64_t id);
void catalog_remove_route(struct catalog *catalog, uint64_t id);
void catalog_remove_principal(struct catalog *catalog, uint64_t id);

/* Lookups: NULL when missing. text: the name or the UUID. */
const struct queue *catalog_queue(const struct catalog *catalog, uint64_t id);
const struct queue *catalog_queue_by_text(const struct catalog *catalog, uint64_t tenant,
                                          struct span text);
const struct queue *catalog_queue_of_partition(const struct catalog *catalog, uint64_t partition);
const struct group_spec *catalog_group(const struct catalog *catalog, uint64_t id);
const struct group_spec *catalog_group_by_text(const struct catalog *catalog, uint64_t queue,
                                               struct span text);
/* What the group wants: by its own description, or as the consumer of a broadcast group; NULL:
 * every record. */
struct selector *catalog_group_selector(const struct catalog *catalog,
                                        const struct group_spec *group);
const struct route *catalog_route_by_filter(const struct catalog *catalog, uint64_t tenant,
                                            struct span filter);
/* The home queue of a topic: of its most specific route, else the built-in queue. Never NULL once
 * started. */
const struct queue *catalog_home(const struct catalog *catalog, uint64_t tenant, struct span topic);
const struct principal *catalog_principal(const struct catalog *catalog, uint64_t id);
const struct principal *catalog_principal_by_name(const struct catalog *catalog, uint64_t tenant,
                                                  struct span name);
bool catalog_is_protected(
    const struct catalog *catalog); /* no principal exists: loopback only, all allowed */

/* Listings in order of id (creation): for (size_t i = 0; i < count; i++). */
size_t catalog_queue_count(const struct catalog *catalog);
const struct queue *catalog_queue_at(const struct catalog *catalog, size_t index);
/* Those of them that clients have made for themselves; and how many of one principal. */
size_t catalog_temporary_count(const struct catalog *catalog);
const struct queue *catalog_temporary_at(const struct catalog *catalog, size_t index);
size_t catalog_temporary_count_of(const struct catalog *catalog, uint64_t owner);
size_t catalog_group_count(const struct catalog *catalog, uint64_t queue);
const struct group_spec *catalog_group_at(const struct catalog *catalog, uint64_t queue,
                                          size_t index);
size_t catalog_route_count(const struct catalog *catalog);
const struct route *catalog_route_at(const struct catalog *catalog, size_t index);
size_t catalog_principal_count(const struct catalog *catalog);
const struct principal *catalog_principal_at(const struct catalog *catalog, size_t index);

/* What is not the same in two snapshots, as section_difference() says. */
bool catalog_queue_difference(const struct catalog *old, const struct catalog *new,
                              struct section_step *step, const struct queue **before,
                              const struct queue **after);
bool catalog_group_difference(const struct catalog *old, const struct catalog *new,
                              struct section_step *step, const struct group_spec **before,
                              const struct group_spec **after);
bool catalog_groups_differ(const struct catalog *old, const struct catalog *new);
bool catalog_routes_differ(const struct catalog *old, const struct catalog *new);
bool catalog_principals_differ(const struct catalog *old, const struct catalog *new);

struct route *route_ref(const struct route *route);
void route_unref(struct route *route);
enum status route_encode(const struct route *route, struct buf *to);
enum status route_decode(struct span row, struct route **route);

#endif
