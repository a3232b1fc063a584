/* SPDX-License-Identifier: Apache-2.0 */
/* What members without a session have settled of shares within a unit. Its part says of each record
 * of a durable share what a session's row would that takes it over: it is the share's no more
 * (share_rows.h). So it is written here, on the client's worker, whatever the share's session
 * writes meanwhile, and any number of units may be under way. What nothing is kept of has no row,
 * and is over when the unit is. Until then the leases are held, also when their client goes. */
#include "core/base/heap.h"
#include "core/broker/share.h"

enum { ROWS_OF_LEASE = 2 };

struct share_unit_lease {
    struct share_seat *seat;
    uint32_t lease;
};

enum status share_unit_add(struct share_unit *unit, struct share_seat *seat, uint32_t lease)
{
    if (!share_lease_enter(seat, lease))
        return STATUS_STALE;
    if (unit->count == unit->capacity) {
        unit->capacity = unit->capacity == 0 ? 16 : 2 * unit->capacity;
        unit->leases = heap_resize(unit->leases, unit->capacity * sizeof *unit->leases);
    }
    unit->leases[unit->count++] = (struct share_unit_lease){seat, lease};
    unit->has_rows |= share_lease_ref(seat, lease).number != 0;
    return STATUS_OK;
}

/* The key lies behind all rows. */
static void add_row(struct share_unit *unit, enum storage_change change, enum share_kind kind,
                    uint64_t share, const struct share_ref *ref)
{
    size_t most = (size_t)unit->count * ROWS_OF_LEASE;
    uint32_t i = unit->write.row_count++;
    uint8_t *key = (uint8_t *)(unit->write.rows + most) + (size_t)i * SHARE_ROW_KEY;
    share_row_key(share, kind, ref->partition, ref->offset, key);
    unit->write.rows[i] = (struct storage_row){
        .change = change,
        .key = span_of(key, SHARE_ROW_KEY),
        .value = change == STORAGE_PUT ? span_of("\1", 1) : (struct span){0},
        .offset_at = -1,
    };
}

static void written(struct request *request, enum status status)
{
    struct share_unit *unit = container_of(request, struct share_unit, write.request);
    unit->worker->calls--;
    heap_free(unit->write.rows);
    unit->request.done(&unit->request, status);
}

void share_unit_write(struct share_unit *unit, struct broker_worker *worker)
{
    CHECK(loop_is_home(worker->loop) && unit->has_rows);
    size_t most = (size_t)unit->count * ROWS_OF_LEASE;
    unit->worker = worker;
    unit->write = (struct log_rows){
        .rows = heap_new(most * (sizeof *unit->write.rows + SHARE_ROW_KEY)),
        .unit = unit->unit,
        .part_count = unit->part_count,
        .append.durability = DURABLE_SYNC,
    };
    for (uint32_t i = 0; i < unit->count; i++) {
        const struct share_seat *seat = unit->leases[i].seat;
        struct share_ref ref = share_lease_ref(seat, unit->leases[i].lease);
        if (ref.number == 0)
            continue;
        add_row(unit, STORAGE_PUT, SHARE_KIND_GONE, seat->id, &ref);
        if (ref.returned)
            add_row(unit, STORAGE_DELETE, SHARE_KIND_RETURNED, seat->id, &ref);
    }
    request_init(&unit->write.request, worker->loop, written);
    worker->calls++;
    log_rows_write(worker->broker->log, &unit->write);
}

static void forget(struct share_unit *unit)
{
    heap_free(unit->leases);
    unit->leases = NULL;
    unit->count = unit->capacity = 0;
}

void share_unit_end(struct share_unit *unit, enum status status)
{
    for (uint32_t i = 0; i < unit->count; i++)
        share_lease_leave(unit->leases[i].seat, unit->leases[i].lease, status);
    forget(unit);
}

void share_unit_release(struct share_unit *unit, enum status status)
{
    for (uint32_t i = 0; i < unit->count; i++) {
        const struct share_unit_lease *over = &unit->leases[i];
        struct client *client = over->seat->subscription.client;
        if (status == STATUS_OK && share_lease_release(over->seat, over->lease))
            continue;
        share_lease_leave(over->seat, over->lease, status);
        if (client != NULL && status == STATUS_STORAGE_FAILED)
            client->ops->end(client, status);
    }
    forget(unit);
}
