/* SPDX-License-Identifier: Apache-2.0 */
/* Followers: every record once and in order, from whatever position, on whatever worker; credit and
 * room; filters; places to go on from; queues and routes that come and go. */
#include "core/base/clock.h"
#include "core/broker/follow.h"
#include "core/broker/follow_impl.h"
#include "tests/unit/broker_rig.h"

/* What one follower saw; only on its client's loop. */
struct watcher {
    struct peer *peer;
    struct follower *follower;
    struct {
        uint32_t partition;
        uint64_t offset;
        int value;
    } seen[SEEN_MAX];
    uint32_t count, caught_up, encoded;
    uint64_t lost;
    bool ended, stalls; /* stalls: deliveries stay in the client's output */
    enum status why, opened;
    struct follow_options options;
    const char *queue;
    uint64_t undone_by; /* a group; 0: none */
    uint32_t credit;
    bool asks;           /* for its position with each record */
    struct buf position; /* the last that was said */
    uint32_t said;
    size_t said_bytes, shown_bytes;
    uint64_t *shown_ms; /* NULL, or when the next one was shown, for all watchers of a loop */
};

static atomic_uint encoded, shown_count;

static struct blob *encode(uint32_t variant, const struct follow_place *place,
                           const struct record *record)
{
    (void)variant;
    (void)place;
    encoded++;
    return record->value.size == 0 ? NULL : blob_copy(record->value);
}

static void deliver(struct follower *follower, struct blob *frame, const struct follow_place *place,
                    const struct record *record)
{
    struct watcher *watcher = follower_context(follower);
    char text[16];
    CHECK(loop_is_home(rig.loops[watcher->peer->worker]));
    CHECK(watcher->count < SEEN_MAX);
    CHECK(follower_client(follower) == &watcher->peer->client);
    snprintf(text, sizeof text, "%.*s", (int)frame->size, (const char *)frame->bytes);
    watcher->seen[watcher->count].partition = place->partition;
    watcher->seen[watcher->count].offset = record->offset;
    watcher->seen[watcher->count++].value = number_of(text);
    watcher->shown_bytes += frame->size;
    if (watcher->shown_ms != NULL)
        watcher->shown_ms[shown_count++] = loop_now_ms(rig.loops[watcher->peer->worker]);
    if (watcher->asks && follower_says_position(follower)) {
        buf_clear(&watcher->position);
        CHECK(follower_position(follower, &watcher->position) == STATUS_OK);
        watcher->said++;
        watcher->said_bytes += watcher->position.size;
    }
    if (watcher->stalls)
        watcher->peer->queued += LIMIT_CLIENT_OUT_BYTES / 8;
}

static void caught_up(struct follower *follower)
{
    struct watcher *watcher = follower_context(follower);
    watcher->caught_up++;
}

static void lost(struct follower *follower, const struct follow_place *place, uint64_t records)
{
    struct watcher *watcher = follower_context(follower);
    (void)place;
    watcher->lost += records;
}

static void ended(struct follower *follower, enum status why)
{
    struct watcher *watcher = follower_context(follower);
    watcher->ended = true;
    watcher->why = why;
    follower_close(follower);
    watcher->follower = NULL;
}

static const struct follow_ops ops = {
    .encode = encode,
    .deliver = deliver,
    .caught_up = caught_up,
    .lost = lost,
    .ended = ended,
};

static void open_run(void *context)
{
    struct watcher *watcher = context;
    struct client *client = &watcher->peer->client;
    if (watcher->queue != NULL)
        watcher->options.queue = catalog_queue_by_text(
            broker_catalog(client->worker), client->tenant, span_from_text(watcher->queue));
    if (watcher->undone_by != 0)
        watcher->options.undone_by =
            catalog_group(broker_catalog(client->worker), watcher->undone_by);
    watcher->opened = follower_open(client, &ops, watcher, &watcher->options, &watcher->follower);
    if (watcher->opened == STATUS_OK)
        follower_credit(watcher->follower, watcher->credit);
}

static struct watcher *watch_with(struct peer *peer, const char *queue,
                                  struct follow_options options, uint32_t credit)
{
    struct watcher *watcher = heap_new(sizeof *watcher);
    watcher->peer = peer;
    watcher->queue = queue;
    watcher->options = options;
    watcher->credit = credit;
    on(peer->worker, open_run, watcher);
    return watcher;
}

static struct watcher *watch(struct peer *peer, const char *queue, enum seek_to from,
                             uint32_t credit)
{
    return watch_with(peer, queue,
                      (struct follow_options){.partition = FOLLOW_ALL_PARTITIONS, .from = from},
                      credit);
}

static void close_run(void *context)
{
    struct watcher *watcher = context;
    follower_close(watcher->follower);
}

static void unwatch(struct watcher *watcher)
{
    on(watcher->peer->worker, close_run, watcher);
    heap_free(watcher);
}

static void credit_run(void *context)
{
    struct watcher *watcher = context;
    follower_credit(watcher->follower, watcher->credit);
}

static void give_credit(struct watcher *watcher, uint32_t credit)
{
    watcher->credit = credit;
    on(watcher->peer->worker, credit_run, watcher);
}

struct count_look {
    struct watcher *watcher;
    uint32_t count, caught_up;
    bool ended;
};

static void count_run(void *context)
{
    struct count_look *look = context;
    look->count = look->watcher->count;
    look->caught_up = look->watcher->caught_up;
    look->ended = look->watcher->ended;
}

static struct count_look look_at(struct watcher *watcher)
{
    struct count_look look = {.watcher = watcher};
    on(watcher->peer->worker, count_run, &look);
    return look;
}

static void await_seen(struct watcher *watcher, uint32_t count)
{
    await(look_at(watcher).count >= count);
    rig_calm();
    assert_int_equal(look_at(watcher).count, count);
}

/* Values first, first + 1, ... per partition in order, each once; count of them in all. */
static void assert_all(const struct watcher *watcher, int first, uint32_t count)
{
    bool found[SEEN_MAX] = {0};
    int last[64];
    for (unsigned i = 0; i < 64; i++)
        last[i] = -1;
    assert_int_equal(watcher->count, count);
    for (uint32_t i = 0; i < count; i++) {
        int number = watcher->seen[i].value - first;
        assert_in_range(number, 0, count - 1);
        assert_false(found[number]);
        found[number] = true;
        assert_true((int)watcher->seen[i].offset > last[watcher->seen[i].partition]);
        last[watcher->seen[i].partition] = (int)watcher->seen[i].offset;
    }
}

static void make_queue(struct peer *peer, const char *name, uint32_t partitions, uint64_t *id)
{
    struct broker_admin admin = {.action = ADMIN_QUEUE_CREATE,
                                 .name = span_from_text(name),
                                 .type = partitions > 1 ? QUEUE_STREAM : QUEUE_STANDARD,
                                 .partitions = partitions};
    assert_int_equal(administer(peer, admin, id), STATUS_OK);
}

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

static void from_offset_time_and_position(void **state)
{
    (void)state;
    rig_open(2);
    struct peer *source = peer_new(0, "source"), *reader = peer_new(1, "reader");
    make_queue(source, "q", 1, NULL);
    publish_to_queue(source, "q", 0, 50);
    await_answers(source, 50);
    usleep(20000);
    int64_t between_ms = clock_wall_ms();
    usleep(20000);
    publish_to_queue(source, "q", 50, 50);
    await_answers(source, 100);
    struct follow_options options = {.from = SEEK_OFFSET, .offset = 30};
    struct watcher *watcher = watch_with(reader, "q", options, 1000);
    await_seen(watcher, 70);
    assert_all(watcher, 30, 70);
    unwatch(watcher);
    options = (struct follow_options){
        .partition = FOLLOW_ALL_PARTITIONS, .from = SEEK_TIME, .time_ms = between_ms};
    watcher = watch_with(reader, "q", options, 10);
    await_seen(watcher, 10);
    assert_all(watcher, 50, 10);
    struct buf position;
    buf_init(&position, 100);
    assert_int_equal(follower_position(watcher->follower, &position), STATUS_OK);
    unwatch(watcher);
    options = (struct follow_options){
        .partition = FOLLOW_ALL_PARTITIONS, .from = SEEK_LATEST, .position = buf_span(&position)};
    watcher = watch_with(reader, "q", options, 1000);
    await_seen(watcher, 40);
    assert_all(watcher, 60, 40);
    unwatch(watcher);
    static const char *const bad[] = {"", "1", "1.", "1.2_", "x.1", "1.2 ", "1.2_3", "G.1"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) { /* counts as none */
        options.position = span_from_text(bad[i]);
        watcher = watch_with(reader, "q", options, 1000);
        await(look_at(watcher).caught_up > 0);
        assert_int_equal(look_at(watcher).count, 0);
        unwatch(watcher);
    }
    /* An offset to come: whatever comes. */
    options = (struct follow_options){
        .partition = FOLLOW_ALL_PARTITIONS, .from = SEEK_OFFSET, .offset = 1000};
    struct watcher *beyond = watch_with(reader, "q", options, 1000);
    await(look_at(beyond).caught_up > 0);
    /* A time to come: nothing before it, nor what is older and comes now. */
    options = (struct follow_options){.partition = FOLLOW_ALL_PARTITIONS,
                                      .from = SEEK_TIME,
                                      .time_ms = clock_wall_ms() + 1000000};
    watcher = watch_with(reader, "q", options, 1000);
    await(look_at(watcher).caught_up > 0);
    publish_to_queue(source, "q", 100, 10);
    await_answers(source, 110);
    rig_calm();
    assert_int_equal(look_at(watcher).count, 0);
    await_seen(beyond, 10);
    assert_all(beyond, 100, 10);
    unwatch(watcher);
    unwatch(beyond);
    buf_deinit(&position);
    peer_close(reader);
    peer_close(source);
    rig_close();
}

/* What positions cost is no more than what is shown, and who goes on from the last one misses
 * nothing. */
static void positions_of_many_partitions(void **state)
{
    enum { FEW = 4, MANY = 256, RECORDS = 1000 };
    (void)state;
    rig_open(2);
    struct peer *source = peer_new(0, "source"), *reader = peer_new(1, "reader");
    make_queue(source, "few", FEW, NULL);
    make_queue(source, "many", MANY, NULL);
    struct watcher *few = watch(reader, "few", SEEK_EARLIEST, 0),
                   *many = watch(reader, "many", SEEK_EARLIEST, 0);
    few->asks = many->asks = true;
    buf_init(&few->position, 1000);
    buf_init(&many->position, 100000);
    give_credit(few, RECORDS);
    give_credit(many, RECORDS);
    publish_to_queue(source, "few", 0, RECORDS);
    publish_to_queue(source, "many", 0, RECORDS);
    await_seen(few, RECORDS);
    await_seen(many, RECORDS);
    assert_int_equal(few->said, RECORDS);
    assert_in_range(many->said, 2, 5);
    assert_true(many->said_bytes <= many->shown_bytes + many->position.size);

    /* Of a partition that has not been looked at yet nothing is said, whichever it is. */
    struct follow_options since = {
        .partition = FOLLOW_ALL_PARTITIONS, .from = SEEK_TIME, .time_ms = 1};
    struct watcher *first = watch_with(reader, "few", since, 0);
    struct follow_position read;
    first->asks = true;
    buf_init(&first->position, 1000);
    give_credit(first, 1);
    await_seen(first, 1);
    assert_int_equal(follow_position_read(buf_span(&first->position), &read), STATUS_OK);
    assert_in_range(read.count, 1, FEW - 1);
    buf_deinit(&first->position);
    unwatch(first);

    /* The rest is shown again from the last that was said, in whatever order its marks come. */
    struct buf turned;
    buf_init(&turned, 100000);
    struct span left = buf_span(&many->position);
    while (left.size > 0) {
        size_t at = left.size;
        while (at > 0 && left.data[at - 1] != '_')
            at--;
        buf_append(&turned, left.data + at, left.size - at);
        buf_append_text(&turned, "_");
        left.size = at == 0 ? 0 : at - 1;
    }
    bool shown[RECORDS] = {0};
    uint32_t again = 0;
    buf_append(&turned, many->position.data, 1); /* of one partition the first counts */
    buf_append_text(&turned, ".0");
    struct follow_options options = {.partition = FOLLOW_ALL_PARTITIONS,
                                     .position = buf_span(&turned)};
    struct watcher *watcher = watch_with(reader, "many", options, RECORDS);
    assert_int_equal(watcher->opened, STATUS_OK);
    publish_to_queue(source, "many", RECORDS, 1);
    await(look_at(watcher).caught_up > 0 && look_at(watcher).count > 0 &&
          watcher->seen[look_at(watcher).count - 1].value == RECORDS);
    rig_calm();
    again = look_at(watcher).count - 1;
    assert_in_range(again, 1, RECORDS - 1);
    for (uint32_t i = 0; i < again; i++) {
        assert_false(shown[watcher->seen[i].value]);
        shown[watcher->seen[i].value] = true;
    }
    unwatch(watcher);

    /* No follower says so many. */
    buf_clear(&turned);
    for (unsigned i = 0; i < LIMIT_FOLLOW_PARTITIONS; i++)
        buf_printf(&turned, "%s%x.1", i == 0 ? "" : "_", 0x10000 + i);
    options.position = buf_span(&turned);
    watcher = watch_with(reader, "many", options, RECORDS);
    assert_int_equal(watcher->opened, STATUS_OK);
    unwatch(watcher);
    buf_append_text(&turned, "_1.1");
    options.position = buf_span(&turned);
    watcher = watch_with(reader, "many", options, RECORDS);
    assert_int_equal(watcher->opened, STATUS_INVALID);
    heap_free(watcher);
    buf_deinit(&turned);
    buf_deinit(&few->position);
    buf_deinit(&many->position);
    unwatch(few);
    unwatch(many);
    peer_close(reader);
    peer_close(source);
    rig_close();
}

static void from_the_last_of_each_partition(void **state)
{
    (void)state;
    rig_open(2);
    struct peer *source = peer_new(0, "source"), *reader = peer_new(1, "reader");
    make_queue(source, "q", 1, NULL);
    make_queue(source, "empty", 2, NULL);
    publish_to_queue(source, "q", 0, 400);
    await_answers(source, 400);
    struct follow_options options = {
        .partition = FOLLOW_ALL_PARTITIONS, .from = SEEK_LATEST, .last = true};
    struct watcher *last = watch_with(reader, "q", options, 1000);
    struct watcher *nothing = watch_with(reader, "empty", options, 1000);
    await(look_at(nothing).caught_up > 0);
    await_seen(last, 1);
    /* None of it is wanted: it looks back to the beginning, and shows what comes of others. */
    options.no_local = true;
    struct watcher *others = watch_with(source, "q", options, 1000);
    await(look_at(others).caught_up > 0);
    publish_to_queue(reader, "q", 400, 10);
    publish_to_queue(reader, "empty", 0, 10);
    await_seen(last, 11);
    assert_all(last, 399, 11);
    await_seen(others, 10);
    assert_all(others, 400, 10);
    await_seen(nothing, 10);
    assert_all(nothing, 0, 10);
    unwatch(last);
    unwatch(nothing);
    unwatch(others);
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
    enum { STEPS = (LETTERS - TRIED) * TRIED, IN_A_TURN = LIMIT_FOLLOW_STEPS / STEPS + 1 };
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
        cmocka_unit_test(from_offset_time_and_position),
        cmocka_unit_test(positions_of_many_partitions),
        cmocka_unit_test(from_the_last_of_each_partition),
        cmocka_unit_test(filters),
        cmocka_unit_test(selectors_that_take_long),
        cmocka_unit_test(a_browser_knows_the_labels_of_its_group),
        cmocka_unit_test(queues_and_routes_come_and_go),
        cmocka_unit_test(what_cannot_be_followed),
        cmocka_unit_test(a_right_that_is_taken_away),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
