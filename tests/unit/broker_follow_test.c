/* SPDX-License-Identifier: Apache-2.0 */
/* Followers: every record once and in order, on whatever worker; credit and room; filters; queues
 * and routes that come and go. */
#include "core/broker/follow_impl.h"
#include "tests/unit/follow_rig.h"

static void what_is_there_and_what_comes(void **state)
{
    (void)state;
    rig_open(3);
    struct peer *source = peer_new(0, "source"), *readers[3];
    struct watcher *early[3], *late[3];
    make_queue(source, "q", 4, NULL);
    publish_to_queue(source, "q", 0, 100);
    await_answers(source, 100);
    for (unsigned i = 0; i < 3; i++) {
        readers[i] = peer_new(i, "reader");
        early[i] = watch(readers[i], "q", SEEK_EARLIEST, 10000);
        late[i] = watch(readers[i], "q", SEEK_LATEST, 10000);
        await_seen(early[i], 100);
        await(look_at(early[i]).caught_up > 0 && look_at(late[i]).caught_up > 0);
    }
    for (unsigned round = 1; round < 10; round++)
        publish_to_queue(source, "q", round * 100, 100);
    for (unsigned i = 0; i < 3; i++) {
        await_seen(early[i], 1000);
        await_seen(late[i], 900);
        assert_all(early[i], 0, 1000);
        assert_all(late[i], 100, 900);
    }
    for (unsigned i = 0; i < 3; i++) {
        unwatch(early[i]);
        unwatch(late[i]);
        peer_close(readers[i]);
    }
    publish_to_queue(source, "q", 0, 100); /* nobody follows any more */
    await_answers(source, 1100);
    peer_close(source);
    rig_close();
}

static void one_frame_for_all(void **state)
{
    (void)state;
    rig_open(1);
    struct peer *source = peer_new(0, "source"), *readers[50];
    struct watcher *watchers[50];
    make_queue(source, "q", 1, NULL);
    for (unsigned i = 0; i < 50; i++) {
        readers[i] = peer_new(0, "reader");
        watchers[i] = watch(readers[i], "q", SEEK_LATEST, 100);
        await(look_at(watchers[i]).caught_up > 0);
    }
    encoded = 0;
    publish_to_queue(source, "q", 0, 20);
    for (unsigned i = 0; i < 50; i++) {
        await_seen(watchers[i], 20);
        assert_all(watchers[i], 0, 20);
    }
    assert_int_equal(encoded, 20);
    for (unsigned i = 0; i < 50; i++) {
        unwatch(watchers[i]);
        peer_close(readers[i]);
    }
    peer_close(source);
    rig_close();
}

static void credit_and_room(void **state)
{
    (void)state;
    rig_open(2);
    struct peer *source = peer_new(0, "source"), *reader = peer_new(1, "reader");
    make_queue(source, "q", 2, NULL);
    struct watcher *watcher = watch(reader, "q", SEEK_LATEST, 0);
    publish_to_queue(source, "q", 0, 300);
    await_answers(source, 300);
    rig_calm();
    assert_int_equal(look_at(watcher).count, 0);
    for (uint32_t seen = 7; seen <= 70; seen += 7) {
        give_credit(watcher, 7);
        await_seen(watcher, seen);
    }
    /* Records that come while there is no credit are read later, in order. */
    publish_to_queue(source, "q", 300, 300);
    await_answers(source, 600);
    give_credit(watcher, 1000);
    await_seen(watcher, 600);
    assert_all(watcher, 0, 600);
    /* Output that is not taken holds it up, and going on loses nothing. */
    watcher->stalls = true;
    publish_to_queue(source, "q", 600, 100);
    await_seen(watcher, 608);
    for (unsigned i = 0; i < 3; i++) {
        on(reader->worker, drained_run, reader);
        await_seen(watcher, 616 + i * 8);
    }
    watcher->stalls = false;
    on(reader->worker, drained_run, reader);
    await_seen(watcher, 700);
    assert_all(watcher, 0, 700);
    unwatch(watcher);
    peer_close(reader);
    peer_close(source);
    rig_close();
}

struct lanes_look {
    struct peer *peer;
    uint64_t partition;
    uint32_t live, behind;
};

static void lanes_run(void *context)
{
    struct lanes_look *look = context;
    struct broker_worker *worker = look->peer->client.worker;
    const struct watch *watch = map_get(&worker->watches, key_of(&look->partition));
    list_each(link, &watch->live)
    {
        look->live += container_of(link, struct lane, of_watch)->live;
    }
    list_each(link, &watch->behind)
    {
        look->behind += !container_of(link, struct lane, of_watch)->live;
    }
}

static struct lanes_look lanes_of(const struct watcher *watcher)
{
    struct lanes_look look = {.peer = watcher->peer,
                              .partition = watcher->options.queue->first_partition};
    on(watcher->peer->worker, lanes_run, &look);
    return look;
}

/* A record costs those that it is shown to: who has no credit is not in the list that is walked. */
static void who_waits_costs_nothing(void **state)
{
    enum { WAITING = 50 };
    (void)state;
    rig_open(2);
    struct peer *source = peer_new(0, "source"), *reader = peer_new(1, "reader");
    struct watcher *waiting[WAITING];
    make_queue(source, "q", 1, NULL);
    for (unsigned i = 0; i < WAITING; i++) {
        waiting[i] = watch(reader, "q", SEEK_LATEST, 1);
        await(look_at(waiting[i]).caught_up > 0);
    }
    struct watcher *live = watch(reader, "q", SEEK_LATEST, 1000);
    await(look_at(live).caught_up > 0);
    assert_int_equal(lanes_of(live).live, WAITING + 1);
    publish_to_queue(source, "q", 0, 2); /* the second finds no credit */
    await_seen(live, 2);
    assert_int_equal(lanes_of(live).live, 1);
    assert_int_equal(lanes_of(live).behind, WAITING);
    publish_to_queue(source, "q", 2, 100);
    await_seen(live, 102);
    for (unsigned i = 0; i < WAITING; i++) {
        await_seen(waiting[i], 1);
        give_credit(waiting[i], 1000);
        await_seen(waiting[i], 102);
        assert_all(waiting[i], 0, 102);
    }
    await(lanes_of(live).live == WAITING + 1);
    unwatch(live);
    for (unsigned i = 0; i < WAITING; i++)
        unwatch(waiting[i]);
    peer_close(reader);
    peer_close(source);
    rig_close();
}

static void filters(void **state)
{
    (void)state;
    rig_open(2);
    struct peer *source = peer_new(0, "source"), *reader = peer_new(1, "reader");
    publish_many(source, "a/x", GUARANTEE_AT_LEAST_ONCE, 0, 20);
    publish_many(source, "a/y", GUARANTEE_AT_LEAST_ONCE, 20, 20);
    publish_many(source, "b", GUARANTEE_AT_LEAST_ONCE, 40, 20);
    await_answers(source, 60);
    struct follow_options options = {.partition = FOLLOW_ALL_PARTITIONS,
                                     .filter = span_from_text("a/+")};
    struct watcher *by_topic = watch_with(reader, NULL, options, 1000);
    await_seen(by_topic, 40);
    assert_all(by_topic, 0, 40);
    options.filter = span_from_text("b");
    struct watcher *in_queue = watch_with(reader, "mqtt", options, 1000);
    await_seen(in_queue, 20);
    assert_all(in_queue, 40, 20);
    options.filter = (struct span){0};
    options.labels = (struct label_filter){.labels = {span_from_text("red")}, .count = 1};
    struct watcher *labelled = watch_with(reader, "mqtt", options, 1000);
    options.labels.count = 0;
    struct err err;
    assert_int_equal(selector_compile(span_from_text("color = 'blue'"), &options.selector, &err),
                     STATUS_OK);
    struct watcher *selected = watch_with(reader, "mqtt", options, 1000);
    selector_unref(options.selector);
    static const struct header red[] = {
        {{(const uint8_t *)"labels", 6}, {(const uint8_t *)"red", 3}}};
    static const struct header blue[] = {
        {{(const uint8_t *)"color", 5}, {(const uint8_t *)"blue", 4}}};
    struct publish_call call = {.peer = source,
                                .publish = {.topic = span_from_text("c"),
                                            .headers = red,
                                            .header_count = 1,
                                            .answer = true},
                                .first = 60,
                                .count = 5};
    on(source->worker, publish_call_run, &call);
    call.publish.headers = blue;
    call.first = 65;
    on(source->worker, publish_call_run, &call);
    publish_many(source, "a/z", GUARANTEE_AT_LEAST_ONCE, 40, 5);
    await_answers(source, 75);
    await_seen(labelled, 5);
    assert_all(labelled, 60, 5);
    await_seen(selected, 5);
    assert_all(selected, 65, 5);
    await_seen(by_topic, 45);
    assert_all(by_topic, 0, 45);
    await_seen(in_queue, 20);
    /* What has expired is not shown, nor what cannot be encoded. */
    static const struct header old[] = {
        {{(const uint8_t *)"expires-at", 10}, {(const uint8_t *)"1000", 4}}};
    call.publish = (struct publish){
        .topic = span_from_text("b"), .headers = old, .header_count = 1, .answer = true};
    on(source->worker, publish_call_run, &call);
    call.publish =
        (struct publish){.topic = span_from_text("b"), .body = span_of("", 0), .answer = true};
    on(source->worker, publish_call_run, &call);
    await_answers(source, 85);
    rig_calm();
    assert_int_equal(look_at(in_queue).count, 20);
    unwatch(by_topic);
    unwatch(in_queue);
    unwatch(labelled);
    unwatch(selected);
    peer_close(reader);
    peer_close(source);
    rig_close();
}

/* Selectors that take long share a worker's turns with all else: so many evaluations in one, and
 * all records come all the same. */
static void selectors_that_take_long(void **state)
{
    enum { WATCHERS = 50, RECORDS = 3, LETTERS = 1000, TRIED = 400 };
    /* Each costs this: the last run of the pattern is tried at each place of the text. */
    enum { STEPS = (LETTERS - TRIED) * TRIED, IN_A_TURN = LIMIT_SELECT_STEPS / 2 / STEPS + 1 };
    (void)state;
    rig_open(1);
    struct peer *source = peer_new(0, "source"), *reader = peer_new(0, "reader");
    make_queue(source, "q", 1, NULL);
    char selector[TRIED + 64], letters[LETTERS];
    memset(letters, 'a', sizeof letters);
    int end = snprintf(selector, sizeof selector, "x LIKE '%%%.*sb' OR y = 'yes'", TRIED, letters);
    struct err err;
    struct follow_options options = {.partition = FOLLOW_ALL_PARTITIONS, .from = SEEK_LATEST};
    assert_int_equal(selector_compile(span_of(selector, (size_t)end), &options.selector, &err),
                     STATUS_OK);
    static uint64_t shown_ms[WATCHERS * RECORDS];
    struct watcher *watchers[WATCHERS];
    shown_count = 0;
    for (unsigned i = 0; i < WATCHERS; i++) {
        watchers[i] = watch_with(reader, "q", options, 1000);
        watchers[i]->shown_ms = shown_ms;
        await(look_at(watchers[i]).caught_up > 0);
    }
    struct header headers[] = {{span_from_text("x"), span_of(letters, sizeof letters)},
                               {span_from_text("y"), span_from_text("yes")}};
    struct publish_call call = {.peer = source,
                                .publish = {.answer = true, .headers = headers, .header_count = 2},
                                .queue = "q",
                                .count = RECORDS};
    on(0, publish_call_run, &call);
    for (unsigned i = 0; i < WATCHERS; i++) {
        await_seen(watchers[i], RECORDS);
        assert_all(watchers[i], 0, RECORDS);
    }
    unsigned most = 0;
    for (unsigned i = 0, count = 0; i < WATCHERS * RECORDS; i++) {
        count = i > 0 && shown_ms[i] == shown_ms[i - 1] ? count + 1 : 1;
        most = count > most ? count : most;
    }
    assert_in_range(most, 1, IN_A_TURN);
    for (unsigned i = 0; i < WATCHERS; i++)
        unwatch(watchers[i]);
    selector_unref(options.selector);
    peer_close(reader);
    peer_close(source);
    rig_close();
}

struct choice {
    struct peer *peer;
    uint64_t group;
    struct group_take take;
    struct group_item item;
    atomic_bool done;
};

static void chosen(struct request *request, enum status status)
{
    struct choice *choice = container_of(request, struct choice, take.request);
    CHECK(status == STATUS_OK && choice->take.count == 0);
    atomic_store(&choice->done, true);
}

static void choose_run(void *context)
{
    struct choice *choice = context;
    struct client *client = &choice->peer->client;
    request_init(&choice->take.request, rig.loops[choice->peer->worker], chosen);
    broker_take(client, catalog_group(broker_catalog(client->worker), choice->group),
                &choice->take);
}

/* What a group will never hand out is not shown either, whether it has come by it or not. */
static void a_browser_knows_the_labels_of_its_group(void **state)
{
    (void)state;
    rig_open(2);
    struct peer *source = peer_new(0, "source"), *reader = peer_new(1, "reader");
    uint64_t queue = 0, group = 0;
    make_queue(source, "q", 1, &queue);
    assert_int_equal(group_make(source, queue, "g", false, &group), STATUS_OK);
    struct choice choice = {
        .peer = source,
        .group = group,
        .take = {.items = &choice.item, .max_records = 1, .max_bytes = 1, .lease_ms = 1000}};
    choice.take.labels = (struct label_filter){.labels = {span_from_text("red")}, .count = 1};
    on(source->worker, choose_run, &choice);
    rig_await(&choice.done);
    static const struct header red[] = {
        {{(const uint8_t *)"labels", 6}, {(const uint8_t *)"red", 3}}};
    struct watcher watcher = {.peer = reader,
                              .queue = "q",
                              .undone_by = group,
                              .credit = 1000,
                              .options = {.partition = FOLLOW_ALL_PARTITIONS}};
    for (uint32_t round = 0; round < 2; round++) { /* what is there, and what comes */
        struct publish_call call = {
            .peer = source, .publish = {.answer = true}, .queue = "q", .count = 5};
        call.first = 1000 + 5 * round;
        on(source->worker, publish_call_run, &call);
        call.publish.headers = red;
        call.publish.header_count = 1;
        call.first = 5 * round;
        on(source->worker, publish_call_run, &call);
        await_answers(source, 10 * (round + 1));
        if (round == 0)
            on(reader->worker, open_run, &watcher);
        await_seen(&watcher, 5 * (round + 1));
    }
    assert_all(&watcher, 0, 10);
    on(reader->worker, close_run, &watcher);
    peer_close(reader);
    peer_close(source);
    rig_close();
}

static void queues_and_routes_come_and_go(void **state)
{
    (void)state;
    rig_open(2);
    struct peer *source = peer_new(0, "source"), *reader = peer_new(1, "reader");
    uint64_t first, second;
    struct follow_options options = {
        .partition = FOLLOW_ALL_PARTITIONS, .filter = span_from_text("s/#"), .from = SEEK_LATEST};
    struct watcher *watcher = watch_with(reader, NULL, options, 1000);
    await(look_at(watcher).caught_up > 0);
    publish_many(source, "s/1", GUARANTEE_AT_LEAST_ONCE, 0, 10);
    await_answers(source, 10);
    make_queue(source, "one", 1, &first);
    make_queue(source, "two", 4, &second);
    struct broker_admin admin = {
        .action = ADMIN_ROUTE_SET, .name = span_from_text("s/+/deep"), .id = first};
    assert_int_equal(administer(source, admin, NULL), STATUS_OK);
    admin.name = span_from_text("s/1");
    admin.id = second;
    assert_int_equal(administer(source, admin, NULL), STATUS_OK);
    publish_many(source, "s/1", GUARANTEE_AT_LEAST_ONCE, 10, 10);
    publish_many(source, "s/1/deep", GUARANTEE_AT_LEAST_ONCE, 20, 10);
    publish_many(source, "s/2", GUARANTEE_AT_LEAST_ONCE, 30, 10);
    await_answers(source, 40);
    await_seen(watcher, 40);
    struct watcher *of_queue = watch(reader, "two", SEEK_EARLIEST, 100);
    await_seen(of_queue, 10);
    admin.action = ADMIN_ROUTE_DELETE;
    assert_int_equal(administer(source, admin, NULL), STATUS_OK);
    struct broker_admin remove = {.action = ADMIN_QUEUE_DELETE, .id = second};
    assert_int_equal(administer(source, remove, NULL), STATUS_OK);
    await(look_at(of_queue).ended);
    assert_int_equal(of_queue->why, STATUS_NOT_FOUND);
    publish_many(source, "s/1", GUARANTEE_AT_LEAST_ONCE, 40, 10);
    await_seen(watcher, 50);
    assert_false(look_at(watcher).ended);
    heap_free(of_queue);
    unwatch(watcher);
    peer_close(reader);
    peer_close(source);
    rig_close();
}

static void what_cannot_be_followed(void **state)
{
    (void)state;
    rig_open(2);
    struct peer *peer = peer_new(1, "peer");
    static const struct {
        const char *queue, *filter;
        int32_t partition;
    } cases[] = {{NULL, "", FOLLOW_ALL_PARTITIONS},
                 {NULL, "a/#/b", FOLLOW_ALL_PARTITIONS},
                 {NULL, "a", 0},
                 {"mqtt", "", 4},
                 {"mqtt", "", -2},
                 {"mqtt", "+a", 0}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct follow_options options = {.filter = span_from_text(cases[i].filter),
                                         .partition = cases[i].partition};
        struct watcher *watcher = watch_with(peer, cases[i].queue, options, 1);
        assert_int_equal(watcher->opened, STATUS_INVALID);
        heap_free(watcher);
    }
    struct watcher *watchers[LIMIT_FOLLOWERS];
    for (unsigned i = 0; i < LIMIT_FOLLOWERS; i++)
        watchers[i] = watch(peer, "mqtt", SEEK_LATEST, 1);
    struct watcher *beyond = watch(peer, "mqtt", SEEK_LATEST, 1);
    assert_int_equal(beyond->opened, STATUS_OVER_QUOTA);
    heap_free(beyond);
    make_queue(peer, "wide", LIMIT_PARTITIONS, NULL);
    /* The client takes them along, reads in flight included. */
    peer_close(peer);
    for (unsigned i = 0; i < LIMIT_FOLLOWERS; i++)
        heap_free(watchers[i]);
    rig_close();
}

static void a_right_that_is_taken_away(void **state)
{
    (void)state;
    rig_open(2);
    struct peer *root = peer_new(0, "root");
    assert_int_equal(user_make(root, "boss", "password"), STATUS_OK);
    await(peer_look(root).ended);
    peer_free(root);
    root = peer_connect(0);
    assert_int_equal(peer_login(root, "boss", "password", "root"), STATUS_OK);
    assert_int_equal(user_make(root, "u", "password"), STATUS_OK);
    assert_int_equal(grants_set(root, "u", "consume", "topic:a/#"), STATUS_OK);
    struct peer *reader = peer_connect(1);
    assert_int_equal(peer_login(reader, "u", "password", "reader"), STATUS_OK);
    struct watcher *denied = watch(reader, "mqtt", SEEK_LATEST, 1);
    assert_int_equal(denied->opened, STATUS_DENIED);
    struct follow_options options = {.partition = FOLLOW_ALL_PARTITIONS, .from = SEEK_LATEST};
    options.filter = span_from_text("#");
    struct watcher *wide = watch_with(reader, NULL, options, 10);
    assert_int_equal(wide->opened, STATUS_DENIED);
    options.filter = span_from_text("a/+");
    struct watcher *watcher = watch_with(reader, NULL, options, 10);
    assert_int_equal(watcher->opened, STATUS_OK);
    assert_int_equal(grants_set(root, "u", "consume", "topic:b/#"), STATUS_OK);
    await(look_at(watcher).ended);
    assert_int_equal(watcher->why, STATUS_DENIED);
    heap_free(denied);
    heap_free(wide);
    heap_free(watcher);
    peer_close(reader);
    peer_close(root);
    rig_close();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_there_and_what_comes),
        cmocka_unit_test(one_frame_for_all),
        cmocka_unit_test(credit_and_room),
        cmocka_unit_test(who_waits_costs_nothing),
        cmocka_unit_test(filters),
        cmocka_unit_test(selectors_that_take_long),
        cmocka_unit_test(a_browser_knows_the_labels_of_its_group),
        cmocka_unit_test(queues_and_routes_come_and_go),
        cmocka_unit_test(what_cannot_be_followed),
        cmocka_unit_test(a_right_that_is_taken_away),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
