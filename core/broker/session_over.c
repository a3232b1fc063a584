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
static void clear_share(struct session_sweep *sweep, enum share_kind kind, uint32_t row)
{
    uint8_t *first = sweep->keys[2 * row - 2], *end = sweep->keys[2 * row - 1];
    share_row_key(sweep->share, kind, 0, 0, first);
    share_row_key(sweep->share, kind, UINT64_MAX, UINT64_MAX, end);
    sweep->rows[row] =
        sweep_row(STORAGE_DELETE_RANGE, span_of(first, SHARE_ROW_KEY), span_of(end, SHARE_ROW_KEY));
}

/* Its filters have one holder less: name, due row and everything else go in one write. */
static void erase_rest(struct session_sweep *sweep)
{
    session_key(&sweep->name, sweep->keys[0]);
    session_state_key(sweep->row.session, sweep->keys[1]);
    session_state_key(sweep->row.session + 1, sweep->keys[2]);
    sweep->rows[0] =
        sweep_row(STORAGE_DELETE, span_of(sweep->keys[0], SESSION_KEY), (struct span){0});
    sweep->rows[1] = sweep_row(STORAGE_DELETE_RANGE, span_of(sweep->keys[1], SESSION_STATE_KEY),
                               span_of(sweep->keys[2], SESSION_STATE_KEY));
    sweep->rows[2] = sweep_row(STORAGE_DELETE, sweep_due_key(sweep, sweep->due_ms, sweep->keys[3]),
                               (struct span){0});
    clear_share(sweep, SHARE_KIND_GONE, 3);
    clear_share(sweep, SHARE_KIND_RETURNED, 4);
    sweep_write(sweep, sweep->share == 0 ? 3 : 5, sweep_session_over);
}

/* ------------------------------------------------ its filters */

static void scan_filters(struct session_sweep *sweep);

static void filters_gone(struct session_sweep *sweep, enum status status)
{
    heap_free(sweep->more);
    sweep->more = NULL;
    if (status != STATUS_OK)
        sweep_session_over(sweep, status);
    else if (sweep->scan.more)
        scan_filters(sweep);
    else
        erase_rest(sweep);
}

/* Their holders' rows; their own go with everything else, and until then they are found again. */
static void filters_found(struct session_sweep *sweep, enum status status)
{
    struct session_filter_row row;
    struct span key, value;
    uint32_t count = 0;
    if (status != STATUS_OK) {
        sweep_session_over(sweep, status);
        return;
    }
    uint32_t found = sweep->scan.count;
    sweep->more = heap_new((found + 1) * (sizeof *sweep->more + FILTER_HOLDER_KEY));
    uint8_t *keys = (uint8_t *)(sweep->more + found + 1);
    for (size_t at = 0; storage_scan_next(&sweep->scan, &at, &key, &value);) {
        memcpy(sweep->first, key.data, SESSION_STATE_KEY);
        row.index = 0;
        if (session_filter_decode(value, &row) != STATUS_OK || row.index == 0)
            continue;
        uint8_t *to = keys + (size_t)count * FILTER_HOLDER_KEY;
        filter_holder_key(row.index, sweep->row.session, to);
        sweep->more[count++] =
            sweep_row(STORAGE_DELETE, span_of(to, FILTER_HOLDER_KEY), (struct span){0});
    }
    blob_unref(sweep->scan.rows);
    store_u64(sweep->first + 10, load_u64(sweep->first + 10) + 1);
    if (count == 0)
        filters_gone(sweep, STATUS_OK);
    else
        sweep_write_these(sweep, sweep->more, count, DURABLE_INTERVAL, filters_gone);
}

static void scan_filters(struct session_sweep *sweep)
{
    sweep_scan(sweep, SESSION_STATE_KEY, SESSION_STATE_KEY, FILTERS_PAGE, filters_found);
}

void sweep_erase_filters(struct session_sweep *sweep)
{
    session_kind_key(sweep->row.session, SESSION_KIND_FILTER, 0, sweep->first);
    session_kind_key(sweep->row.session, SESSION_KIND_FILTER, UINT64_MAX, sweep->end);
    scan_filters(sweep);
}

/* ------------------------------------------------ its shares */

static void leave_on(struct session_sweep *sweep);

static void share_left(struct session_sweep *sweep, enum status status)
{
    if (status != STATUS_OK)
        sweep_session_over(sweep, status);
    else
        leave_on(sweep);
}

/* One share after the other: it may have been the last that took part. */
static void share_found(struct session_sweep *sweep, enum status status)
{
    struct span key, value;
    size_t at = 0;
    bool found = status == STATUS_OK && storage_scan_next(&sweep->scan, &at, &key, &value);
    if (found) {
        uint64_t share = load_u64(key.data + 10);
        memcpy(sweep->keys[0], key.data, SESSION_STATE_KEY);
        share_member_key(share, sweep->row.session, sweep->keys[1]);
        share_due_key(sweep->name.tenant, share, sweep->row.session, sweep->keys[2]);
        share_due_value(share, sweep->keys[3]);
    }
    if (status == STATUS_OK)
        blob_unref(sweep->scan.rows);
    if (status != STATUS_OK) {
        sweep_session_over(sweep, status);
    } else if (!found) {
        sweep_erase_filters(sweep);
    } else {
        sweep->rows[0] =
            sweep_row(STORAGE_DELETE, span_of(sweep->keys[0], SESSION_STATE_KEY), (struct span){0});
        sweep->rows[1] =
            sweep_row(STORAGE_DELETE, span_of(sweep->keys[1], SHARE_ROW_KEY), (struct span){0});
        sweep->rows[2] = sweep_row(STORAGE_PUT, span_of(sweep->keys[2], SESSION_DUE_KEY),
                                   span_of(sweep->keys[3], SHARE_DUE));
        sweep_write(sweep, 3, share_left);
    }
}

static void leave_on(struct session_sweep *sweep)
{
    session_kind_key(sweep->row.session, SESSION_KIND_SHARE, 0, sweep->first);
    session_kind_key(sweep->row.session, SESSION_KIND_SHARE, UINT64_MAX, sweep->end);
    sweep_scan(sweep, SESSION_STATE_KEY, SESSION_STATE_KEY, 1, share_found);
}

/* Their homes hear of it when it is durable. */
static void returned(struct session_sweep *sweep, enum status status)
{
    heap_free(sweep->more);
    sweep->more = NULL;
    buf_deinit(&sweep->position);
    if (status == STATUS_OK)
        share_returned_post(sweep->worker->broker, sweep->returns, sweep->return_count);
    heap_free(sweep->returns);
    sweep->returns = NULL;
    sweep->return_count = 0;
    if (status != STATUS_OK)
        sweep_session_over(sweep, status);
    else
        leave_on(sweep);
}

/* Its records as rows of their shares, which the sweep looks at next, and its position without. */
static void give_back(struct session_sweep *sweep)
{
    uint32_t count = sweep->return_count;
    enum { BYTES = SHARE_ROW_KEY + SESSION_DUE_KEY + SHARE_DUE };
    sweep->more = heap_new((2 * count + 1) * sizeof *sweep->more + count * BYTES);
    uint8_t *to = (uint8_t *)(sweep->more + 2 * count + 1);
    uint32_t row = 0;
    for (uint32_t i = 0; i < count; i++, to += BYTES) {
        const struct session_return *back = &sweep->returns[i];
        uint8_t *due = to + SHARE_ROW_KEY, *which = due + SESSION_DUE_KEY;
        share_row_key(back->share, SHARE_KIND_RETURNED, back->partition, back->offset, to);
        sweep->more[row++] = sweep_row(STORAGE_PUT, span_of(to, SHARE_ROW_KEY), span_of("\1", 1));
        if (i > 0 && back->share == back[-1].share)
            continue;
        share_due_key(sweep->name.tenant, back->share, sweep->row.session, due);
        share_due_value(back->share, which);
        sweep->more[row++] =
            sweep_row(STORAGE_PUT, span_of(due, SESSION_DUE_KEY), span_of(which, SHARE_DUE));
    }
    session_kind_key(sweep->row.session, SESSION_KIND_POSITION, 0, sweep->keys[0]);
    sweep->more[row++] = sweep_row(STORAGE_PUT, span_of(sweep->keys[0], SESSION_STATE_KEY),
                                   buf_span(&sweep->position));
    sweep_write_these(sweep, sweep->more, row, DURABLE_SYNC, returned);
}

/* What it had in flight of shares goes back before anything else of it goes: once, also when the
 * rest has to be done again. */
static void position_found(struct session_sweep *sweep, enum status status)
{
    struct session_position position;
    struct span key, value;
    size_t at = 0;
    if (status == STATUS_OK && storage_scan_next(&sweep->scan, &at, &key, &value) &&
        session_position_decode(value, LIMIT_CLIENT_CREDIT, &position) == STATUS_OK) {
        session_returns_load(&position, &sweep->returns, &sweep->return_count);
        buf_init(&sweep->position, value.size);
        session_returns_drop(&position, &sweep->position);
    }
    if (status == STATUS_OK)
        blob_unref(sweep->scan.rows);
    if (status != STATUS_OK || sweep->return_count == 0) {
        buf_deinit(&sweep->position);
        share_left(sweep, status);
        return;
    }
    give_back(sweep);
}

void sweep_erase(struct session_sweep *sweep)
{
    session_kind_key(sweep->row.session, SESSION_KIND_POSITION, 0, sweep->first);
    session_kind_key(sweep->row.session, SESSION_KIND_POSITION, 1, sweep->end);
    sweep_scan(sweep, SESSION_STATE_KEY, SESSION_STATE_KEY, 1, position_found);
}
