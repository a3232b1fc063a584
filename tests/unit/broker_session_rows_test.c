/* SPDX-License-Identifier: Apache-2.0 */
/* Rows of sessions and their keys; names and who holds them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "core/base/hash.h"
#include "core/base/limits.h"
#include "core/base/pack.h"
#include "core/broker/session_names.h"
#include "core/broker/session_rows.h"
#include "core/broker/share_rows.h"
#include "core/log/table.h"
#include "core/net/loop.h"

static void keys_lie_together(void **state)
{
    (void)state;
    uint8_t first[SESSION_STATE_KEY], end[SESSION_STATE_KEY], key[SESSION_STATE_KEY];
    session_state_key(7, first);
    session_state_key(8, end);
    const enum session_kind kinds[] = {SESSION_KIND_FILTER, SESSION_KIND_BLOCK,
                                       SESSION_KIND_POSITION, SESSION_KIND_RECEIVED,
                                       SESSION_KIND_WALK};
    for (unsigned i = 0; i < 5; i++) {
        session_kind_key(7, kinds[i], UINT64_MAX, key);
        assert_true(memcmp(first, key, sizeof key) < 0 && memcmp(key, end, sizeof key) < 0);
    }
    struct session_name a = session_name_of(1, span_from_text("a"));
    struct session_name b = session_name_of(2, span_from_text("a"));
    uint8_t one[SESSION_KEY], other[SESSION_KEY];
    session_key(&a, one);
    session_key(&b, other);
    assert_memory_not_equal(one, other, sizeof one);
}

static void positions(void **state)
{
    (void)state;
    struct session_mark marks[] = {{1, 2, 3}, {4, 5, UINT64_MAX}};
    struct session_flight flights[] = {
        {.partition = 1,
         .offset = 9,
         .number = 1,
         .guarantee = GUARANTEE_AT_LEAST_ONCE,
         .state = FLIGHT_SENT,
         .failures = UINT16_MAX,
         .share = 0x123456789abcdef0},
        {.partition = 2,
         .offset = 8,
         .number = LIMIT_CLIENT_CREDIT,
         .identifier = UINT32_MAX,
         .guarantee = GUARANTEE_EXACTLY_ONCE,
         .state = FLIGHT_TAKEN,
         .retain_as_published = true,
         .retained = span_from_text("the key of a row")},
    };
    struct buf row;
    buf_init(&row, 4096);
    struct pack pack = pack_into(&row);
    session_position_begin(&pack, 77, marks, 2, 2);
    for (unsigned i = 0; i < 2; i++)
        session_flight_encode(&pack, &flights[i]);
    assert_int_equal(pack.status, STATUS_OK);
    struct session_position position;
    assert_int_equal(session_position_decode(buf_span(&row), LIMIT_CLIENT_CREDIT, &position),
                     STATUS_OK);
    assert_int_equal(position.position, 77);
    struct session_mark mark;
    struct session_flight flight;
    for (unsigned i = 0; i < 2; i++) {
        assert_true(session_mark_next(&position, &mark));
        assert_memory_equal(&mark, &marks[i], sizeof mark);
    }
    assert_false(session_mark_next(&position, &mark));
    assert_true(session_flight_next(&position, &flight));
    assert_int_equal(flight.state, FLIGHT_SENT);
    assert_int_equal(flight.retained.size, 0);
    assert_true(flight.share == flights[0].share);
    assert_int_equal(flight.failures, UINT16_MAX);
    assert_true(session_flight_next(&position, &flight));
    /* The client has it: that is what must not be forgotten. */
    assert_int_equal(flight.state, FLIGHT_RELEASED);
    assert_int_equal(flight.number, LIMIT_CLIENT_CREDIT);
    assert_true(flight.share == 0 && flight.failures == 0);
    assert_true(flight.retain_as_published && flight.identifier == UINT32_MAX);
    assert_true(span_is(flight.retained, "the key of a row"));
    assert_false(session_flight_next(&position, &flight));
    for (size_t size = 0; size < row.size; size++)
        assert_int_not_equal(
            session_position_decode(span_of(row.data, size), LIMIT_CLIENT_CREDIT, &position),
            STATUS_OK);
    /* A number that no client can have been given. */
    buf_clear(&row);
    pack = pack_into(&row);
    flights[0].number = LIMIT_CLIENT_CREDIT + 1;
    session_position_begin(&pack, 1, NULL, 0, 1);
    session_flight_encode(&pack, &flights[0]);
    assert_int_equal(session_position_decode(buf_span(&row), LIMIT_CLIENT_CREDIT, &position),
                     STATUS_CORRUPT);
    buf_deinit(&row);
}

/* What has not failed is stored as it was before failures were counted, and so are old rows read;
 * no count is above the highest. */
static void failures(void **state)
{
    (void)state;
    static const uint8_t OLD[] = {1, 7, 0, 1, GUARANTEE_AT_LEAST_ONCE, 5, 2, 9, 0};
    uint8_t failed[sizeof OLD + 3];
    struct session_position position;
    struct session_flight flight;
    struct buf row;
    buf_init(&row, 64);
    struct pack pack = pack_into(&row);
    assert_int_equal(session_position_decode(span_of(OLD, sizeof OLD), 5, &position), STATUS_OK);
    assert_true(session_flight_next(&position, &flight));
    assert_true(flight.failures == 0 && flight.number == 5 && flight.offset == 9);
    session_position_begin(&pack, 7, NULL, 0, 1);
    session_flight_encode(&pack, &flight);
    assert_true(span_equal(buf_span(&row), span_of(OLD, sizeof OLD)));
    buf_deinit(&row);
    memcpy(failed, OLD, sizeof OLD);
    failed[4] |= 128;
    memcpy(failed + sizeof OLD, (uint8_t[]){0xff, 0xff, 0x03}, 3);
    assert_int_equal(session_position_decode(span_of(failed, sizeof failed), 5, &position),
                     STATUS_OK);
    assert_true(session_flight_next(&position, &flight));
    assert_int_equal(flight.failures, UINT16_MAX);
    assert_int_equal(flight_failures(flight.failures, true), UINT16_MAX);
    assert_int_equal(flight_failures(0, true), 1);
    assert_int_equal(flight_failures(1, false), 1);
    failed[sizeof failed - 1] = 0x04;
    assert_int_equal(session_position_decode(span_of(failed, sizeof failed), 5, &position),
                     STATUS_CORRUPT);
}

/* Flights of a share: all those of some numbers, and of no others. */
static void blocks(void **state)
{
    (void)state;
    const uint64_t block = 3;
    const uint32_t first = 3 * SESSION_BLOCK + 1, last = 4 * SESSION_BLOCK;
    struct session_position flights;
    struct session_flight flight = {.partition = 1, .offset = 9, .guarantee = 1, .failures = 2};
    struct buf row;
    buf_init(&row, 4096);
    for (uint32_t number = first - 1; number <= last + 1; number++) {
        buf_clear(&row);
        struct pack pack = pack_into(&row);
        session_block_begin(&pack);
        flight.number = first;
        session_flight_encode(&pack, &flight);
        flight.number = number;
        session_flight_encode(&pack, &flight);
        assert_int_equal(session_block_decode(buf_span(&row), block, last + 1, &flights),
                         number < first || number > last ? STATUS_CORRUPT : STATUS_OK);
    }
    buf_clear(&row);
    struct pack pack = pack_into(&row);
    session_block_begin(&pack);
    for (flight.number = first; flight.number <= last; flight.number++)
        session_flight_encode(&pack, &flight);
    assert_int_equal(session_block_decode(buf_span(&row), block, last, &flights), STATUS_OK);
    assert_int_equal(flights.flight_count, SESSION_BLOCK);
    for (uint32_t number = first; number <= last; number++) {
        assert_true(session_flight_next(&flights, &flight));
        assert_true(flight.number == number && flight.offset == 9 && flight.failures == 2);
    }
    assert_false(session_flight_next(&flights, &flight));
    assert_int_equal(session_block_decode(buf_span(&row), block, last - 1, &flights),
                     STATUS_CORRUPT);
    assert_int_equal(session_block_decode(span_of(row.data, row.size - 1), block, last, &flights),
                     STATUS_CORRUPT);
    assert_int_equal(session_block_decode(span_of(row.data, 1), block, last, &flights),
                     STATUS_CORRUPT);
    row.data[0]++;
    assert_int_equal(session_block_decode(buf_span(&row), block, last, &flights),
                     STATUS_UNSUPPORTED);
    buf_deinit(&row);
}

static void walks(void **state)
{
    (void)state;
    uint8_t place[RETAINED_KEY_MAX + 2] = {TABLE_RETAINED, 1};
    struct session_walk_row row = {.upto = 7}, back;
    struct buf value;
    buf_init(&value, 4096);
    for (size_t size = 0; size <= sizeof place; size++) {
        row.place = span_of(place, size);
        buf_clear(&value);
        assert_int_equal(session_walk_encode(&row, &value), STATUS_OK);
        assert_int_equal(session_walk_decode(buf_span(&value), &back),
                         size == sizeof place ? STATUS_CORRUPT : STATUS_OK);
        assert_true(back.upto == 7 && span_equal(back.place, row.place));
    }
    assert_int_not_equal(session_walk_decode(span_of(value.data, 8), &back), STATUS_OK);
    place[0]++; /* another table */
    row.place = span_of(place, 5);
    buf_clear(&value);
    assert_int_equal(session_walk_encode(&row, &value), STATUS_OK);
    assert_int_equal(session_walk_decode(buf_span(&value), &back), STATUS_CORRUPT);
    buf_deinit(&value);
}

/* Rows of a share lie together, by kind and then as the log does; no client has the name of one. */
static void shares(void **state)
{
    (void)state;
    uint8_t one[SHARE_ROW_KEY], other[SHARE_ROW_KEY], end[SHARE_ROW_KEY], name[SHARE_NAME];
    struct share_ref ref;
    enum share_kind kind;
    share_row_key(7, SHARE_KIND_GONE, 2, 255, one);
    share_row_key(7, SHARE_KIND_GONE, 2, 256, other);
    assert_true(memcmp(one, other, sizeof one) < 0);
    share_row_key(7, SHARE_KIND_RETURNED, 1, 3, other);
    assert_true(memcmp(one, other, sizeof one) < 0);
    share_row_key(8, SHARE_KIND_GONE, 0, 0, end);
    assert_true(memcmp(other, end, sizeof other) < 0);
    assert_true(share_row_decode(span_of(one, sizeof one), &kind, &ref));
    assert_true(kind == SHARE_KIND_GONE && ref.partition == 2 && ref.offset == 255);
    assert_false(ref.returned);
    assert_true(share_row_decode(span_of(other, sizeof other), &kind, &ref));
    assert_true(kind == SHARE_KIND_RETURNED && ref.offset == 3 && ref.returned);
    share_member_key(7, 9, other);
    assert_false(share_row_decode(span_of(other, sizeof other), &kind, &ref));
    for (size_t size = 0; size < sizeof one; size++)
        assert_false(share_row_decode(span_of(one, size), &kind, &ref));
    struct span text = share_name(UINT64_MAX - 1, name);
    assert_true(share_of_name(text) == UINT64_MAX - 1);
    assert_true(share_of_name(span_from(text, 1)) == 0);
    assert_true(share_of_name(span_from_text("share")) == 0);
    assert_int_equal(text.data[0], 0);
}

/* ------------------------------------------------ what is kept */

static void sums_of(const char *runs, size_t size, uint64_t records, uint64_t bytes)
{
    struct filter_row row = {.runs = span_of((const uint8_t *)runs, size)};
    uint64_t records_found, bytes_found;
    filter_row_sums(&row, &records_found, &bytes_found);
    assert_true(records_found == records && bytes_found == bytes);
}

static void rows_say_how_much_they_name(void **state)
{
    (void)state;
    sums_of("\0\3\2\1\x80\4\0", 7, 4, 512);
    sums_of("\0\3\2\1", 4, 4, 0); /* an older one */
    sums_of("", 0, 0, 0);
    sums_of("\5\0\0\1", 4, 1, 0);                       /* no size: it is not the last */
    sums_of("\0\xff\xff\x7f", 4, 0, 0);                 /* more than a batch can have */
    sums_of("\0\1\xff\xff\xff\xff\xff\x7f\0", 9, 1, 0); /* likewise */
    sums_of("\0\1\x80", 3, 1, 0);
}

/* ------------------------------------------------ names */

struct holder {
    struct name_claim *claim;
    unsigned granted, replaced;
};

static void granted(void *owner)
{
    ((struct holder *)owner)->granted++;
}

static void replaced(void *owner)
{
    ((struct holder *)owner)->replaced++;
}

struct rig {
    struct loop *loop;
    struct loop_timer timer;
};
static struct rig rig;

static void stop_loop(struct loop_timer *timer)
{
    (void)timer;
    loop_stop(rig.loop);
}

static void turn(void)
{
    rig.timer.fired = stop_loop;
    loop_timer_start(rig.loop, &rig.timer, 1);
    loop_run(rig.loop);
}

static void claim(struct session_names *names, struct holder *holder)
{
    *holder = (struct holder){0};
    holder->claim =
        name_claim(names, rig.loop, 1, span_from_text("name"), holder, granted, replaced);
}

static void the_newest_holds_the_name(void **state)
{
    (void)state;
    hash_init();
    struct session_names names;
    session_names_init(&names);
    rig = (struct rig){.loop = loop_new()};
    struct holder a, b, c, d;
    claim(&names, &a);
    assert_int_equal(a.granted, 0); /* never from inside the call */
    turn();
    assert_true(a.granted == 1 && a.replaced == 0);
    claim(&names, &b);
    claim(&names, &c);
    turn();
    assert_true(a.replaced == 1 && b.replaced == 1 && b.granted == 0 && c.granted == 0);
    name_release(&names, b.claim); /* it gives up while it waits */
    turn();
    assert_int_equal(c.granted, 0);
    name_release(&names, a.claim);
    turn();
    assert_true(b.granted == 0 && c.granted == 1 && c.replaced == 0);
    assert_null(name_claim_free(&names, rig.loop, 1, span_from_text("name"), &d, replaced));
    name_release(&names, c.claim);
    d = (struct holder){0};
    d.claim = name_claim_free(&names, rig.loop, 1, span_from_text("name"), &d, replaced);
    assert_non_null(d.claim);
    name_release(&names, d.claim);
    turn();
    assert_int_equal(names.claims.count, 0);
    session_names_deinit(&names);
    loop_free(rig.loop);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keys_lie_together),
        cmocka_unit_test(positions),
        cmocka_unit_test(blocks),
        cmocka_unit_test(failures),
        cmocka_unit_test(shares),
        cmocka_unit_test(walks),
        cmocka_unit_test(rows_say_how_much_they_name),
        cmocka_unit_test(the_newest_holds_the_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
