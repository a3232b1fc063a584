/* SPDX-License-Identifier: Apache-2.0 */
/* Rows that follow from a batch: they live from the append's start to its end. */
#include "core/base/check.h"
#include "core/base/heap.h"
#include "core/log/partition.h"

/* One row's key and value. */
struct log_memory {
    struct log_memory *next;
    uint8_t bytes[];
};

static struct storage_row *row_new(struct log_derived *derived)
{
    if (derived->count == derived->capacity) {
        derived->capacity = derived->capacity == 0 ? 8 : derived->capacity * 2;
        derived->rows = heap_resize(derived->rows, derived->capacity * sizeof *derived->rows);
    }
    return &derived->rows[derived->count++];
}

struct storage_row *log_derived_add(struct log_derived *derived, enum storage_change change,
                                    size_t key_size, size_t value_size)
{
    struct log_memory *memory = heap_resize(NULL, sizeof *memory + key_size + value_size);
    memory->next = derived->memory;
    derived->memory = memory;
    struct storage_row *row = row_new(derived);
    *row = (struct storage_row){
        .change = change,
        .key = span_of(memory->bytes, key_size),
        .value = span_of(memory->bytes + key_size, value_size),
        .offset_at = -1,
    };
    return row;
}

/* ------------------------------------------------ units under way */

static void units_enter(struct log_worker *worker, struct log_append *append)
{
    append->unit_place = ++worker->unit_count;
    link_init(&append->of_units);
    list_push(&worker->units, &append->of_units);
}

static void units_leave(struct log_worker *worker, struct log_append *append)
{
    link_remove(&append->of_units);
    struct link *oldest = list_first(&worker->units), *link;
    uint64_t place =
        oldest == NULL ? UINT64_MAX : container_of(oldest, struct log_append, of_units)->unit_place;
    while ((link = list_first(&worker->awaiting)) != NULL) {
        struct log_units *units = container_of(link, struct log_units, link);
        if (units->until >= place)
            return;
        link_remove(link);
        request_complete(&units->request, STATUS_OK);
    }
}

void log_await_units(struct log_worker *worker, struct log_units *units)
{
    CHECK(loop_is_home(worker->loop) && units->request.home == worker->loop);
    units->until = worker->unit_count;
    link_init(&units->link);
    if (list_is_empty(&worker->units))
        request_complete(&units->request, STATUS_OK);
    else
        list_push(&worker->awaiting, &units->link);
}

/* ------------------------------------------------ rows */

void derive_rows(struct log_worker *worker, struct log_append *append)
{
    struct log_derived *derived = &append->derived;
    *derived = (struct log_derived){0};
    if (append->batch == NULL || worker->derive == NULL)
        return;
    if (append->unit != 0)
        units_enter(worker, append);
    worker->derive(worker->context, append->partition, append->batch, derived);
    uint32_t count = derived->count, own = append->row_count;
    if (count == 0)
        return;
    for (uint32_t i = 0; i < own; i++)
        row_new(derived);
    /* Those of the append come first; both keep their order: of one key the last row counts. */
    memmove(derived->rows + own, derived->rows, count * sizeof *derived->rows);
    if (own > 0)
        memcpy(derived->rows, append->rows, own * sizeof *derived->rows);
    append->append.rows = derived->rows;
    append->append.row_count = derived->count;
}

void derive_end(struct log_append *append)
{
    struct log_derived *derived = &append->derived;
    if (append->unit != 0 && append->batch != NULL && append->owner->derive != NULL)
        units_leave(append->owner, append);
    if (derived->over != NULL)
        derived->over(append->owner->context, derived->note);
    while (derived->memory != NULL) {
        struct log_memory *memory = derived->memory;
        derived->memory = memory->next;
        heap_free(memory);
    }
    heap_free(derived->rows);
    *derived = (struct log_derived){0};
}
