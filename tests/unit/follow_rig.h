/* SPDX-License-Identifier: Apache-2.0 */
/* For tests of followers: what one has seen, on the loop of its client. */
#ifndef TESTS_UNIT_FOLLOW_RIG_H
#define TESTS_UNIT_FOLLOW_RIG_H

#include "core/broker/follow.h"
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

static inline struct blob *encode(uint32_t variant, const struct follow_place *place,
                                  const struct record *record)
{
    (void)variant;
    (void)place;
    encoded++;
    return record->value.size == 0 ? NULL : blob_copy(record->value);
}

static inline void deliver(struct follower *follower, struct blob *frame,
                           const struct follow_place *place, const struct record *record)
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

static inline void caught_up(struct follower *follower)
{
    struct watcher *watcher = follower_context(follower);
    watcher->caught_up++;
}

static inline void lost(struct follower *follower, const struct follow_place *place,
                        uint64_t records)
{
    struct watcher *watcher = follower_context(follower);
    (void)place;
    watcher->lost += records;
}

static inline void ended(struct follower *follower, enum status why)
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

static inline void open_run(void *context)
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

static inline struct watcher *watch_with(struct peer *peer, const char *queue,
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

static inline struct watcher *watch(struct peer *peer, const char *queue, enum seek_to from,
                                    uint32_t credit)
{
    return watch_with(peer, queue,
                      (struct follow_options){.partition = FOLLOW_ALL_PARTITIONS, .from = from},
                      credit);
}

static inline void close_run(void *context)
{
    struct watcher *watcher = context;
    follower_close(watcher->follower);
}

static inline void unwatch(struct watcher *watcher)
{
    on(watcher->peer->worker, close_run, watcher);
    heap_free(watcher);
}

static inline void credit_run(void *context)
{
    struct watcher *watcher = context;
    follower_credit(watcher->follower, watcher->credit);
}

static inline void give_credit(struct watcher *watcher, uint32_t credit)
{
    watcher->credit = credit;
    on(watcher->peer->worker, credit_run, watcher);
}

struct count_look {
    struct watcher *watcher;
    uint32_t count, caught_up;
    bool ended;
};

static inline void count_run(void *context)
{
    struct count_look *look = context;
    look->count = look->watcher->count;
    look->caught_up = look->watcher->caught_up;
    look->ended = look->watcher->ended;
}

static inline struct count_look look_at(struct watcher *watcher)
{
    struct count_look look = {.watcher = watcher};
    on(watcher->peer->worker, count_run, &look);
    return look;
}

static inline void await_seen(struct watcher *watcher, uint32_t count)
{
    await(look_at(watcher).count >= count);
    rig_calm();
    assert_int_equal(look_at(watcher).count, count);
}

/* Values first, first + 1, ... per partition in order, each once; count of them in all. */
static inline void assert_all(const struct watcher *watcher, int first, uint32_t count)
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

static inline void make_queue(struct peer *peer, const char *name, uint32_t partitions,
                              uint64_t *id)
{
    struct broker_admin admin = {.action = ADMIN_QUEUE_CREATE,
                                 .name = span_from_text(name),
                                 .type = partitions > 1 ? QUEUE_STREAM : QUEUE_STANDARD,
                                 .partitions = partitions};
    assert_int_equal(administer(peer, admin, id), STATUS_OK);
}

#endif
