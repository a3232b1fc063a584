/* SPDX-License-Identifier: Apache-2.0 */
/* The numbers of records that come in units. A unit may reach storage long after what came behind
 * it, so it cannot write the common row, which would go back: it has a row of its own. When there
 * are many of these, the common row takes in all that lie before the first unit under way.
 *
 *   number taken --unit refused--> gone
 *       \--stored--> a row --taken in by the common one--> gone */
#include "core/base/check.h"
#include "core/base/heap.h"
#include "core/base/pack.h"
#include "core/base/reader.h"
#include "core/queue/delay_impl.h"

/* That a partition has to read back at open; each time one range is deleted. */
enum { ROWS_MAX = 1024 };

void delay_units_init(struct delay *delay)
{
    list_init(&delay->units.all);
}

void delay_units_deinit(struct delay *delay)
{
    struct link *link;
    while ((link = list_pop(&delay->units.all)) != NULL)
        heap_free(container_of(link, struct delay_unit, link));
}

static struct delay_unit *unit_add(struct delay *delay, uint64_t first, uint32_t count)
{
    struct delay_unit *unit = heap_new(sizeof *unit);
    unit->first = first;
    unit->count = count;
    delay->units.apart += count;
    list_push(&delay->units.all, &unit->link);
    return unit;
}

static void unit_remove(struct delay *delay, struct delay_unit *unit)
{
    delay->units.apart -= unit->count;
    link_remove(&unit->link);
    heap_free(unit);
}

struct delay_unit *delay_unit_new(struct delay *delay, uint32_t count)
{
    struct delay_unit *unit = unit_add(delay, delay->next_number, count);
    delay->next_number += count;
    delay->come += count;
    return unit;
}

struct storage_row delay_unit_row(const struct delay *delay, const struct delay_unit *unit,
                                  uint8_t key[KEY_UNIT], uint8_t value[VALUE_UNIT])
{
    value[0] = DELAY_STATE_VERSION;
    store_u64(value + 1, unit->count);
    return (struct storage_row){
        .change = STORAGE_PUT,
        .key = delay_store_key_unit(key, delay->partition, unit->first),
        .value = span_of(value, VALUE_UNIT),
        .offset_at = -1,
    };
}

enum status delay_unit_load(struct delay *delay, struct span key, struct span value)
{
    struct reader reader = reader_of(value);
    uint8_t version = reader_u8(&reader);
    if (version > DELAY_STATE_VERSION)
        return STATUS_UNSUPPORTED;
    uint64_t first = load_u64(key.data + KEY_MARK), count = reader_u64(&reader);
    if (reader.failed || version != DELAY_STATE_VERSION || count > UINT32_MAX ||
        first > UINT64_MAX - count)
        return STATUS_MALFORMED;
    unit_add(delay, first, (uint32_t)count)->stored = true;
    delay->units.rows++;
    delay->come += count;
    if (first + count > delay->next_number)
        delay->next_number = first + count;
    return STATUS_OK;
}

/* ------------------------------------------------ taking in */

/* After a failure the next one covers the same rows. */
static void taken_in(struct request *request, enum status status)
{
    struct delay *delay = container_of(request, struct delay, units.append.request);
    struct delay_units *units = &delay->units;
    if (status == STATUS_OK)
        units->rows -= units->taken_in;
    units->taken_in = 0;
    delay_leave(delay);
}

static void take_in(struct delay *delay)
{
    struct delay_units *units = &delay->units;
    struct link *link;
    uint32_t under_way = 0;
    while ((link = list_first(&units->all)) != NULL) {
        struct delay_unit *unit = container_of(link, struct delay_unit, link);
        if (!unit->stored)
            break;
        unit_remove(delay, unit);
    }
    list_each(at, &units->all) under_way += container_of(at, struct delay_unit, link)->stored;
    uint64_t end =
        link == NULL ? delay->next_number : container_of(link, struct delay_unit, link)->first;
    units->taken_in = units->rows - under_way;
    if (units->taken_in == 0)
        return;
    uint8_t *to = units->keys + KEY_UNIT;
    units->taking[0] = delay_store_numbers(delay, to + KEY_UNIT, units->value);
    units->taking[1] = (struct storage_row){
        .change = STORAGE_DELETE_RANGE,
        .key = delay_store_key_unit(units->keys, delay->partition, 0),
        .value = delay_store_key_unit(to, delay->partition, end),
        .offset_at = -1,
    };
    units->append =
        (struct log_append){.partition = delay->partition, .rows = units->taking, .row_count = 2};
    request_init(&units->append.request, delay->worker->loop, taken_in);
    delay_enter(delay);
    log_append(delay->worker->log_worker, &units->append);
}

void delay_unit_end(struct delay *delay, struct delay_unit *unit, bool stored)
{
    if (!stored) {
        delay->come -= unit->count;
        unit_remove(delay, unit);
        return;
    }
    unit->stored = true;
    delay->units.rows++;
    if (delay->units.rows >= ROWS_MAX && delay->units.taken_in == 0 &&
        delay->state == DELAY_SERVING)
        take_in(delay);
}
