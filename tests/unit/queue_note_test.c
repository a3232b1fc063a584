/* SPDX-License-Identifier: Apache-2.0 */
/* What consumers leave on records that come again: merged, limited, and gone with what it was left
 * on. */
/* links: queue net_uv storage_memory */
#include "core/base/limits.h"
#include "core/base/pack.h"
#include "core/queue/group_impl.h"
#include "tests/unit/queue_rig.h"

enum { LEASE_MS = 30000 };

/* Names and values in turn. */
static struct span note_of_texts(struct buf *buf, const char *const *texts)
{
    buf_clear(buf);
    struct pack pack = pack_into(buf);
    for (; *texts != NULL; texts++)
        pack_block(&pack, span_from_text(*texts));
    assert_int_equal(pack.status, STATUS_OK);
    return buf_span(buf);
}

static void give_back(const struct take *take, struct span note)
{
    struct receipt receipts[ITEMS_MAX];
    enum status results[ITEMS_MAX];
    struct settle settle = {.settle = {.receipts = receipts,
                                       .count = take->take.count,
                                       .outcome = SETTLE_RELEASED,
                                       .results = results,
                                       .note = note}};
    for (uint32_t i = 0; i < take->take.count; i++)
        receipts[i] = take->items[i].receipt;
    request_init(&settle.settle.request, rig.loop, settle_done);
    group_settle(rig.group, &settle.settle);
    while (!settle.done)
        loop_run(rig.loop);
    for (uint32_t i = 0; i < take->take.count; i++)
        assert_int_equal(results[i], STATUS_OK);
}

static uint32_t noted(const struct take *take)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < take->take.count; i++)
        count += take->items[i].note != NULL;
    return count;
}

static void assert_note(const struct group_item *item, const char *const *texts)
{
    struct buf buf;
    buf_init(&buf, 2048);
    assert_non_null(item->note);
    assert_true(span_equal(blob_span(item->note), note_of_texts(&buf, texts)));
    buf_deinit(&buf);
}

#define TEXTS(...) ((const char *const[]){__VA_ARGS__, NULL})

static void seek_done(struct request *request, enum status status)
{
    (void)request;
    assert_int_equal(status, STATUS_OK);
    answered++;
    loop_stop(rig.loop);
}

static void seek_back(void)
{
    struct group_seek seek = {.to = SEEK_EARLIEST};
    unsigned before = answered;
    request_init(&seek.request, rig.loop, seek_done);
    group_seek(rig.group, &seek);
    while (answered == before)
        loop_run(rig.loop);
}

static void test_notes_go_with_their_record(void **state)
{
    (void)state;
    static struct take take;
    struct buf buf;
    buf_init(&buf, 2048);
    rig_open(2);
    open_group();
    publish(0, 0, 1, NULL);
    take_some(&take, 1, 0, LEASE_MS);
    assert_null(take.items[0].note);
    give_back(&take, note_of_texts(&buf, TEXTS("why", "broken", "who", "me")));
    take_drop(&take);
    take_some(&take, 1, 0, LEASE_MS);
    assert_note(&take.items[0], TEXTS("why", "broken", "who", "me"));
    give_back(&take, note_of_texts(&buf, TEXTS("why", "late", "when", "now")));
    take_drop(&take);
    take_some(&take, 1, 0, LEASE_MS);
    assert_note(&take.items[0], TEXTS("who", "me", "why", "late", "when", "now"));
    settle_all(&take, SETTLE_DONE);
    take_drop(&take);
    assert_int_equal(rig.group->note_count, 0);

    /* After a seek it is as if nobody had had them. */
    publish(0, 1, 3, NULL);
    publish(1, 4, 1, NULL);
    assert_int_equal(take_some(&take, 10, 0, LEASE_MS), 4);
    give_back(&take, note_of_texts(&buf, TEXTS("a", "b")));
    take_drop(&take);
    assert_int_equal(rig.group->note_count, 4);
    seek_back();
    assert_int_equal(take_some(&take, 10, 0, LEASE_MS), 5);
    assert_int_equal(noted(&take), 0);
    take_drop(&take);
    assert_int_equal(rig.group->note_count, 0);
    buf_deinit(&buf);
    rig_close();
}

/* Of a group so many, each so large; what others do makes room. */
static void test_notes_are_limited(void **state)
{
    (void)state;
    static struct take take, some;
    static char large[LIMIT_GROUP_NOTE_BYTES];
    struct buf buf;
    buf_init(&buf, 4096);
    rig_open(1);
    open_group();
    memset(large, 'x', sizeof large - 1);
    publish(0, 0, 1, NULL);
    take_some(&take, 1, 0, LEASE_MS);
    give_back(&take, note_of_texts(&buf, TEXTS("a", "b")));
    take_drop(&take);
    take_some(&take, 1, 0, LEASE_MS);
    give_back(&take, note_of_texts(&buf, TEXTS("large", large)));
    take_drop(&take);
    take_some(&take, 1, 0, LEASE_MS);
    assert_note(&take.items[0], TEXTS("a", "b"));
    settle_all(&take, SETTLE_DONE);
    take_drop(&take);

    publish(0, 1, LIMIT_GROUP_NOTES + 10, NULL);
    assert_int_equal(take_some(&take, LIMIT_GROUP_NOTES, 0, LEASE_MS), LIMIT_GROUP_NOTES);
    assert_int_equal(take_some(&some, 10, 0, LEASE_MS), 10);
    give_back(&take, note_of_texts(&buf, TEXTS("a", "b")));
    give_back(&some, note_of_texts(&buf, TEXTS("a", "b")));
    take_drop(&take);
    take_drop(&some);
    assert_int_equal(take_some(&take, LIMIT_GROUP_NOTES, 0, LEASE_MS), LIMIT_GROUP_NOTES);
    assert_int_equal(noted(&take), LIMIT_GROUP_NOTES);
    assert_int_equal(take_some(&some, 10, 0, LEASE_MS), 10);
    assert_int_equal(noted(&some), 0);
    settle_all(&take, SETTLE_DONE);
    take_drop(&take);
    give_back(&some, note_of_texts(&buf, TEXTS("a", "b")));
    take_drop(&some);
    assert_int_equal(take_some(&some, 10, 0, LEASE_MS), 10);
    assert_int_equal(noted(&some), 10);
    take_drop(&some);
    buf_deinit(&buf);
    rig_close();
}

/* Another group of the same worker has its part of what there is for all. */
static void test_all_groups_have_one_budget(void **state)
{
    (void)state;
    enum { RECORDS = 100 };
    static struct take take;
    struct buf buf;
    buf_init(&buf, 2048);
    rig_open(1);
    rig.budget.note_bytes_max = 15 * 200;
    rig.budget.released.max = 150;
    open_group();
    publish(0, 0, RECORDS, NULL);
    struct group *first = rig.group;
    struct group_spec *spec = rig.spec;
    uint32_t notes[2], known[2];
    rig.spec = spec_of(10, GROUP_EARLIEST);
    rig.spec->dead_partition = 0;
    open_group();
    struct group *groups[2] = {first, rig.group};
    for (int i = 0; i < 2; i++) {
        rig.group = groups[i];
        assert_int_equal(take_some(&take, RECORDS, 1000, LEASE_MS), RECORDS);
        give_back(&take, note_of_texts(&buf, TEXTS("a", "b")));
        take_drop(&take);
        assert_int_equal(take_some(&take, RECORDS, 0, LEASE_MS), RECORDS);
        notes[i] = noted(&take);
        known[i] = 0;
        for (uint32_t k = 0; k < RECORDS; k++)
            known[i] += take.items[k].again;
        give_back(&take, (struct span){0});
        take_drop(&take);
    }
    assert_in_range(notes[0], 15, 29); /* what a note takes besides its bytes counts */
    assert_int_equal(notes[1], 0);
    assert_int_equal(known[0], RECORDS);
    assert_int_equal(known[1], 50);
    assert_true(rig.budget.note_bytes > 0 && rig.budget.note_bytes <= rig.budget.note_bytes_max);

    /* What the first gives up is there for the second. */
    rig.group = first;
    close_group(true);
    assert_int_equal(rig.budget.note_bytes, 0);
    assert_int_equal(rig.budget.released.count, 50);
    rig.group = groups[1];
    assert_int_equal(take_some(&take, RECORDS, 0, LEASE_MS), RECORDS);
    give_back(&take, note_of_texts(&buf, TEXTS("a", "b")));
    take_drop(&take);
    assert_int_equal(take_some(&take, RECORDS, 0, LEASE_MS), RECORDS);
    assert_int_equal(noted(&take), notes[0]);
    assert_int_equal(rig.budget.released.count, RECORDS);
    uint64_t held = rig.budget.note_bytes;
    give_back(&take, note_of_texts(&buf, TEXTS("a", "c"))); /* in place of those that are there */
    take_drop(&take);
    assert_int_equal(rig.budget.note_bytes, held);
    take_some(&take, RECORDS, 0, LEASE_MS);
    assert_note(&take.items[0], TEXTS("a", "c"));
    settle_all(&take, SETTLE_DONE);
    take_drop(&take);
    assert_int_equal(rig.budget.note_bytes + rig.budget.released.count, 0);
    buf_deinit(&buf);
    group_spec_unref(spec);
    rig_close();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_notes_go_with_their_record),
        cmocka_unit_test(test_notes_are_limited),
        cmocka_unit_test(test_all_groups_have_one_budget),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
