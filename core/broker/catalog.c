/* SPDX-License-Identifier: Apache-2.0 */
/* Snapshots share their sections; a change copies the one section it touches, and of that only
 * references. Nothing is computed on lookup, so a published snapshot is never written again. */
#include "core/broker/catalog.h"

#include "core/base/heap.h"
#include "core/base/pack.h"
#include "core/base/reader.h"
#include "core/broker/route_table.h"
#include "core/broker/topic.h"

struct catalog {
    atomic_uint refs;
    uint64_t generation;
    struct section *queues;          /* placed by first partition */
    struct section *temporary;       /* those of them that are, placed by owner and id */
    struct section *groups;          /* placed by queue and id */
    struct section *routes;          /* placed by queue and id */
    struct section *principals;      /* placed by id */
    struct route_table *route_table; /* of exactly the routes in the section */
};

/* Sorts of texts. A queue may be named like the UUID of another: neither hides the other's own
 * sort. */
enum { TEXT_NAME = 'n', TEXT_UUID = 'u', TEXT_BUILT_IN = 'b' };

enum { ROUTE_ROW_VERSION = 1 };

static struct section_text text_of(uint64_t scope, char sort, struct span text)
{
    return (struct section_text){.scope = scope, .sort = sort, .text = text};
}

/* ---------------------------------------------------------------- snapshots */

static void unref_queue(void *thing)
{
    queue_unref(thing);
}

static void unref_group(void *thing)
{
    group_spec_unref(thing);
}

static void unref_route(void *thing)
{
    route_unref(thing);
}

static void unref_principal(void *thing)
{
    principal_unref(thing);
}

struct catalog *catalog_new(void)
{
    struct catalog *catalog = heap_new(sizeof *catalog);
    atomic_init(&catalog->refs, 1);
    catalog->queues = section_new(unref_queue);
    catalog->temporary = section_new(unref_queue);
    catalog->groups = section_new(unref_group);
    catalog->routes = section_new(unref_route);
    catalog->principals = section_new(unref_principal);
    catalog->route_table = route_table_new();
    return catalog;
}

struct catalog *catalog_ref(struct catalog *catalog)
{
    atomic_fetch_add_explicit(&catalog->refs, 1, memory_order_relaxed);
    return catalog;
}

void catalog_unref(struct catalog *catalog)
{
    if (catalog == NULL || atomic_fetch_sub_explicit(&catalog->refs, 1, memory_order_acq_rel) != 1)
        return;
    /* Before the routes it borrows. */
    route_table_unref(catalog->route_table);
    section_unref(catalog->queues);
    section_unref(catalog->temporary);
    section_unref(catalog->groups);
    section_unref(catalog->routes);
    section_unref(catalog->principals);
    heap_free(catalog);
}

uint64_t catalog_generation(const struct catalog *catalog)
{
    return catalog->generation;
}

struct catalog *catalog_next(const struct catalog *catalog)
{
    struct catalog *next = heap_new(sizeof *next);
    atomic_init(&next->refs, 1);
    next->generation = catalog->generation + 1;
    next->queues = section_ref(catalog->queues);
    next->temporary = section_ref(catalog->temporary);
    next->groups = section_ref(catalog->groups);
    next->routes = section_ref(catalog->routes);
    next->principals = section_ref(catalog->principals);
    next->route_table = route_table_ref(catalog->route_table);
    return next;
}

/* ---------------------------------------------------------------- changes */

void catalog_put_queue(struct catalog *catalog, struct queue *queue)
{
    struct section_text texts[] = {
        text_of(queue->tenant, TEXT_NAME, span_from_text(queue->name)),
        text_of(queue->tenant, TEXT_UUID, span_from_text(queue->uuid)),
        text_of(queue->tenant, TEXT_BUILT_IN, (struct span){0}),
    };
    struct section_place place = {.major = queue->first_partition};
    section_own(&catalog->queues);
    section_put(catalog->queues, queue->id, queue, place, texts, queue->built_in ? 3 : 2);
    if (!queue_name_is_temporary(span_from_text(queue->name)))
        return;
    section_own(&catalog->temporary);
    section_put(catalog->temporary, queue->id, queue_ref(queue),
                (struct section_place){.major = queue->owner, .minor = queue->id}, NULL, 0);
}

void catalog_put_group(struct catalog *catalog, struct group_spec *group)
{
    struct section_text texts[] = {
        text_of(group->queue, TEXT_NAME, span_from_text(group->name)),
        text_of(group->queue, TEXT_UUID, span_from_text(group->uuid)),
    };
    struct section_place place = {.major = group->queue, .minor = group->id};
    section_own(&catalog->groups);
    section_put(catalog->groups, group->id, group, place, texts, 2);
}

/* The table of routes belongs to the section: both are private, or both are shared. */
static void routes_own(struct catalog *catalog)
{
    if (!section_own(&catalog->routes))
        return;
    route_table_unref(catalog->route_table);
    catalog->route_table = route_table_new();
    for (size_t i = 0; i < section_count(catalog->routes); i++)
        route_table_put(catalog->route_table, section_at(catalog->routes, i));
}

void catalog_put_route(struct catalog *catalog, struct route *route)
{
    struct section_text text = text_of(route->tenant, TEXT_NAME, span_from_text(route->filter));
    struct section_place place = {.major = route->queue, .minor = route->id};
    catalog_remove_route(catalog, route->id);
    routes_own(catalog);
    section_put(catalog->routes, route->id, route, place, &text, 1);
    route_table_put(catalog->route_table, route);
}

void catalog_put_principal(struct catalog *catalog, struct principal *principal)
{
    struct section_text text =
        text_of(principal->tenant, TEXT_NAME, span_from_text(principal->name));
    struct section_place place = {.major = principal->id};
    section_own(&catalog->principals);
    section_put(catalog->principals, principal->id, principal, place, &text, 1);
}

void catalog_remove_queue(struct catalog *catalog, uint64_t id)
{
    if (section_get(catalog->queues, id) == NULL)
        return;
    const struct group_spec *group;
    while ((group = catalog_group_at(catalog, id, 0)) != NULL)
        catalog_remove_group(catalog, group->id);
    const struct route *route;
    struct section_place place = {.major = id};
    while ((route = section_placed(catalog->routes, section_before(catalog->routes, place))) !=
               NULL &&
           route->queue == id)
        catalog_remove_route(catalog, route->id);
    section_own(&catalog->queues);
    section_remove(catalog->queues, id);
    if (section_get(catalog->temporary, id) == NULL)
        return;
    section_own(&catalog->temporary);
    section_remove(catalog->temporary, id);
}

void catalog_remove_group(struct catalog *catalog, uint64_t id)
{
    if (section_get(catalog->groups, id) == NULL)
        return;
    section_own(&catalog->groups);
    section_remove(catalog->groups, id);
}

void catalog_remove_route(struct catalog *catalog, uint64_t id)
{
    const struct route *route = section_get(catalog->routes, id);
    if (route == NULL)
        return;
    routes_own(catalog);
    route_table_remove(catalog->route_table, route);
    section_remove(catalog->routes, id);
}

void catalog_remove_principal(struct catalog *catalog, uint64_t id)
{
    if (section_get(catalog->principals, id) == NULL)
        return;
    section_own(&catalog->principals);
    section_remove(catalog->principals, id);
}

/* ---------------------------------------------------------------- lookups */

/* A UUID wins over a name: who may create a queue must not capture another's by its name. */
static void *by_text(const struct section *section, uint64_t scope, struct span text)
{
    void *thing = section_get_by_text(section, text_of(scope, TEXT_UUID, text));
    return thing != NULL ? thing : section_get_by_text(section, text_of(scope, TEXT_NAME, text));
}

const struct queue *catalog_queue(const struct catalog *catalog, uint64_t id)
{
    return section_get(catalog->queues, id);
}

const struct queue *catalog_queue_by_text(const struct catalog *catalog, uint64_t tenant,
                                          struct span text)
{
    return by_text(catalog->queues, tenant, text);
}

const struct queue *catalog_queue_of_partition(const struct catalog *catalog, uint64_t partition)
{
    struct section_place place = {.major = partition, .minor = UINT64_MAX};
    size_t before = section_before(catalog->queues, place);
    const struct queue *queue = before == 0 ? NULL : section_placed(catalog->queues, before - 1);
    bool inside = queue != NULL && partition - queue->first_partition < queue->partition_count;
    return inside ? queue : NULL;
}

const struct group_spec *catalog_group(const struct catalog *catalog, uint64_t id)
{
    return section_get(catalog->groups, id);
}

const struct group_spec *catalog_group_by_text(const struct catalog *catalog, uint64_t queue,
                                               struct span text)
{
    return by_text(catalog->groups, queue, text);
}

struct selector *catalog_group_selector(const struct catalog *catalog,
                                        const struct group_spec *group)
{
    const struct group_spec *parent = catalog_group(catalog, group->parent);
    return parent != NULL ? parent->selector : group->selector;
}

const struct route *catalog_route_by_filter(const struct catalog *catalog, uint64_t tenant,
                                            struct span filter)
{
    return section_get_by_text(catalog->routes, text_of(tenant, TEXT_NAME, filter));
}

const struct queue *catalog_home(const struct catalog *catalog, uint64_t tenant, struct span topic)
{
    const struct route *route = route_table_find(catalog->route_table, tenant, topic);
    const struct queue *queue = route == NULL ? NULL : catalog_queue(catalog, route->queue);
    if (queue != NULL)
        return queue;
    return section_get_by_text(catalog->queues, text_of(tenant, TEXT_BUILT_IN, (struct span){0}));
}

const struct principal *catalog_principal(const struct catalog *catalog, uint64_t id)
{
    return section_get(catalog->principals, id);
}

const struct principal *catalog_principal_by_name(const struct catalog *catalog, uint64_t tenant,
                                                  struct span name)
{
    return section_get_by_text(catalog->principals, text_of(tenant, TEXT_NAME, name));
}

bool catalog_is_protected(const struct catalog *catalog)
{
    return section_count(catalog->principals) == 0;
}

/* ---------------------------------------------------------------- listings */

size_t catalog_queue_count(const struct catalog *catalog)
{
    return section_count(catalog->queues);
}

const struct queue *catalog_queue_at(const struct catalog *catalog, size_t index)
{
    return section_at(catalog->queues, index);
}

size_t catalog_temporary_count(const struct catalog *catalog)
{
    return section_count(catalog->temporary);
}

const struct queue *catalog_temporary_at(const struct catalog *catalog, size_t index)
{
    return section_at(catalog->temporary, index);
}

/* How many have this major place. */
static size_t count_of(const struct section *section, uint64_t major)
{
    struct section_place first = {.major = major};
    struct section_place last = {.major = major, .minor = UINT64_MAX};
    return section_before(section, last) - section_before(section, first);
}

size_t catalog_temporary_count_of(const struct catalog *catalog, uint64_t owner)
{
    return count_of(catalog->temporary, owner);
}

size_t catalog_group_count(const struct catalog *catalog, uint64_t queue)
{
    return count_of(catalog->groups, queue);
}

const struct group_spec *catalog_group_at(const struct catalog *catalog, uint64_t queue,
                                          size_t index)
{
    struct section_place first = {.major = queue};
    const struct group_spec *group =
        section_placed(catalog->groups, section_before(catalog->groups, first) + index);
    return group != NULL && group->queue == queue ? group : NULL;
}

size_t catalog_route_count(const struct catalog *catalog)
{
    return section_count(catalog->routes);
}

const struct route *catalog_route_at(const struct catalog *catalog, size_t index)
{
    return section_at(catalog->routes, index);
}

size_t catalog_principal_count(const struct catalog *catalog)
{
    return section_count(catalog->principals);
}

const struct principal *catalog_principal_at(const struct catalog *catalog, size_t index)
{
    return section_at(catalog->principals, index);
}

/* ---------------------------------------------------------------- differences */

bool catalog_queue_difference(const struct catalog *old, const struct catalog *new,
                              struct section_step *step, const struct queue **before,
                              const struct queue **after)
{
    void *was, *is;
    bool differs = section_difference(old->queues, new->queues, step, &was, &is);
    *before = differs ? was : NULL;
    *after = differs ? is : NULL;
    return differs;
}

bool catalog_group_difference(const struct catalog *old, const struct catalog *new,
                              struct section_step *step, const struct group_spec **before,
                              const struct group_spec **after)
{
    void *was, *is;
    bool differs = section_difference(old->groups, new->groups, step, &was, &is);
    *before = differs ? was : NULL;
    *after = differs ? is : NULL;
    return differs;
}

bool catalog_groups_differ(const struct catalog *old, const struct catalog *new)
{
    return old->groups != new->groups;
}

bool catalog_routes_differ(const struct catalog *old, const struct catalog *new)
{
    return old->routes != new->routes;
}

bool catalog_principals_differ(const struct catalog *old, const struct catalog *new)
{
    return old->principals != new->principals;
}

/* ---------------------------------------------------------------- routes */

struct route *route_ref(const struct route *route)
{
    struct route *shared = (struct route *)(uintptr_t)route;
    atomic_fetch_add_explicit(&shared->refs, 1, memory_order_relaxed);
    return shared;
}

void route_unref(struct route *route)
{
    if (route == NULL || atomic_fetch_sub_explicit(&route->refs, 1, memory_order_acq_rel) != 1)
        return;
    heap_free(route->filter);
    heap_free(route);
}

enum status route_encode(const struct route *route, struct buf *to)
{
    struct pack pack = pack_into(to);
    pack_u8(&pack, ROUTE_ROW_VERSION);
    pack_u64(&pack, route->tenant);
    pack_u64(&pack, route->id);
    pack_u64(&pack, route->queue);
    pack_block(&pack, span_from_text(route->filter));
    return pack.status;
}

enum status route_decode(struct span row, struct route **route)
{
    struct reader reader = reader_of(row);
    *route = NULL;
    if (reader_u8(&reader) != ROUTE_ROW_VERSION)
        return STATUS_CORRUPT;
    struct route read = {.tenant = reader_u64(&reader)};
    read.id = reader_u64(&reader);
    read.queue = reader_u64(&reader);
    struct span filter = reader_block(&reader);
    if (reader.failed || reader_left(&reader) != 0 || !topic_filter_is_valid(filter))
        return STATUS_CORRUPT;
    *route = heap_new(sizeof **route);
    atomic_init(&(*route)->refs, 1);
    (*route)->tenant = read.tenant;
    (*route)->id = read.id;
    (*route)->queue = read.queue;
    (*route)->filter = heap_text((const char *)filter.data, filter.size);
    return STATUS_OK;
}
