/* SPDX-License-Identifier: Apache-2.0 */
/* A session that is over goes with all that is stored of it, in steps that may be done again after
 * a crash: what it holds of shares goes back to them, it takes part in them no longer, its filters
 * have one holder less, and then the rest in one write. */
#include "core/broker/session_sweep.h"
#include "core/broker/share.h"

#include "core/base/heap.h"
#include "core/base/pack.h"

/* The last page of its filters: name, due row and everything else go in one write. */
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
    share_key(sweep->share, sweep->keys[4]);
    share_key(sweep->share + 1, sweep->keys[5]);
    sweep->rows[3] = sweep_row(STORAGE_DELETE_RANGE, span_of(sweep->keys[4], SHARE_ROW_KEY),
                               span_of(sweep->keys[5], SHARE_ROW_KEY));
    sweep_write(sweep, sweep->share == 0 ? 3 : 4, sweep_session_over);
}

/* One filter after the other: its holder's row and its own. */
static void filter_gone(struct session_sweep *sweep, enum status status)
{
    if (status != STATUS_OK)
        sweep_session_over(sweep, status);
    else
        sweep_erase_filters(sweep);
}

static void filter_found(struct session_sweep *sweep, enum status status)
{
    struct session_filter_row row = {0};
    struct span key, value;
    size_t at = 0;
    bool found = status == STATUS_OK && storage_scan_next(&sweep->scan, &at, &key, &value);
    if (found && session_filter_decode(value, &row) == STATUS_OK) {
        memcpy(sweep->keys[0], key.data, SESSION_STATE_KEY);
        filter_holder_key(row.index, sweep->row.session, sweep->keys[1]);
    }
    if (status == STATUS_OK)
        blob_unref(sweep->scan.rows);
    if (status != STATUS_OK) {
        sweep_session_over(sweep, status);
    } else if (!found) {
        erase_rest(sweep);
    } else {
        sweep->rows[0] =
            sweep_row(STORAGE_DELETE, span_of(sweep->keys[0], SESSION_STATE_KEY), (struct span){0});
        sweep->rows[1] =
            sweep_row(STORAGE_DELETE, span_of(sweep->keys[1], FILTER_HOLDER_KEY), (struct span){0});
        sweep_write(sweep, 2, filter_gone);
    }
}

void sweep_erase_filters(struct session_sweep *sweep)
{
    session_kind_key(sweep->row.session, SESSION_KIND_FILTER, 0, sweep->first);
    session_kind_key(sweep->row.session, SESSION_KIND_FILTER, UINT64_MAX, sweep->end);
    sweep_scan(sweep, SESSION_STATE_KEY, SESSION_STATE_KEY, 1, filter_found);
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
        uint8_t text[SHARE_NAME];
        uint64_t share = load_u64(key.data + 10);
        struct session_name name = session_name_of(sweep->name.tenant, share_name(share, text));
        memcpy(sweep->keys[0], key.data, SESSION_STATE_KEY);
        share_member_key(share, sweep->row.session, sweep->keys[1]);
        session_due_key((uint64_t)clock_wall_ms(), &name, sweep->keys[2]);
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
        sweep->rows[2] =
            sweep_row(STORAGE_PUT, span_of(sweep->keys[2], SESSION_DUE_KEY), span_of("\1", 1));
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

/* What it had in flight of shares goes back before anything else of it goes. */
static void position_found(struct session_sweep *sweep, enum status status)
{
    struct session_position position;
    struct span key, value;
    size_t at = 0;
    if (status == STATUS_OK && storage_scan_next(&sweep->scan, &at, &key, &value) &&
        session_position_decode(value, LIMIT_CLIENT_CREDIT, &position) == STATUS_OK)
        session_returns_load(&position, &sweep->returns, &sweep->return_count);
    if (status == STATUS_OK)
        blob_unref(sweep->scan.rows);
    uint32_t count = sweep->return_count;
    if (status != STATUS_OK || count == 0) {
        share_left(sweep, status);
        return;
    }
    sweep->more = heap_new(count * (sizeof *sweep->more + SHARE_ROW_KEY));
    uint8_t *keys = (uint8_t *)(sweep->more + count);
    for (uint32_t i = 0; i < count; i++) {
        const struct session_return *back = &sweep->returns[i];
        uint8_t *to = keys + (size_t)i * SHARE_ROW_KEY;
        share_row_key(back->share, SHARE_KIND_RETURNED, back->partition, back->offset, to);
        sweep->more[i] = sweep_row(STORAGE_PUT, span_of(to, SHARE_ROW_KEY), span_of("\1", 1));
    }
    sweep_write_these(sweep, sweep->more, count, returned);
}

void sweep_erase(struct session_sweep *sweep)
{
    session_kind_key(sweep->row.session, SESSION_KIND_POSITION, 0, sweep->first);
    session_kind_key(sweep->row.session, SESSION_KIND_POSITION, 1, sweep->end);
    sweep_scan(sweep, SESSION_STATE_KEY, SESSION_STATE_KEY, 1, position_found);
}
