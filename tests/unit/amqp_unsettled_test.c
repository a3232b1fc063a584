/* SPDX-License-Identifier: Apache-2.0 */
/* What is remembered of deliveries on links that may be resumed, for how long, and how much. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

#include "adapters/amqp/unsettled.h"
#include "core/base/hash.h"
#include "core/base/heap.h"
#include "core/base/limits.h"
#include "core/base/pack.h"

#define BYTES(...) span_of(((const uint8_t[]){__VA_ARGS__}), sizeof((const uint8_t[]){__VA_ARGS__}))

static uint64_t now_ms = 1000;

static struct span text(const char *text)
{
    return span_from_text(text);
}

static int begin(void **state)
{
    (void)state;
    amqp_unsettled_forget();
    return 0;
}

static struct amqp_attachment *attach_as(struct span user, struct span name, bool settles_second)
{
    bool late;
    struct amqp_attachment *attachment =
        amqp_attachment_new(user, name, settles_second, amqp_unsettled_turn(), now_ms, &late);
    assert_false(late);
    return attachment;
}

static struct amqp_attachment *attach(const char *name, bool settles_second)
{
    return attach_as(text("user"), text(name), settles_second);
}

static void leave(struct amqp_attachment *attachment)
{
    amqp_attachment_leave(attachment, false, now_ms);
    amqp_attachment_free(attachment, now_ms);
}

/* It is not kept beyond the process. */
static bool begun(struct amqp_attachment *attachment, struct span tag, uint64_t payload)
{
    uint64_t from;
    return amqp_attachment_sent(attachment, tag, payload, 0, &from);
}

static void sent(struct amqp_attachment *attachment, const char *tag, enum status status)
{
    assert_true(begun(attachment, text(tag), hash_stable(text(tag))));
    amqp_attachment_answered(attachment, status, false);
}

/* With a map of one-letter tags. */
static void resume(struct amqp_attachment *attachment, const char *tags, bool incomplete)
{
    uint8_t items[256], *at = items;
    uint32_t count = 0;
    for (; *tags != '\0'; tags++, count += 2) {
        uint8_t item[] = {0xa0, 1, (uint8_t)*tags, 0x40};
        memcpy(at, item, sizeof item);
        at += sizeof item;
    }
    amqp_attachment_resume(attachment, &(struct amqp_unsettled_map){
                                           .is_there = true,
                                           .incomplete = incomplete,
                                           .items = span_of(items, (size_t)(at - items)),
                                           .count = count,
                                       });
}

static enum amqp_again came(struct amqp_attachment *attachment, const char *tag,
                            const char *payload, enum status *status)
{
    *status = STATUS_INTERNAL;
    return amqp_attachment_came(attachment, text(tag), text(payload), false, status);
}

static void is_known(struct amqp_attachment *attachment, const char *tag, enum status wanted)
{
    enum status status;
    assert_int_equal(came(attachment, tag, tag, &status), AMQP_AGAIN_KNOWN);
    assert_int_equal(status, wanted);
}

static void is_new(struct amqp_attachment *attachment, const char *tag)
{
    enum status status;
    assert_int_equal(came(attachment, tag, tag, &status), AMQP_AGAIN_NEVER);
}

static void owes(struct amqp_attachment *attachment, uint32_t want)
{
    uint32_t count;
    assert_true(amqp_attachment_owed(attachment, &count));
    assert_int_equal(count, want);
}

static const char *condition_of(enum status status)
{
    return status == STATUS_OVER_QUOTA ? "full" : "else";
}

static void map_is(struct amqp_attachment *attachment, struct span want)
{
    struct buf map;
    buf_init(&map, 1024);
    assert_true(amqp_attachment_map(attachment, condition_of, 512, &map));
    assert_true(span_equal(buf_span(&map), want));
    buf_deinit(&map);
}

#define STATE_RECEIVED 0, 0x53, 0x23, 0xc0, 3, 2, 0x43, 0x44
#define STATE_ACCEPTED 0, 0x53, 0x24, 0x45

static void test_told_once_the_same_bytes_are_the_same_delivery(void **state)
{
    (void)state;
    enum status status;
    struct amqp_attachment *one = attach("a", false);
    sent(one, "0", STATUS_OK);
    sent(one, "1", STATUS_OK);
    sent(one, "2", STATUS_OVER_QUOTA); /* heard of, and may be looked at anew */
    is_new(one, "0");                  /* not in a map */
    leave(one);
    one = attach("a", false);
    resume(one, "012x", false);
    map_is(one, BYTES(0xc1, 23, 4, 0xa0, 1, '0', STATE_RECEIVED, 0xa0, 1, '1', STATE_RECEIVED));
    is_known(one, "0", STATUS_OK);
    is_new(one, "0"); /* once: what follows is another delivery */
    assert_int_equal(came(one, "1", "other", &status), AMQP_AGAIN_NEVER);
    is_new(one, "2");
    is_new(one, "x");
    assert_int_equal(amqp_attachment_came(one, text("y"), text("y"), true, &status),
                     AMQP_AGAIN_UNKNOWN);
    leave(one);
    /* "1" may be the other one by now: nothing is said of a tag but by its bytes. */
    one = attach("a", false);
    resume(one, "1", false);
    assert_int_equal(amqp_attachment_came(one, text("1"), text(""), true, &status),
                     AMQP_AGAIN_UNKNOWN);
    leave(one);
}

static void recall(struct amqp_attachment *attachment, const char *tag, const char *payload)
{
    static uint64_t number;
    amqp_attachment_recall(attachment, text(tag), hash_stable(text(payload)), ++number);
}

/* What was kept fills in for what this process does not know, and for nothing else. */
static void test_what_was_kept_is_told_once_and_before_the_map(void **state)
{
    (void)state;
    enum status status;
    struct amqp_attachment *one = attach("a", false);
    recall(one, "0", "older");
    recall(one, "0", "0"); /* the tag has come again */
    recall(one, "1", "1");
    recall(one, "2", "2"); /* not in the map */
    recall(one, "123456789012345678901234567890123", "too long");
    resume(one, "01", false);
    recall(one, "3", "3"); /* too late */
    map_is(one, BYTES(0xc1, 23, 4, 0xa0, 1, '0', STATE_RECEIVED, 0xa0, 1, '1', STATE_RECEIVED));
    is_known(one, "0", STATUS_OK);
    assert_int_equal(came(one, "1", "other", &status), AMQP_AGAIN_NEVER);
    sent(one, "5", STATUS_OVER_QUOTA);
    leave(one);
    one = attach("a", false); /* more is known of it */
    recall(one, "5", "5");
    recall(one, "6", "6");
    resume(one, "56", false);
    is_new(one, "5");
    is_new(one, "6");
    leave(one);
    /* It is not, of one that had no room. */
    struct amqp_attachment *full[LIMIT_RESUME_TAGS / 2 / LIMIT_RESUME_LINK_TAGS];
    for (uint32_t i = 0; i < sizeof full / sizeof *full; i++) {
        char name[16], tag[16];
        snprintf(name, sizeof name, "full%u", i);
        full[i] = attach(name, false);
        for (uint32_t k = 0; k < LIMIT_RESUME_LINK_TAGS; k++) {
            snprintf(tag, sizeof tag, "%u", k);
            sent(full[i], tag, STATUS_OK);
        }
    }
    one = attach("b", false);
    resume(one, "", false);
    sent(one, "0", STATUS_OK);
    amqp_attachment_leave(full[0], true, now_ms);
    sent(one, "1", STATUS_OVER_QUOTA);
    sent(one, "2", STATUS_OK);
    leave(one);
    one = attach("b", false);
    recall(one, "0", "0");
    recall(one, "2", "else");
    resume(one, "02", false);
    is_known(one, "0", STATUS_OK);
    is_known(one, "2", STATUS_OK);
    leave(one);
    for (uint32_t i = 0; i < sizeof full / sizeof *full; i++)
        leave(full[i]);
}

static void test_answered_when_the_link_has_gone(void **state)
{
    (void)state;
    struct amqp_attachment *one = attach("a", false);
    for (const char *const *tag = (const char *const[]){"0", "1", "2", "3", NULL}; *tag; tag++)
        assert_true(begun(one, text(*tag), hash_stable(text(*tag))));
    amqp_attachment_leave(one, false, now_ms);
    amqp_attachment_answered(one, STATUS_OK, false);
    struct amqp_attachment *two = attach("a", false);
    resume(two, "0123", false);
    owes(two, 3);
    amqp_attachment_answered(one, STATUS_OVER_QUOTA, false);
    amqp_attachment_answered(one, STATUS_SHUTTING_DOWN, false);
    amqp_attachment_answered(one, STATUS_STORAGE_FAILED, false);
    owes(two, 0);
    amqp_attachment_free(one, now_ms);
    map_is(two, BYTES(0xc1, 29, 4, 0xa0, 1, '0', STATE_ACCEPTED, 0xa0, 1, '1', 0, 0x53, 0x25, 0xc0,
                      13, 1, 0, 0x53, 0x1d, 0xc0, 7, 1, 0xa3, 4, 'f', 'u', 'l', 'l'));
    enum status status;
    assert_int_equal(amqp_attachment_came(two, text("0"), text(""), true, &status),
                     AMQP_AGAIN_KNOWN);
    is_known(two, "1", STATUS_OVER_QUOTA);
    is_new(two, "2");
    is_new(two, "3");
    leave(two);
    two = attach("a", false); /* told by now */
    resume(two, "01", false);
    map_is(two, BYTES(0xc1, 12, 2, 0xa0, 1, '0', STATE_RECEIVED));
    leave(two);
    /* So is what was in our map, and never came: the tag may be another delivery's. */
    one = attach("b", false);
    assert_true(begun(one, text("0"), hash_stable(text("0"))));
    assert_true(begun(one, text("1"), hash_stable(text("1"))));
    amqp_attachment_leave(one, false, now_ms);
    amqp_attachment_answered(one, STATUS_OK, false);
    amqp_attachment_answered(one, STATUS_OVER_QUOTA, false);
    amqp_attachment_free(one, now_ms);
    for (unsigned i = 0; i < 2; i++) {
        two = attach("b", false);
        resume(two, "01", false);
        struct buf map;
        buf_init(&map, 1024);
        assert_true(amqp_attachment_map(two, condition_of, 512, &map));
        buf_deinit(&map);
        assert_int_equal(came(two, "0", "anew", &status), AMQP_AGAIN_NEVER);
        leave(two);
    }
    two = attach("b", false);
    resume(two, "01", false);
    is_known(two, "0", STATUS_OK);
    is_new(two, "1");
    leave(two);
}

static void test_what_was_rejected_is_told_until_who_settles_second_has(void **state)
{
    (void)state;
    struct amqp_attachment *one = attach("a", true);
    sent(one, "0", STATUS_OK);
    sent(one, "1", STATUS_OVER_QUOTA);
    sent(one, "2", STATUS_OK);
    amqp_attachment_settled(one, text("2"));
    for (unsigned i = 0; i < 2; i++) {
        leave(one);
        one = attach("a", true);
        resume(one, "012", false);
        is_known(one, "0", STATUS_OK);
        is_known(one, "1", STATUS_OVER_QUOTA);
        is_new(one, "2");
    }
    leave(one);
}

/* Heard of, settled, and the tag taken for another delivery: all that was lost on its way. */
static void test_a_tag_that_its_sender_has_settled(void **state)
{
    (void)state;
    enum status status;
    struct amqp_attachment *one;
    for (unsigned second = 0; second < 2; second++) {
        one = attach("a", second == 1);
        sent(one, "0", STATUS_OK);
        sent(one, "1", STATUS_OK);
        assert_true(begun(one, text("2"), hash_stable(text("2"))));
        assert_true(begun(one, text("3"), hash_stable(text("3"))));
        amqp_attachment_leave(one, false, now_ms);
        amqp_attachment_answered(one, STATUS_OK, false);
        amqp_attachment_answered(one, STATUS_OK, false);
        amqp_attachment_free(one, now_ms);
        one = attach("a", second == 1);
        resume(one, "0123", false);
        map_is(one, BYTES(0xc1, 37, 8, 0xa0, 1, '0', STATE_RECEIVED, 0xa0, 1, '1', STATE_RECEIVED,
                          0xa0, 1, '2', STATE_ACCEPTED, 0xa0, 1, '3', STATE_ACCEPTED));
        assert_int_equal(came(one, "0", "anew", &status), AMQP_AGAIN_NEVER);
        assert_int_equal(amqp_attachment_came(one, text("1"), text("anew"), true, &status),
                         AMQP_AGAIN_NEVER);
        /* Settled before its outcome was there. */
        assert_int_equal(came(one, "2", "anew", &status), AMQP_AGAIN_NEVER);
        /* Both maps have it, and it is resumed: whatever its bytes are by now. */
        assert_int_equal(amqp_attachment_came(one, text("3"), text("changed"), true, &status),
                         AMQP_AGAIN_KNOWN);
        amqp_attachment_leave(one, true, now_ms);
        amqp_attachment_free(one, now_ms);
    }
}

static void test_settled_before_it_is_answered(void **state)
{
    (void)state;
    struct amqp_attachment *one = attach("a", false);
    for (const char *const *tag = (const char *const[]){"0", "0", NULL}; *tag; tag++)
        assert_true(begun(one, text(*tag), hash_stable(text("same"))));
    assert_true(begun(one, text("1"), hash_stable(text("1"))));
    amqp_attachment_answered(one, STATUS_OK, true); /* the first with the tag */
    amqp_attachment_answered(one, STATUS_OK, false);
    amqp_attachment_answered(one, STATUS_OK, true);
    leave(one);
    one = attach("a", false);
    resume(one, "01", false);
    map_is(one, BYTES(0xc1, 12, 2, 0xa0, 1, '0', STATE_RECEIVED));
    is_new(one, "1");
    leave(one);
}

static void test_what_the_client_does_not_know_is_forgotten(void **state)
{
    (void)state;
    struct amqp_attachment *one = attach("a", true);
    sent(one, "0", STATUS_OK);
    sent(one, "1", STATUS_OK);
    leave(one);
    one = attach("a", true);
    resume(one, "0", true); /* says not all */
    is_new(one, "1");
    leave(one);
    one = attach("a", true);
    resume(one, "1", false);
    is_known(one, "1", STATUS_OK);
    leave(one);
    one = attach("a", true);
    resume(one, "01", false);
    is_new(one, "0");
    is_known(one, "1", STATUS_OK);
    leave(one);
    one = attach("a", true);
    amqp_attachment_resume(one, &(struct amqp_unsettled_map){.is_there = false});
    resume(one, "1", false);
    is_new(one, "1");
    sent(one, "1", STATUS_OK);
    amqp_attachment_leave(one, true, now_ms); /* for good */
    amqp_attachment_free(one, now_ms);
    one = attach("a", true);
    resume(one, "1", false);
    is_new(one, "1");
    leave(one);
}

static void test_the_last_one_has_the_name(void **state)
{
    (void)state;
    enum status status;
    struct amqp_attachment *one = attach("a", false), *other = attach("b", false);
    sent(one, "0", STATUS_OK);
    assert_true(begun(one, text("1"), hash_stable(text("1"))));
    struct amqp_attachment *two = attach("a", false);
    assert_int_equal(came(one, "2", "2", &status), AMQP_AGAIN_STOLEN);
    assert_false(begun(one, text("2"), hash_stable(text("2"))));
    amqp_attachment_settled(one, text("0"));
    resume(two, "01", false);
    owes(two, 1);
    assert_int_equal(came(two, "1", "1", &status), AMQP_AGAIN_EARLY);
    amqp_attachment_answered(one, STATUS_OK, false);
    amqp_attachment_leave(one, true, now_ms); /* it has nothing to give up any more */
    amqp_attachment_free(one, now_ms);
    is_known(two, "0", STATUS_OK);
    is_known(two, "1", STATUS_OK);
    resume(other, "01", false);
    is_new(other, "0");
    leave(two);
    leave(other);
    struct amqp_attachment *stranger = attach_as(text("else"), text("a"), false);
    resume(stranger, "0", false);
    is_new(stranger, "0");
    leave(stranger);
}

/* What a client sent before it came back, on a connection that it has given up. */
static void test_an_attach_that_comes_late(void **state)
{
    (void)state;
    bool late;
    uint64_t turn = amqp_unsettled_turn();
    struct amqp_attachment *one = attach("a", true);
    sent(one, "0", STATUS_OK);
    assert_null(amqp_attachment_new(text("user"), text("a"), true, turn, now_ms, &late));
    assert_true(late);
    resume(one, "0", false);
    is_known(one, "0", STATUS_OK);
    leave(one);
    one = amqp_attachment_new(text("user"), text("a"), true, turn, now_ms, &late);
    assert_non_null(one);
    leave(one);
}

static void test_a_tag_is_its_last_delivery(void **state)
{
    (void)state;
    struct amqp_attachment *one = attach("a", true);
    sent(one, "0", STATUS_OK);
    assert_true(begun(one, text("0"), hash_stable(text("anew"))));
    amqp_attachment_leave(one, false, now_ms);
    amqp_attachment_free(one, now_ms); /* nobody will answer */
    one = attach("a", true);
    resume(one, "0", false);
    is_new(one, "0");
    leave(one);
}

static void test_time(void **state)
{
    (void)state;
    struct amqp_attachment *one = attach("a", true);
    sent(one, "0", STATUS_OK);
    now_ms += 2 * LIMIT_RESUME_MS; /* does not run as long as the link is there */
    leave(one);
    now_ms += LIMIT_RESUME_MS - 1;
    one = attach("a", true);
    resume(one, "0", false);
    is_known(one, "0", STATUS_OK);
    leave(one);
    now_ms += LIMIT_RESUME_MS;
    one = attach("a", true);
    resume(one, "0", false);
    is_new(one, "0");
    leave(one);
}

static void put(struct amqp_attachment *attachment, uint32_t number)
{
    struct span tag = span_of(&number, sizeof number);
    assert_true(begun(attachment, tag, hash_stable(tag)));
    amqp_attachment_answered(attachment, STATUS_OK, false);
}

/* The link's map names one tag. */
static bool has(const char *user, const char *name, uint32_t number)
{
    struct amqp_attachment *one = attach_as(text(user), text(name), true);
    uint8_t items[7] = {0xa0, sizeof number, [6] = 0x40};
    struct span tag = span_of(&number, sizeof number);
    enum status status;
    memcpy(items + 2, &number, sizeof number);
    amqp_attachment_resume(one, &(struct amqp_unsettled_map){.is_there = true,
                                                             .incomplete = true,
                                                             .items = span_of(items, sizeof items),
                                                             .count = 2});
    bool known = amqp_attachment_came(one, tag, tag, false, &status) == AMQP_AGAIN_KNOWN;
    leave(one);
    return known;
}

static void test_tags_of_a_link(void **state)
{
    (void)state;
    struct amqp_attachment *one = attach("a", true);
    for (uint32_t i = 0; i < LIMIT_RESUME_LINK_TAGS + 3; i++)
        put(one, i);
    leave(one);
    assert_false(has("user", "a", 2));
    assert_true(has("user", "a", 3));
    assert_true(has("user", "a", LIMIT_RESUME_LINK_TAGS + 2));
}

static void fill(const char *user, unsigned link)
{
    char name[16];
    snprintf(name, sizeof name, "%u", link);
    struct amqp_attachment *one = attach_as(text(user), text(name), true);
    now_ms++;
    for (uint32_t i = 0; i < LIMIT_RESUME_LINK_TAGS; i++)
        put(one, i);
    leave(one);
}

/* Somebody takes all there is, and others still have their part; who left first goes first. */
static void test_tags_of_a_user_and_of_all(void **state)
{
    (void)state;
    enum { PART = LIMIT_RESUME_TAGS / 2 / LIMIT_RESUME_LINK_TAGS };
    struct amqp_attachment *there = attach("there", true);
    for (uint32_t i = 0; i < LIMIT_RESUME_LINK_TAGS; i++)
        put(there, i);
    for (unsigned i = 0; i < PART + 2; i++)
        fill("user", i);
    assert_false(has("user", "0", 1) || has("user", "2", 1));
    assert_true(has("user", "4", 1));
    for (unsigned i = 0; i < PART + 1; i++)
        fill("other", i);
    assert_false(has("user", "3", 1) || has("other", "0", 1));
    assert_true(has("user", "5", 1) && has("other", "5", 1));
    put(there, LIMIT_RESUME_LINK_TAGS); /* one that is there gives up nothing but its own */
    leave(there);
    assert_true(has("user", "there", 1) && has("user", "there", LIMIT_RESUME_LINK_TAGS));
}

static void test_links(void **state)
{
    (void)state;
    enum { PART = LIMIT_RESUME_LINKS / 2 };
    struct amqp_attachment **all = heap_array(LIMIT_RESUME_LINKS, sizeof(void *));
    char name[LIMIT_RESUME_NAME + 1];
    memset(name, 'n', sizeof name);
    assert_null(attach_as(text(""), span_of(name, sizeof name), false));
    for (unsigned i = 0; i < LIMIT_RESUME_LINKS; i++) {
        snprintf(name, sizeof name, "%u", i);
        all[i] = attach_as(text(i < PART ? "user" : "other"), text(name), false);
        assert_non_null(all[i]);
        if (i == PART - 1)
            assert_null(attach("more", false)); /* of this user */
    }
    assert_null(attach_as(text("third"), text("0"), false));
    sent(all[7], "x", STATUS_OK);
    leave(all[7]); /* one that has gone makes way */
    all[7] = attach_as(text("third"), text("0"), false);
    assert_non_null(all[7]);
    assert_null(attach("7", false));
    for (unsigned i = 0; i < LIMIT_RESUME_LINKS; i++)
        leave(all[i]);
    heap_free(all);
}

/* Who waits for what is owed may lose the name meanwhile: its client is told nothing. */
static void test_the_map_is_of_who_has_the_name(void **state)
{
    (void)state;
    enum status status;
    uint32_t count;
    struct amqp_attachment *one = attach("a", false);
    assert_true(begun(one, text("0"), hash_stable(text("0"))));
    struct amqp_attachment *two = attach("a", false);
    resume(two, "00", false);
    owes(two, 1);
    struct amqp_attachment *three = attach("a", false);
    resume(three, "0", false);
    owes(three, 1);
    amqp_attachment_answered(one, STATUS_OK, false);
    owes(three, 0);
    map_is(three, BYTES(0xc1, 8, 2, 0xa0, 1, '0', STATE_ACCEPTED));
    assert_false(amqp_attachment_owed(two, &count));
    map_is(two, BYTES(0xc1, 1, 0));
    assert_int_equal(amqp_attachment_came(three, text("0"), text(""), true, &status),
                     AMQP_AGAIN_KNOWN);
    leave(one);
    leave(two);
    leave(three);
}

/* Not even as many as one: what comes is known all the same. */
static void test_a_map_without_room(void **state)
{
    (void)state;
    struct buf map;
    struct amqp_attachment *one = attach("a", false);
    sent(one, "0", STATUS_OK);
    sent(one, "1", STATUS_OK);
    leave(one);
    one = attach("a", false);
    resume(one, "01", false);
    buf_init(&map, 1024);
    assert_false(amqp_attachment_map(one, condition_of, 20, &map));
    buf_clear(&map);
    assert_true(amqp_attachment_map(one, condition_of, 10, &map));
    assert_true(span_equal(buf_span(&map), BYTES(0xc1, 1, 0)));
    buf_deinit(&map);
    is_known(one, "0", STATUS_OK);
    leave(one);
}

/* An attempt that was given up half way was not it. */
static void test_what_may_come_again_stays(void **state)
{
    (void)state;
    struct amqp_attachment *one = attach("a", false);
    sent(one, "0", STATUS_OK);
    leave(one);
    one = attach("a", false);
    resume(one, "0", false);
    amqp_attachment_settled(one, text("0"));
    is_known(one, "0", STATUS_OK);
    amqp_attachment_settled(one, text("0"));
    leave(one);
    one = attach("a", false);
    resume(one, "0", false);
    is_new(one, "0");
    leave(one);
}

/* The lock is not held for all that is over. */
static void test_what_is_over_goes_bit_by_bit(void **state)
{
    (void)state;
    fill("user", 0);
    now_ms += LIMIT_RESUME_MS;
    leave(attach("b", false));
    assert_true(has("user", "0", LIMIT_RESUME_LINK_TAGS - 1));
    assert_false(has("user", "0", 0));
    now_ms += LIMIT_RESUME_MS;
    for (unsigned i = 0; i < 8; i++)
        leave(attach("b", false));
    assert_false(has("user", "0", LIMIT_RESUME_LINK_TAGS - 1));
}

static void test_a_long_tag_is_not_remembered(void **state)
{
    (void)state;
    uint8_t tag[33] = {0};
    enum status status;
    struct amqp_attachment *one = attach("a", true);
    assert_true(begun(one, span_of(tag, 33), hash_stable(text(""))));
    amqp_attachment_answered(one, STATUS_OK, false);
    assert_int_equal(amqp_attachment_came(one, span_of(tag, 33), text(""), false, &status),
                     AMQP_AGAIN_NEVER);
    amqp_attachment_settled(one, span_of(tag, 33));
    leave(one);
}

static uint64_t from_when(struct amqp_attachment *attachment, struct span tag, uint64_t number,
                          enum status status)
{
    uint64_t from = UINT64_MAX;
    assert_true(amqp_attachment_sent(attachment, tag, hash_stable(tag), number, &from));
    amqp_attachment_answered(attachment, status, false);
    return from;
}

/* Whoever keeps numbers is told which are over; of what is not known, none. */
static void test_the_oldest_that_is_unsettled(void **state)
{
    (void)state;
    struct amqp_attachment *one = attach("a", true);
    assert_int_equal(from_when(one, text("0"), 1, STATUS_OK), 1);
    assert_int_equal(from_when(one, text("1"), 2, STATUS_OK), 1);
    amqp_attachment_settled(one, text("1"));
    assert_int_equal(from_when(one, text("2"), 3, STATUS_OK), 1);
    amqp_attachment_settled(one, text("0"));
    assert_int_equal(from_when(one, text("3"), 4, STATUS_OK), 3);
    assert_int_equal(from_when(one, text("2"), 5, STATUS_OK), 4); /* its tag has come again */
    leave(one);
    one = attach("a", true);
    resume(one, "3", false);
    assert_int_equal(from_when(one, text("4"), 6, STATUS_OK), 0); /* what is still there had none */
    enum status status;
    assert_int_equal(came(one, "3", "3", &status), AMQP_AGAIN_KNOWN);
    amqp_attachment_settled(one, text("3"));
    amqp_attachment_settled(one, text("4"));
    assert_int_equal(from_when(one, text("5"), 7, STATUS_OK), 7);
    leave(one);

    one = attach("b", false);
    amqp_attachment_recall(one, text("0"), hash_stable(text("0")), 8);
    amqp_attachment_recall(one, text("1"), hash_stable(text("1")), 9);
    resume(one, "1", false);
    assert_int_equal(from_when(one, text("2"), 10, STATUS_OK), 9);
    leave(one);
}

/* What had to make way is unsettled, for as long as it may be kept. */
static void test_what_made_way_may_be_unsettled(void **state)
{
    (void)state;
    uint8_t tag[4];
    struct amqp_attachment *one = attach("a", false);
    assert_int_equal(from_when(one, text("nobody knows"), 5, STATUS_STORAGE_FAILED), 5);
    assert_int_equal(from_when(one, text("0"), 6, STATUS_OK), 5);
    leave(one);

    one = attach("b", false);
    for (uint32_t i = 0; i <= LIMIT_RESUME_LINK_TAGS; i++) {
        store_u32(tag, i);
        assert_int_equal(from_when(one, span_of(tag, 4), i + 1, STATUS_OK),
                         i < LIMIT_RESUME_LINK_TAGS ? 1 : 2);
    }
    leave(one);

    /* Numbers that are close together, and no room. */
    one = attach("c", false);
    assert_int_equal(from_when(one, text("first"), 1, STATUS_OK), 1);
    for (uint32_t i = 0; i < LIMIT_RESUME_LINK_TAGS; i++) {
        store_u32(tag, i);
        assert_int_equal(from_when(one, span_of(tag, 4), 2, STATUS_OK), 1);
    }
    leave(one);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_told_once_the_same_bytes_are_the_same_delivery, begin),
        cmocka_unit_test_setup(test_what_was_kept_is_told_once_and_before_the_map, begin),
        cmocka_unit_test_setup(test_answered_when_the_link_has_gone, begin),
        cmocka_unit_test_setup(test_what_was_rejected_is_told_until_who_settles_second_has, begin),
        cmocka_unit_test_setup(test_a_tag_that_its_sender_has_settled, begin),
        cmocka_unit_test_setup(test_settled_before_it_is_answered, begin),
        cmocka_unit_test_setup(test_what_the_client_does_not_know_is_forgotten, begin),
        cmocka_unit_test_setup(test_the_last_one_has_the_name, begin),
        cmocka_unit_test_setup(test_an_attach_that_comes_late, begin),
        cmocka_unit_test_setup(test_a_tag_is_its_last_delivery, begin),
        cmocka_unit_test_setup(test_time, begin),
        cmocka_unit_test_setup(test_tags_of_a_link, begin),
        cmocka_unit_test_setup(test_tags_of_a_user_and_of_all, begin),
        cmocka_unit_test_setup(test_links, begin),
        cmocka_unit_test_setup(test_the_map_is_of_who_has_the_name, begin),
        cmocka_unit_test_setup(test_a_map_without_room, begin),
        cmocka_unit_test_setup(test_what_may_come_again_stays, begin),
        cmocka_unit_test_setup(test_what_is_over_goes_bit_by_bit, begin),
        cmocka_unit_test_setup(test_a_long_tag_is_not_remembered, begin),
        cmocka_unit_test_setup(test_the_oldest_that_is_unsettled, begin),
        cmocka_unit_test_setup(test_what_made_way_may_be_unsettled, begin),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
