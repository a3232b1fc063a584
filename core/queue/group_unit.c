/* SPDX-License-Identifier: Apache-2.0 */
/* Settlements that are part of a unit. They are checked when they come; from then on until the unit
 * has ended their leases are held: nothing else can become of them, whatever else is stored
 * meanwhile. A row of the unit says what becomes of each, for itself and not on top of deltas,
 * which go to storage on another way. Once the unit is stored the windows change as by any
 * settlement; the delta that says so takes the row along.
 *
 *   come --> held, row on its way --stored--> settled, answered --delta written--> row deleted
 *       \--> refused                \--refused--> leases as before
 */
#include "core/queue/group_impl.h"

#include "core/base/blob.h"
#include "core/base/check.h"
#include "core/base/clock.h"
#include "core/base/pack.h"
#include "core/base/reader.h"
#include "core/log/table.h"

enum { ROW_VERSION = 1, ROW_LIMIT = 4 * 1024 * 1024, KEY_UNIT = 17 };
enum { KIND_DONE, KIND_BACK }; /* back: with failures and the time before which it is not offered */

static struct span key_of(uint8_t key[KEY_UNIT], const struct group *group, uint64_t number)
{
    key[0] = TABLE_GROUP_UNIT;
    store_u64(key + 1, group->spec->id);
    store_u64(key + 9, number);
    return span_of(key, KEY_UNIT);
}

/* ------------------------------------------------ what is stored */

static int64_t due_of(const struct group_unit *unit, const struct unit_settlement *settlement)
{
    return settlement->delay_ms == 0 ? 0 : unit->now_ms + settlement->delay_ms;
}

/* That nothing has happened needs no row. */
static void pack_settlement(struct pack *pack, const struct part *part,
                            const struct group_unit *unit, const struct unit_settlement *settlement)
{
    uint64_t offset = settlement->receipt.offset;
    enum window_outcome outcome = (enum window_outcome)settlement->becomes;
    int64_t due_ms = outcome == WINDOW_REJECTED ? 0 : due_of(unit, settlement);
    if (outcome == WINDOW_RELEASED && due_ms == 0)
        return;
    pack_uvarint(pack, part->id);
    pack_uvarint(pack, offset);
    pack_u8(pack, outcome == WINDOW_DONE ? KIND_DONE : KIND_BACK);
    if (outcome == WINDOW_DONE)
        return;
    pack_uvarint(pack, window_failures_stored(part->window, offset, outcome));
    pack_uvarint(pack, (uint64_t)due_ms);
}

static enum status load_settlement(struct group *group, struct reader *reader)
{
    struct part *part = group_part(group, reader_uvarint(reader));
    uint64_t offset = reader_uvarint(reader);
    uint8_t kind = reader_u8(reader);
    if (reader->failed || part == NULL || kind > KIND_BACK || offset > INT64_MAX)
        return STATUS_MALFORMED;
    if (kind == KIND_DONE) {
        window_apply_done(part->window, offset);
        return STATUS_OK;
    }
    uint64_t failures = reader_uvarint(reader);
    uint64_t due_ms = reader_uvarint(reader);
    if (reader->failed || failures > UINT32_MAX || due_ms > INT64_MAX)
        return STATUS_MALFORMED;
    window_apply_failed(part->window, offset, (uint32_t)failures, (int64_t)due_ms);
    return STATUS_OK;
}

enum status unit_load(struct group *group, struct span key, struct span value)
{
    struct reader reader = reader_of(value);
    uint8_t version = reader_u8(&reader);
    if (version > ROW_VERSION)
        return STATUS_UNSUPPORTED;
    if (version != ROW_VERSION || key.size != KEY_UNIT)
        return STATUS_MALFORMED;
    enum status status = STATUS_OK;
    while (status == STATUS_OK && reader_left(&reader) > 0)
        status = load_settlement(group, &reader);
    group->unit_next = load_u64(key.data + 9) + 1;
    group->unit_stored = true;
    return status;
}

bool unit_rows(struct group *group, struct span *first, struct span *end)
{
    struct link *link = list_first(&group->units);
    uint64_t to =
        link == NULL ? group->unit_next : container_of(link, struct group_unit, link)->number;
    if (!group->unit_stored || to == group->unit_first)
        return false;
    *first = key_of(group->unit_keys[0], group, group->unit_first);
    *end = key_of(group->unit_keys[1], group, to);
    group->unit_first = to;
    group->unit_stored = link != NULL;
    return true;
}

/* ------------------------------------------------ the end of a unit */

/* What comes back that cannot be kept from the taker waits a little. */
static void settle(struct part *part, const struct group_unit *unit,
                   const struct unit_settlement *settlement)
{
    const struct receipt *receipt = &settlement->receipt;
    enum window_outcome outcome = (enum window_outcome)settlement->becomes;
    int64_t due_ms = due_of(unit, settlement);
    bool away = settlement->not_for != NULL && group_comes_back(outcome);
    bool barred = away && bar_put_up(part, receipt->offset, settlement->not_for);
    if (away && !barred && settlement->delay_ms < GROUP_BARRED_MS)
        due_ms = unit->now_ms + GROUP_BARRED_MS;
    if (group_settle_lease(part, receipt, outcome, due_ms) != STATUS_OK && barred)
        bar_take_down(part, receipt->offset, settlement->not_for);
    else
        note_settled(part, receipt->offset, outcome,
                     settlement->note == NULL ? span_of("", 0) : blob_span(settlement->note));
}

static void end(struct group *group, struct group_unit *unit, enum status status)
{
    for (uint32_t i = 0; i < unit->count; i++) {
        const struct unit_settlement *settlement = &unit->settlements[i];
        const struct receipt *receipt = &settlement->receipt;
        struct part *part = group_part(group, receipt->partition);
        bool released = window_unhold(part->window, receipt->offset, receipt->delivery,
                                      loop_now_ms(group->loop));
        if (status == STATUS_OK)
            settle(part, unit, settlement);
        else if (released)
            window_settle(part->window, receipt->offset, receipt->delivery, WINDOW_RELEASED);
    }
}

static void written(struct request *request, enum status status)
{
    struct group_unit *unit = container_of(request, struct group_unit, write.request);
    struct group *group = unit->group;
    link_remove(&unit->link);
    group->jobs--;
    group->unit_stored |= status == STATUS_OK && unit->write.row_count > 0;
    buf_deinit(&unit->value);
    end(group, unit, status);
    if (status == STATUS_STORAGE_FAILED)
        group_break(group, status);
    group_wake(group);
    group_answer(group, &unit->request, status);
}

/* ------------------------------------------------ its beginning */

static void refused(struct request *request, enum status status)
{
    struct group_unit *unit = container_of(request, struct group_unit, write.request);
    unit->request.done(&unit->request, status);
}

void group_unit_refuse(struct log *log, struct group_unit *unit, enum status why)
{
    unit->write =
        (struct log_rows){.unit = unit->unit, .part_count = unit->part_count, .refused = why};
    request_init(&unit->write.request, unit->request.home, refused);
    log_rows_write(log, &unit->write);
}

/* All or none. */
static enum status hold(struct group *group, const struct group_unit *unit)
{
    enum status status = STATUS_OK;
    for (uint32_t i = 0; i < unit->count; i++) {
        const struct receipt *receipt = &unit->settlements[i].receipt;
        const struct part *part = group_part_of(group, receipt);
        status = part == NULL ? STATUS_STALE
                              : window_hold(part->window, receipt->offset, receipt->delivery);
        for (uint32_t k = 0; status != STATUS_OK && k < i; k++) {
            const struct receipt *held = &unit->settlements[k].receipt;
            bool released = window_unhold(group_part(group, held->partition)->window, held->offset,
                                          held->delivery, loop_now_ms(group->loop));
            CHECK(!released);
        }
        if (status != STATUS_OK)
            return status;
    }
    return status;
}

void unit_apply(struct group *group, struct group_unit *unit)
{
    /* A seek that waits for units to end would wait for ever, and ends the leases anyway. */
    enum status status = group->seek != NULL ? STATUS_STALE : hold(group, unit);
    if (status != STATUS_OK) {
        group_unit_refuse(group->log, unit, status);
        return;
    }
    unit->group = group;
    unit->number = group->unit_next++;
    unit->now_ms = clock_wall_ms();
    buf_init(&unit->value, ROW_LIMIT);
    struct pack pack = pack_into(&unit->value);
    pack_u8(&pack, ROW_VERSION);
    for (uint32_t i = 0; i < unit->count; i++) {
        struct unit_settlement *settlement = &unit->settlements[i];
        const struct part *part = group_part(group, settlement->receipt.partition);
        settlement->becomes = group_outcome(part, settlement->outcome);
        pack_settlement(&pack, part, unit, settlement);
    }
    unit->row = (struct storage_row){
        .change = STORAGE_PUT,
        .key = key_of(unit->key, group, unit->number),
        .value = buf_span(&unit->value),
        .offset_at = -1,
    };
    unit->write = (struct log_rows){
        .rows = &unit->row,
        .row_count = unit->value.size > 1,
        .unit = unit->unit,
        .part_count = unit->part_count,
        .refused = pack.status,
        .append.durability = group->queue->durability,
    };
    list_push(&group->units, &unit->link);
    group->jobs++;
    request_init(&unit->write.request, group->loop, written);
    log_rows_write(group->log, &unit->write);
}
