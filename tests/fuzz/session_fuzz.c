/* SPDX-License-Identifier: Apache-2.0 */
/* Rows of sessions: whatever decodes encodes to something that decodes to the same. The first byte
 * says which row. */
#include "core/base/check.h"
#include "core/base/pack.h"
#include "core/broker/filter_index.h"
#include "core/broker/session_rows.h"
#include "core/broker/will_row.h"
#include "tests/fuzz/fuzz.h"

static void check_name(struct span bytes)
{
    struct session_name_row row, again;
    struct buf encoded;
    buf_init(&encoded, 1 << 20);
    if (session_name_decode(bytes, &row) == STATUS_OK) {
        CHECK(session_name_encode(&row, &encoded) == STATUS_OK);
        CHECK(session_name_decode(buf_span(&encoded), &again) == STATUS_OK);
        CHECK(again.session == row.session && again.expiry_s == row.expiry_s &&
              again.ended_ms == row.ended_ms && again.due_ms == row.due_ms &&
              again.will_ms == row.will_ms && span_equal(again.name, row.name));
    }
    buf_deinit(&encoded);
}

static void check_filter(struct span bytes)
{
    struct session_filter_row row, again;
    struct buf encoded;
    buf_init(&encoded, 1 << 20);
    if (session_filter_decode(bytes, &row) == STATUS_OK) {
        CHECK(session_filter_encode(&row, &encoded) == STATUS_OK);
        CHECK(session_filter_decode(buf_span(&encoded), &again) == STATUS_OK);
        CHECK(again.guarantee == row.guarantee && again.no_local == row.no_local &&
              again.retain_as_published == row.retain_as_published &&
              again.identifier == row.identifier && again.since == row.since &&
              again.index == row.index && span_equal(again.filter, row.filter) &&
              span_equal(again.selector, row.selector));
    }
    buf_deinit(&encoded);
}

static void check_position(struct span bytes)
{
    struct session_position position, again;
    struct session_mark mark;
    struct session_flight flight;
    struct buf encoded;
    if (session_position_decode(bytes, LIMIT_CLIENT_CREDIT, &position) != STATUS_OK)
        return;
    uint32_t marks = position.mark_count, flights = position.flight_count;
    struct session_position copy = position;
    struct session_mark list[64];
    uint32_t kept = 0;
    while (session_mark_next(&copy, &mark))
        if (kept < 64)
            list[kept++] = mark;
    buf_init(&encoded, 1 << 20);
    struct pack pack = pack_into(&encoded);
    session_position_begin(&pack, position.position, list, kept, flights);
    struct session_flight last = {0};
    while (session_flight_next(&copy, &flight)) {
        last = flight;
        CHECK(flight.number > 0 && flight.number <= LIMIT_CLIENT_CREDIT);
        session_flight_encode(&pack, &flight);
    }
    CHECK(pack.status == STATUS_OK);
    CHECK(session_position_decode(buf_span(&encoded), LIMIT_CLIENT_CREDIT, &again) == STATUS_OK);
    CHECK(again.position == position.position && again.flight_count == flights &&
          again.mark_count == (marks < 64 ? marks : 64));
    while (session_mark_next(&again, &mark))
        ;
    while (session_flight_next(&again, &flight))
        ;
    CHECK(flights == 0 || (flight.failures == last.failures && flight.offset == last.offset));
    buf_deinit(&encoded);
}

static void check_block(struct span bytes)
{
    enum { BLOCK = 2 };
    struct session_position flights, again;
    struct session_flight flight;
    struct buf encoded;
    if (session_block_decode(bytes, BLOCK, LIMIT_SHARE_FLIGHTS, &flights) != STATUS_OK)
        return;
    uint32_t count = flights.flight_count;
    buf_init(&encoded, 1 << 20);
    struct pack pack = pack_into(&encoded);
    session_block_begin(&pack);
    while (session_flight_next(&flights, &flight)) {
        CHECK((flight.number - 1) / SESSION_BLOCK == BLOCK);
        session_flight_encode(&pack, &flight);
    }
    CHECK(pack.status == STATUS_OK);
    CHECK(session_block_decode(buf_span(&encoded), BLOCK, LIMIT_SHARE_FLIGHTS, &again) ==
          STATUS_OK);
    CHECK(again.flight_count == count);
    buf_deinit(&encoded);
}

static void check_walk(struct span bytes)
{
    struct session_walk_row row, again;
    struct buf encoded;
    buf_init(&encoded, 1 << 20);
    if (session_walk_decode(bytes, &row) == STATUS_OK) {
        CHECK(session_walk_encode(&row, &encoded) == STATUS_OK);
        CHECK(session_walk_decode(buf_span(&encoded), &again) == STATUS_OK);
        CHECK(again.upto == row.upto && span_equal(again.place, row.place));
    }
    buf_deinit(&encoded);
}

static void check_will(struct span bytes)
{
    static struct stored_will row, again;
    uint32_t delay_s;
    if (!will_decode(bytes, &row))
        return;
    CHECK(will_delay(bytes, &delay_s) && delay_s == row.will.delay_s);
    struct blob *encoded = will_encode(row.user, &row.will);
    CHECK(encoded != NULL && will_decode(blob_span(encoded), &again));
    const struct publish *one = &row.will.publish, *other = &again.will.publish;
    CHECK(span_equal(one->topic, other->topic) && span_equal(one->key, other->key) &&
          span_equal(one->body, other->body) && one->guarantee == other->guarantee &&
          one->retain == other->retain && one->header_count == other->header_count &&
          span_equal(one->dedup_id, other->dedup_id) && span_equal(row.user, again.user) &&
          span_equal(row.will.queue, again.will.queue));
    for (uint32_t i = 0; i < one->header_count; i++)
        CHECK(span_equal(one->headers[i].name, other->headers[i].name) &&
              span_equal(one->headers[i].value, other->headers[i].value));
    blob_unref(encoded);
}

static void check_waiting_will(struct span bytes)
{
    struct waiting_will row, again;
    if (!waiting_will_decode(bytes, &row))
        return;
    struct blob *encoded = waiting_will_encode(&row);
    CHECK(waiting_will_decode(blob_span(encoded), &again));
    CHECK(row.tenant == again.tenant && row.tries == again.tries &&
          span_equal(row.client_id, again.client_id) && span_equal(row.row, again.row));
    blob_unref(encoded);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct filter_row row;
    struct span rest = span_from(span_of(data, size), 1);
    if (size == 0)
        return 0;
    switch (data[0] % 8) {
    case 0:
        check_name(rest);
        break;
    case 1:
        check_filter(rest);
        break;
    case 2:
        check_position(rest);
        break;
    case 7:
        check_block(rest);
        break;
    case 4:
        check_walk(rest);
        break;
    case 5:
        check_will(rest);
        break;
    case 6:
        check_waiting_will(rest);
        break;
    default:
        if (filter_row_decode(span_of(rest.data, rest.size < 17 ? rest.size : 17),
                              span_from(rest, 17), &row))
            CHECK(row.runs.size + 33 == rest.size);
    }
    return 0;
}
