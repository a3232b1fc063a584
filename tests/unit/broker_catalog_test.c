/* SPDX-License-Identifier: Apache-2.0 */
/* The catalog: lookups, snapshots that never change, homes of topics against a plain search, and
 * readers on other threads while snapshots follow each other. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/base/hash.h"
#include "core/base/heap.h"
#include "core/base/rng.h"
#include "core/broker/catalog.h"
#include "core/broker/topic.h"

static struct queue *queue_make(uint64_t tenant, uint64_t id, const char *name)
{
    struct queue *queue = heap_new(sizeof *queue);
    atomic_init(&queue->refs, 1);
    queue->tenant = tenant;
    queue->id = id;
    rng_uuid(queue->uuid);
    queue->name = heap_text(name, strlen(name));
    queue->first_partition = id * 10;
    queue->partition_count = 4;
    return queue;
}

static struct group_spec *group_make(uint64_t queue, uint64_t id, const char *name)
{
    struct group_spec *group = heap_new(sizeof *group);
    atomic_init(&group->refs, 1);
    group->tenant = TENANT_DEFAULT;
    group->queue = queue;
    group->id = id;
    snprintf(group->uuid, sizeof group->uuid, "g-%llu", (unsigned long long)id);
    group->name = heap_text(name, strlen(name));
    return group;
}

static struct route *route_make(uint64_t tenant, uint64_t id, const char *filter, uint64_t queue)
{
    struct route *route = heap_new(sizeof *route);
    atomic_init(&route->refs, 1);
    route->tenant = tenant;
    route->id = id;
    route->filter = heap_text(filter, strlen(filter));
    route->queue = queue;
    return route;
}

static struct principal *principal_make(uint64_t id, const char *name, const char *key)
{
    struct principal *principal = heap_new(sizeof *principal);
    atomic_init(&principal->refs, 1);
    principal->tenant = TENANT_DEFAULT;
    principal->id = id;
    principal->name = heap_text(name, strlen(name));
    principal->keys = heap_array(1, sizeof *principal->keys);
    principal->key_count = 1;
    snprintf(principal->keys[0].id, sizeof principal->keys[0].id, "%s", key);
    return principal;
}

static uint64_t queue_named(const struct catalog *catalog, const char *text)
{
    const struct queue *queue =
        catalog_queue_by_text(catalog, TENANT_DEFAULT, span_from_text(text));
    return queue == NULL ? 0 : queue->id;
}

static uint64_t home(const struct catalog *catalog, const char *topic)
{
    return catalog_home(catalog, TENANT_DEFAULT, span_from_text(topic))->id;
}

/* What two snapshots differ in, as a look at every id says it. */
static void check_differences(const struct catalog *old, const struct catalog *new, uint64_t ids)
{
    struct section_step queues = {0}, groups = {0};
    const struct queue *queue, *queue_before;
    const struct group_spec *group, *group_before;
    for (uint64_t id = 1; id < ids; id++) {
        if (catalog_queue(old, id) != catalog_queue(new, id)) {
            assert_true(catalog_queue_difference(old, new, &queues, &queue_before, &queue));
            assert_ptr_equal(queue_before, catalog_queue(old, id));
            assert_ptr_equal(queue, catalog_queue(new, id));
        }
        if (catalog_group(old, id) != catalog_group(new, id)) {
            assert_true(catalog_group_difference(old, new, &groups, &group_before, &group));
            assert_ptr_equal(group_before, catalog_group(old, id));
            assert_ptr_equal(group, catalog_group(new, id));
            assert_true(catalog_groups_differ(old, new));
        }
    }
    assert_false(catalog_queue_difference(old, new, &queues, &queue_before, &queue));
    assert_false(catalog_group_difference(old, new, &groups, &group_before, &group));
}

static void snapshots_differ(void **state)
{
    enum { IDS = 40, ROUNDS = 2000 };
    (void)state;
    uint64_t seed = 0;
    struct catalog *old = catalog_new(), *new;
    catalog_put_queue(old, queue_make(TENANT_DEFAULT, 1, "one"));
    for (unsigned round = 0; round < ROUNDS; round++) {
        new = catalog_next(old);
        bool users = false, routes = false;
        for (uint64_t change = hash_u64(++seed) % 8; change > 0; change--) {
            uint64_t id = 2 + hash_u64(++seed) % (IDS - 2);
            char name[16];
            snprintf(name, sizeof name, "n%llu", (unsigned long long)id);
            switch (hash_u64(++seed) % 6) {
            case 0:
                if (catalog_group(new, id) == NULL)
                    catalog_put_queue(new, queue_make(TENANT_DEFAULT, id, name));
                break;
            case 1:
                catalog_remove_queue(new, id);
                break;
            case 2:
                if (catalog_queue(new, id) == NULL)
                    catalog_put_group(new, group_make(1, id, name));
                break;
            case 3:
                catalog_remove_group(new, id);
                break;
            case 4:
                catalog_put_route(new, route_make(TENANT_DEFAULT, IDS + id, name, 1));
                routes = true;
                break;
            default:
                catalog_put_principal(new, principal_make(2 * IDS + id, name, name));
                users = true;
            }
        }
        check_differences(old, new, IDS);
        check_differences(new, old, IDS);
        assert_int_equal(catalog_routes_differ(old, new), routes);
        assert_int_equal(catalog_principals_differ(old, new), users);
        catalog_unref(old);
        old = new;
    }
    catalog_unref(old);
}

/* With a built-in queue 1 and a queue 2. */
static struct catalog *catalog_small(void)
{
    struct catalog *catalog = catalog_new();
    struct queue *built_in = queue_make(TENANT_DEFAULT, 1, "built-in");
    built_in->built_in = true;
    catalog_put_queue(catalog, built_in);
    catalog_put_queue(catalog, queue_make(TENANT_DEFAULT, 2, "two"));
    return catalog;
}

static void queues_are_found(void **state)
{
    (void)state;
    struct catalog *catalog = catalog_small();
    assert_int_equal(catalog_queue_count(catalog), 2);
    assert_int_equal(catalog_queue(catalog, 2)->id, 2);
    assert_null(catalog_queue(catalog, 3));
    assert_int_equal(queue_named(catalog, "two"), 2);
    assert_int_equal(queue_named(catalog, catalog_queue(catalog, 2)->uuid), 2);
    assert_int_equal(queue_named(catalog, ""), 0);
    assert_null(catalog_queue_by_text(catalog, 9, span_from_text("two")));
    assert_null(catalog_queue_of_partition(catalog, 9));
    assert_int_equal(catalog_queue_of_partition(catalog, 10)->id, 1);
    assert_int_equal(catalog_queue_of_partition(catalog, 13)->id, 1);
    assert_null(catalog_queue_of_partition(catalog, 14));
    assert_int_equal(catalog_queue_of_partition(catalog, 20)->id, 2);
    assert_null(catalog_queue_of_partition(catalog, UINT64_MAX));

    /* A name that looks like another's UUID captures nothing. */
    catalog_put_queue(catalog, queue_make(TENANT_DEFAULT, 3, catalog_queue(catalog, 2)->uuid));
    assert_int_equal(queue_named(catalog, catalog_queue(catalog, 2)->uuid), 2);
    char long_name[1000];
    memset(long_name, 'x', sizeof long_name);
    long_name[sizeof long_name - 1] = '\0';
    assert_int_equal(queue_named(catalog, long_name), 0);

    /* One with the same id is replaced as a whole. */
    catalog_put_queue(catalog, queue_make(TENANT_DEFAULT, 2, "renamed"));
    assert_int_equal(catalog_queue_count(catalog), 3);
    assert_int_equal(queue_named(catalog, "two"), 0);
    assert_int_equal(queue_named(catalog, "renamed"), 2);
    catalog_unref(catalog);
    catalog_unref(NULL);
}

static void groups_belong_to_queues(void **state)
{
    (void)state;
    struct catalog *catalog = catalog_small();
    catalog_put_group(catalog, group_make(2, 12, "b"));
    catalog_put_group(catalog, group_make(2, 11, "a"));
    catalog_put_group(catalog, group_make(1, 13, "a"));
    assert_int_equal(catalog_group_count(catalog, 1), 1);
    assert_int_equal(catalog_group_count(catalog, 2), 2);
    assert_int_equal(catalog_group_count(catalog, 3), 0);
    assert_int_equal(catalog_group_at(catalog, 2, 0)->id, 11);
    assert_int_equal(catalog_group_at(catalog, 2, 1)->id, 12);
    assert_null(catalog_group_at(catalog, 2, 2));
    assert_null(catalog_group_at(catalog, 1, 1));
    assert_int_equal(catalog_group_by_text(catalog, 1, span_from_text("a"))->id, 13);
    assert_int_equal(catalog_group_by_text(catalog, 2, span_from_text("g-12"))->id, 12);
    assert_null(catalog_group_by_text(catalog, 1, span_from_text("g-12")));
    catalog_remove_group(catalog, 11);
    catalog_remove_group(catalog, 11);
    assert_null(catalog_group(catalog, 11));
    assert_int_equal(catalog_group_count(catalog, 2), 1);
    catalog_unref(catalog);
}

static void a_queue_takes_groups_and_routes_with_it(void **state)
{
    (void)state;
    struct catalog *catalog = catalog_small();
    catalog_put_group(catalog, group_make(1, 11, "a"));
    catalog_put_group(catalog, group_make(2, 12, "a"));
    catalog_put_group(catalog, group_make(2, 13, "b"));
    catalog_put_route(catalog, route_make(TENANT_DEFAULT, 21, "a/#", 2));
    catalog_put_route(catalog, route_make(TENANT_DEFAULT, 22, "b/#", 2));
    catalog_put_route(catalog, route_make(TENANT_DEFAULT, 23, "c/#", 1));
    assert_int_equal(home(catalog, "a/x"), 2);
    catalog_remove_queue(catalog, 2);
    catalog_remove_queue(catalog, 2);
    assert_int_equal(catalog_group_count(catalog, 2), 0);
    assert_int_equal(catalog_group_count(catalog, 1), 1);
    assert_int_equal(catalog_route_count(catalog), 1);
    assert_int_equal(catalog_route_at(catalog, 0)->id, 23);
    assert_int_equal(home(catalog, "a/x"), 1);
    catalog_unref(catalog);
}

static void the_most_specific_route_is_home(void **state)
{
    (void)state;
    struct catalog *catalog = catalog_small();
    static const char *const filters[] = {"#", "a/#", "a/+", "a/b", "+/b"};
    for (uint64_t i = 0; i < 5; i++) {
        catalog_put_queue(catalog, queue_make(TENANT_DEFAULT, 10 + i, filters[i]));
        catalog_put_route(catalog, route_make(TENANT_DEFAULT, 100 + i, filters[i], 10 + i));
    }
    assert_int_equal(home(catalog, "x"), 10);
    assert_int_equal(home(catalog, "a"), 11);
    assert_int_equal(home(catalog, "a/c"), 12);
    assert_int_equal(home(catalog, "a/b"), 13);
    assert_int_equal(home(catalog, "z/b"), 14);
    assert_int_equal(home(catalog, "$SYS"), 1);
    assert_null(catalog_home(catalog, 9, span_from_text("a")));
    assert_int_equal(catalog_route_by_filter(catalog, TENANT_DEFAULT, span_from_text("a/+"))->id,
                     102);
    /* The same route, elsewhere. */
    catalog_put_route(catalog, route_make(TENANT_DEFAULT, 103, "moved", 2));
    assert_int_equal(home(catalog, "a/b"), 12);
    assert_int_equal(home(catalog, "moved"), 2);
    catalog_remove_route(catalog, 103);
    assert_int_equal(home(catalog, "moved"), 10);
    catalog_unref(catalog);
}

static void principals_are_found(void **state)
{
    (void)state;
    struct catalog *catalog = catalog_new();
    assert_true(catalog_is_protected(catalog));
    catalog_put_principal(catalog, principal_make(5, "ann", "KEY1"));
    catalog_put_principal(catalog, principal_make(6, "KEY1", "KEY2"));
    assert_false(catalog_is_protected(catalog));
    assert_int_equal(catalog_principal_by_name(catalog, TENANT_DEFAULT, span_from_text("ann"))->id,
                     5);
    catalog_put_principal(catalog, principal_make(5, "ann", "KEY3"));
    assert_int_equal(catalog_principal_count(catalog), 2);
    catalog_remove_principal(catalog, 5);
    assert_int_equal(catalog_principal_count(catalog), 1);
    assert_int_equal(catalog_principal_at(catalog, 0)->id, 6);
    assert_null(catalog_principal(catalog, 5));
    catalog_unref(catalog);
}

static void a_snapshot_never_changes(void **state)
{
    (void)state;
    struct catalog *first = catalog_small();
    catalog_put_route(first, route_make(TENANT_DEFAULT, 21, "a/#", 2));
    catalog_put_group(first, group_make(2, 11, "g"));
    catalog_put_principal(first, principal_make(5, "ann", "KEY1"));
    const struct principal *ann = catalog_principal(first, 5);

    struct catalog *second = catalog_next(first);
    assert_int_equal(catalog_generation(second), catalog_generation(first) + 1);
    catalog_remove_queue(second, 2);
    catalog_put_queue(second, queue_make(TENANT_DEFAULT, 3, "two"));
    catalog_put_route(second, route_make(TENANT_DEFAULT, 31, "a/+", 3));

    assert_int_equal(home(first, "a/b"), 2);
    assert_int_equal(home(second, "a/b"), 3);
    assert_int_equal(home(second, "a"), 1);
    assert_int_equal(queue_named(first, "two"), 2);
    assert_int_equal(queue_named(second, "two"), 3);
    assert_non_null(catalog_group(first, 11));
    assert_null(catalog_group(second, 11));
    /* What has not changed is the same thing, not a copy. */
    assert_ptr_equal(catalog_principal(second, 5), ann);

    struct queue *kept = queue_ref(catalog_queue(first, 2));
    catalog_unref(first);
    assert_string_equal(kept->name, "two");
    queue_unref(kept);
    assert_int_equal(home(second, "a/b"), 3);
    catalog_unref(second);
}

static void random_filter(char *to, bool wildcards)
{
    static const char *const words[] = {"a", "b", "c", "$s", "+", "#"};
    uint64_t levels = 1 + rng_below(3);
    for (uint64_t i = 0; i < levels; i++)
        to += snprintf(to, 8, i == 0 ? "%s" : "/%s",
                       words[rng_below(wildcards ? (i + 1 == levels ? 6 : 5) : 4)]);
}

/* Snapshot after snapshot with random routes; every home is what a search through the listing says.
 */
static void homes_agree_with_a_search(void **state)
{
    (void)state;
    struct catalog *catalog = catalog_small();
    for (uint64_t round = 0; round < 1500; round++) {
        struct catalog *next = catalog_next(catalog);
        catalog_unref(catalog);
        catalog = next;
        char filter[64], topic[64];
        random_filter(filter, true);
        random_filter(topic, false);
        const struct route *old =
            catalog_route_by_filter(catalog, TENANT_DEFAULT, span_from_text(filter));
        if (old != NULL) {
            catalog_remove_route(catalog, old->id);
        } else {
            catalog_put_queue(catalog, queue_make(TENANT_DEFAULT, 1000 + round, filter));
            catalog_put_route(catalog,
                              route_make(TENANT_DEFAULT, 9000 + round, filter, 1000 + round));
        }
        const struct route *best = NULL;
        for (size_t i = 0; i < catalog_route_count(catalog); i++) {
            const struct route *route = catalog_route_at(catalog, i);
            if (topic_matches(span_from_text(route->filter), span_from_text(topic)) &&
                (best == NULL || topic_filter_compare(span_from_text(route->filter),
                                                      span_from_text(best->filter)) > 0))
                best = route;
        }
        assert_int_equal(home(catalog, topic), best == NULL ? 1 : best->queue);
    }
    catalog_unref(catalog);
}

static void routes_come_back(void **state)
{
    (void)state;
    struct route *route = route_make(3, 4, "a/+/#", 5), *decoded;
    struct buf row;
    buf_init(&row, 1000);
    assert_int_equal(route_encode(route, &row), STATUS_OK);
    assert_int_equal(route_decode(buf_span(&row), &decoded), STATUS_OK);
    assert_int_equal(decoded->tenant, 3);
    assert_int_equal(decoded->id, 4);
    assert_int_equal(decoded->queue, 5);
    assert_string_equal(decoded->filter, "a/+/#");
    route_unref(route_ref(decoded));
    route_unref(decoded);
    for (size_t size = 0; size < row.size; size++)
        assert_int_equal(route_decode(span_of(row.data, size), &decoded), STATUS_CORRUPT);
    row.data[row.size - 1] = '+';
    assert_int_equal(route_decode(buf_span(&row), &decoded), STATUS_OK);
    route_unref(decoded);
    row.data[row.size - 2] = '#';
    assert_int_equal(route_decode(buf_span(&row), &decoded), STATUS_CORRUPT);
    route_unref(route);
    route_unref(NULL);
    buf_deinit(&row);
}

/* ---------------------------------------------------------------- threads */

struct publication {
    pthread_mutex_t lock;
    struct catalog *catalog;
    bool over;
};

static struct catalog *publication_get(struct publication *publication, bool *over)
{
    pthread_mutex_lock(&publication->lock);
    struct catalog *catalog = catalog_ref(publication->catalog);
    *over = publication->over;
    pthread_mutex_unlock(&publication->lock);
    return catalog;
}

static void *read_on(void *argument)
{
    bool over = false;
    while (!over) {
        struct catalog *catalog = publication_get(argument, &over);
        for (int i = 0; i < 20; i++) {
            const struct queue *queue =
                catalog_home(catalog, TENANT_DEFAULT, span_from_text("a/b"));
            if (queue == NULL ||
                catalog_queue_of_partition(catalog, queue->first_partition) != queue ||
                catalog_queue_by_text(catalog, TENANT_DEFAULT, span_from_text(queue->uuid)) !=
                    queue)
                abort();
            queue_unref(queue_ref(queue));
        }
        catalog_unref(catalog);
    }
    return NULL;
}

static void readers_need_no_lock(void **state)
{
    (void)state;
    struct publication publication = {.lock = PTHREAD_MUTEX_INITIALIZER,
                                      .catalog = catalog_small()};
    pthread_t threads[3];
    for (int i = 0; i < 3; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, read_on, &publication), 0);
    for (uint64_t round = 0; round < 500; round++) {
        struct catalog *next = catalog_next(publication.catalog);
        if (round % 2 == 0) {
            catalog_put_queue(next, queue_make(TENANT_DEFAULT, 100 + round, "q"));
            catalog_put_route(next, route_make(TENANT_DEFAULT, 1000 + round, "a/+", 100 + round));
        } else {
            catalog_remove_queue(next, 100 + round - 1);
        }
        pthread_mutex_lock(&publication.lock);
        struct catalog *old = publication.catalog;
        publication.catalog = next;
        publication.over = round == 499;
        pthread_mutex_unlock(&publication.lock);
        catalog_unref(old);
    }
    for (int i = 0; i < 3; i++)
        pthread_join(threads[i], NULL);
    catalog_unref(publication.catalog);
}

int main(void)
{
    rng_seed(5);
    hash_init();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(queues_are_found),
        cmocka_unit_test(groups_belong_to_queues),
        cmocka_unit_test(a_queue_takes_groups_and_routes_with_it),
        cmocka_unit_test(the_most_specific_route_is_home),
        cmocka_unit_test(principals_are_found),
        cmocka_unit_test(a_snapshot_never_changes),
        cmocka_unit_test(snapshots_differ),
        cmocka_unit_test(homes_agree_with_a_search),
        cmocka_unit_test(routes_come_back),
        cmocka_unit_test(readers_need_no_lock),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
