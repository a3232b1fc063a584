/* SPDX-License-Identifier: Apache-2.0 */
/* A session that is over goes with all that is stored of it, in steps that may be done again after
 * a crash: what it holds of shares goes back to them, it takes part in them no longer, its filters
 * have one holder less, and then the rest in one write. */
#include "core/broker/session_sweep.h"
#include "core/broker/share.h"

#include "core/base/heap.h"
#include "core/base/pack.h"

enum { FILTERS_PAGE = 256 };

/* What a share says of records of that kind, as that row and under keys of its own. */
static void clear_share(struct sweep_hand *hand, enum share_kind kind, uint32_t row)
{
    uint8_t *first = hand->keys[2 * row - 2], *end = hand->keys[2 * row - 1];
    share_row_key(hand->share, kind, 0, 0, first);
    share_row_key(hand->share, kind, UINT64_MAX, UINT64_MAX, end);
    hand->rows[row] =
        sweep_row(STORAGE_DELETE_RANGE, span_of(first, SHARE_ROW_KEY), span_of(end, SHARE_ROW_KEY));
}

/* Its filters have one holder less: name, due row and everything else go in one write. */
static void erase_rest(struct sweep_hand *hand)
{
    session_key(&hand->name, hand->keys[0]);
    session_state_key(hand->row.session, hand->keys[1]);
    session_state_key(hand->row.session + 1, hand->keys[2]);
    hand->rows[0] =
        sweep_row(STORAGE_DELETE, span_of(hand->keys[0], SESSION_KEY), (struct span){0});
    hand->rows[1] = sweep_row(STORAGE_DELETE_RANGE, span_of(hand->keys[1], SESSION_STATE_KEY),
                              span_of(hand->keys[2], SESSION_STATE_KEY));
    hand->rows[2] = sweep_row(STORAGE_DELETE, sweep_due_key(hand, hand->due_ms, hand->keys[3]),
                              (struct span){0});
    clear_share(hand, SHARE_KIND_GONE, 3);
    clear_share(hand, SHARE_KIND_RETURNED, 4);
    sweep_write(hand, hand->share == 0 ? 3 : 5, sweep_session_over);
}

/* ------------------------------------------------ its filters */

static void scan_filters(struct sweep_hand *hand);

static void filters_gone(struct sweep_hand *hand, enum status status)
{
    heap_free(hand->more);
    hand->more = NULL;
    if (status != STATUS_OK)
        sweep_session_over(hand, status);
    else if (hand->scan.more)
        scan_filters(hand);
    else
        erase_rest(hand);
}

/* Their holders' rows; their own go with everything else, and until then they are found again. */
static void filters_found(struct sweep_hand *hand, enum status status)
{
    struct session_filter_row row;
    struct span key, value;
    uint32_t count = 0;
    if (status != STATUS_OK) {
        sweep_session_over(hand, status);
        return;
    }
    uint32_t found = hand->scan.count;
    hand->more = heap_new((found + 1) * (sizeof *hand->more + FILTER_HOLDER_KEY));
    uint8_t *keys = (uint8_t *)(hand->more + found + 1);
    for (size_t at = 0; storage_scan_next(&hand->scan, &at, &key, &value);) {
        memcpy(hand->first, key.data, SESSION_STATE_KEY);
        row.index = 0;
        if (session_filter_decode(value, &row) != STATUS_OK || row.index == 0)
            continue;
        uint8_t *to = keys + (size_t)count * FILTER_HOLDER_KEY;
        filter_holder_key(row.index, hand->row.session, to);
        hand->more[count++] =
            sweep_row(STORAGE_DELETE, span_of(to, FILTER_HOLDER_KEY), (struct span){0});
    }
    blob_unref(hand->scan.rows);
    store_u64(hand->first + 10, load_u64(hand->first + 10) + 1);
    if (count == 0)
        filters_gone(hand, STATUS_OK);
    else
        sweep_write_these(hand, hand->more, count, DURABLE_INTERVAL, filters_gone);
}

static void scan_filters(struct sweep_hand *hand)
{
    sweep_scan(hand, SESSION_STATE_KEY, SESSION_STATE_KEY, FILTERS_PAGE, filters_found);
}

void sweep_erase_filters(struct sweep_hand *hand)
{
    session_kind_key(hand->row.session, SESSION_KIND_FILTER, 0, hand->first);
    session_kind_key(hand->row.session, SESSION_KIND_FILTER, UINT64_MAX, hand->end);
    scan_filters(hand);
}

/* ------------------------------------------------ its shares */

static void leave_on(struct sweep_hand *hand);

static void share_left(struct sweep_hand *hand, enum status status)
{
    if (status != STATUS_OK)
        sweep_session_over(hand, status);
    else
        leave_on(hand);
}

/* One share after the other: it may have been the last that took part. */
static void share_found(struct sweep_hand *hand, enum status status)
{
    struct span key, value;
    size_t at = 0;
    bool found = status == STATUS_OK && storage_scan_next(&hand->scan, &at, &key, &value);
    if (found) {
        uint64_t share = load_u64(key.data + 10);
        memcpy(hand->keys[0], key.data, SESSION_STATE_KEY);
        share_member_key(share, hand->row.session, hand->keys[1]);
        share_due_key(hand->name.tenant, share, hand->row.session, hand->keys[2]);
        share_due_value(share, hand->keys[3]);
    }
    if (status == STATUS_OK)
        blob_unref(hand->scan.rows);
    if (status != STATUS_OK) {
        sweep_session_over(hand, status);
    } else if (!found) {
        sweep_erase_filters(hand);
    } else {
        hand->rows[0] =
            sweep_row(STORAGE_DELETE, span_of(hand->keys[0], SESSION_STATE_KEY), (struct span){0});
        hand->rows[1] =
            sweep_row(STORAGE_DELETE, span_of(hand->keys[1], SHARE_ROW_KEY), (struct span){0});
        hand->rows[2] = sweep_row(STORAGE_PUT, span_of(hand->keys[2], SESSION_DUE_KEY),
                                  span_of(hand->keys[3], SHARE_DUE));
        sweep_write(hand, 3, share_left);
    }
}

static void leave_on(struct sweep_hand *hand)
{
    session_kind_key(hand->row.session, SESSION_KIND_SHARE, 0, hand->first);
    session_kind_key(hand->row.session, SESSION_KIND_SHARE, UINT64_MAX, hand->end);
    sweep_scan(hand, SESSION_STATE_KEY, SESSION_STATE_KEY, 1, share_found);
}

/* Their homes hear of it when it is durable. */
static void returned(struct sweep_hand *hand, enum status status)
{
    heap_free(hand->more);
    hand->more = NULL;
    buf_deinit(&hand->position);
    if (status == STATUS_OK)
        share_returned_post(hand->sweep->worker->broker, hand->returns, hand->return_count);
    heap_free(hand->returns);
    hand->returns = NULL;
    hand->return_count = 0;
    if (status != STATUS_OK)
        sweep_session_over(hand, status);
    else
        leave_on(hand);
}

/* Its records as rows of their shares, which the sweep looks at next, and its position without. */
static void give_back(struct sweep_hand *hand)
{
    uint32_t count = hand->return_count;
    enum { BYTES = SHARE_ROW_KEY + SESSION_DUE_KEY + SHARE_DUE };
    hand->more = heap_new((2 * count + 1) * sizeof *hand->more + count * BYTES);
    uint8_t *to = (uint8_t *)(hand->more + 2 * count + 1);
    uint32_t row = 0;
    for (uint32_t i = 0; i < count; i++, to += BYTES) {
        const struct session_return *back = &hand->returns[i];
        uint8_t *due = to + SHARE_ROW_KEY, *which = due + SESSION_DUE_KEY;
        share_row_key(back->share, SHARE_KIND_RETURNED, back->partition, back->offset, to);
        hand->more[row++] = sweep_row(STORAGE_PUT, span_of(to, SHARE_ROW_KEY), span_of("\1", 1));
        if (i > 0 && back->share == back[-1].share)
            continue;
        share_due_key(hand->name.tenant, back->share, hand->row.session, due);
        share_due_value(back->share, which);
        hand->more[row++] =
            sweep_row(STORAGE_PUT, span_of(due, SESSION_DUE_KEY), span_of(which, SHARE_DUE));
    }
    session_kind_key(hand->row.session, SESSION_KIND_POSITION, 0, hand->keys[0]);
    hand->more[row++] = sweep_row(STORAGE_PUT, span_of(hand->keys[0], SESSION_STATE_KEY),
                                  buf_span(&hand->position));
    sweep_write_these(hand, hand->more, row, DURABLE_SYNC, returned);
}

/* What it had in flight of shares goes back before anything else of it goes: once, also when the
 * rest has to be done again. */
static void position_found(struct sweep_hand *hand, enum status status)
{
    struct session_position position;
    struct span key, value;
    size_t at = 0;
    if (status == STATUS_OK && storage_scan_next(&hand->scan, &at, &key, &value) &&
        session_position_decode(value, LIMIT_CLIENT_CREDIT, &position) == STATUS_OK) {
        session_returns_load(&position, &hand->returns, &hand->return_count);
        buf_init(&hand->position, value.size);
        session_returns_drop(&position, &hand->position);
    }
    if (status == STATUS_OK)
        blob_unref(hand->scan.rows);
    if (status != STATUS_OK || hand->return_count == 0) {
        buf_deinit(&hand->position);
        share_left(hand, status);
        return;
    }
    give_back(hand);
}

void sweep_erase(struct sweep_hand *hand)
{
    session_kind_key(hand->row.session, SESSION_KIND_POSITION, 0, hand->first);
    session_kind_key(hand->row.session, SESSION_KIND_POSITION, 1, hand->end);
    sweep_scan(hand, SESSION_STATE_KEY, SESSION_STATE_KEY, 1, position_found);
}
