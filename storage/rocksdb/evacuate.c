/* SPDX-License-Identifier: Apache-2.0 */
/* Evacuation: what still lives of a segment that is mostly dead moves into the open segment, in
 * small pieces, one after the other is synced. A reader thread reads a piece, the writer writes it
 * together with the index rows that name its new place, and the old file goes with the next drop.
 */
#include "core/base/check.h"
#include "core/base/heap.h"
#include "core/base/trace.h"
#include "storage/rocksdb/stored.h"

enum { ALIVE_SHARE = 4, SIZES_PER_LOOK = 256, RETRY_MS = 1000 };

static void want_at(struct engine *engine, uint64_t at_ms)
{
    struct evacuation *evacuation = &engine->evacuation;
    pthread_mutex_lock(&engine->reader_lock);
    evacuation->wanted = true;
    evacuation->at_ms = at_ms;
    pthread_cond_signal(&engine->reader_wake);
    pthread_mutex_unlock(&engine->reader_lock);
}

/* A look at all of a large index takes a while and holds its lock: at most a hundredth of time. */
static uint64_t next_look_ms(const struct evacuation *evacuation)
{
    return now_ms() + 100 * evacuation->look_ms;
}

void evacuate_want(struct engine *engine)
{
    struct evacuation *evacuation = &engine->evacuation;
    pthread_mutex_lock(&engine->reader_lock);
    if (!evacuation->wanted) {
        evacuation->wanted = true;
        evacuation->at_ms = next_look_ms(evacuation);
        pthread_cond_signal(&engine->reader_wake);
    }
    pthread_mutex_unlock(&engine->reader_lock);
}

bool evacuate_is_mine(struct engine *engine)
{
    struct evacuation *evacuation = &engine->evacuation;
    if (!evacuation->wanted || evacuation->running || now_ms() < evacuation->at_ms)
        return false;
    evacuation->wanted = false;
    evacuation->running = true;
    return true;
}

static void rest(struct engine *engine)
{
    pthread_mutex_lock(&engine->reader_lock);
    engine->evacuation.running = false;
    pthread_mutex_unlock(&engine->reader_lock);
}

/* Choosing a segment */

/* The bytes that live in each segment of the class; UINT64_MAX: it cannot be evacuated. */
struct census {
    uint64_t base;
    uint64_t *live;
    size_t count;
};

static void census_add(struct census *census, const struct partition *partition)
{
    for (size_t i = 0; i < partition->count; i++) {
        const struct index_entry *entry = &partition->entries[i];
        uint64_t *live = &census->live[entry->segment - census->base];
        if (entry->stuck)
            *live = UINT64_MAX;
        else if (*live != UINT64_MAX)
            *live += partition_live_bytes(partition, i);
    }
}

static struct census census_take(struct engine *engine, enum storage_class class)
{
    struct map_slot *slot;
    uint64_t began_ms = now_ms();
    pthread_mutex_lock(&engine->index.lock);
    const struct segments *segments = &engine->index.segments[class];
    struct census census = {.base = segments->base, .count = segments->count};
    census.live = heap_array(census.count, sizeof *census.live);
    for (size_t i = 0; (slot = map_next(&engine->index.partitions, &i)) != NULL;) {
        const struct partition *partition = slot->value;
        if (partition->class == class)
            census_add(&census, partition);
    }
    for (size_t i = 0; i < census.count; i++)
        if (!segments_has(segments, census.base + i))
            census.live[i] = UINT64_MAX;
    pthread_mutex_unlock(&engine->index.lock);
    engine->evacuation.look_ms += now_ms() - began_ms;
    return census;
}

static bool choose_from(struct engine *engine, enum storage_class class,
                        const struct census *census, unsigned *sizes)
{
    struct evacuation *evacuation = &engine->evacuation;
    uint64_t open = atomic_load(&engine->families[class].segment);
    uint64_t segment = evacuation->next[class];
    if (segment < census->base)
        segment = census->base;
    for (; segment < census->base + census->count && segment<open && * sizes> 0; segment++) {
        uint64_t live = census->live[segment - census->base];
        evacuation->next[class] = segment + 1;
        if (live == UINT64_MAX)
            continue;
        --*sizes;
        if (live >= segment_bytes(engine, class, segment, segment + 1) / ALIVE_SHARE)
            continue;
        evacuation->move.class = class;
        evacuation->move.source = segment;
        return true;
    }
    if (*sizes > 0)
        evacuation->next[class] = 0;
    return false;
}

static bool lies_in(const struct partition *partition, uint64_t segment)
{
    for (size_t i = 0; i < partition->count; i++)
        if (partition->entries[i].segment == segment)
            return true;
    return false;
}

static void list_partitions(struct engine *engine, struct evacuation *evacuation)
{
    struct map_slot *slot;
    evacuation->partition_count = evacuation->partition_at = 0;
    evacuation->offset = 0;
    pthread_mutex_lock(&engine->index.lock);
    evacuation->partitions =
        heap_array(engine->index.partitions.count, sizeof *evacuation->partitions);
    for (size_t i = 0; (slot = map_next(&engine->index.partitions, &i)) != NULL;) {
        const struct partition *partition = slot->value;
        if (partition->class == evacuation->move.class &&
            lies_in(partition, evacuation->move.source))
            evacuation->partitions[evacuation->partition_count++] = partition->id;
    }
    pthread_mutex_unlock(&engine->index.lock);
}

/* False: there is none. *again: not all of them were looked at. */
static bool choose(struct engine *engine, bool *again)
{
    struct evacuation *evacuation = &engine->evacuation;
    unsigned sizes = SIZES_PER_LOOK;
    evacuation->look_ms = 0;
    for (int i = 0; i < STORAGE_CLASSES && !evacuation->chosen && sizes > 0; i++) {
        struct census census = census_take(engine, (enum storage_class)i);
        evacuation->chosen = choose_from(engine, (enum storage_class)i, &census, &sizes);
        heap_free(census.live);
    }
    if (evacuation->chosen)
        list_partitions(engine, evacuation);
    *again = sizes == 0;
    return evacuation->chosen;
}

/* Reading a piece */

/* What lives of the partition in the segment and was not read; from: where that begins. */
static bool find_slice(struct engine *engine, uint64_t id, struct slice *slice, uint64_t *from,
                       int64_t *time_ms)
{
    const struct evacuation *evacuation = &engine->evacuation;
    bool found = false;
    pthread_mutex_lock(&engine->index.lock);
    const struct partition *partition = index_find_live(&engine->index, id, evacuation->move.class);
    for (size_t i = 0; partition != NULL && i < partition->count && !found; i++) {
        const struct index_entry *entry = &partition->entries[i];
        *slice = partition_slice(partition, i);
        *from = partition->start > slice->first_offset ? partition->start : slice->first_offset;
        if (*from < evacuation->offset)
            *from = evacuation->offset;
        *time_ms = entry->first_time_ms;
        found =
            entry->segment == evacuation->move.source && !entry->stuck && *from < slice->end_offset;
    }
    pthread_mutex_unlock(&engine->index.lock);
    return found;
}

static void mark_stuck(struct engine *engine, uint64_t id, const struct slice *slice)
{
    const struct move *move = &engine->evacuation.move;
    trace(TRACE_WARN, "store: segment %llu stays, partition %llu cannot be read there",
          (unsigned long long)slice->segment, (unsigned long long)id);
    pthread_mutex_lock(&engine->index.lock);
    const struct partition *partition = index_find_live(&engine->index, id, move->class);
    for (size_t i = 0; partition != NULL && i < partition->count; i++)
        if (partition->entries[i].segment == slice->segment)
            partition->entries[i].stuck = true;
    pthread_mutex_unlock(&engine->index.lock);
}

static void add_batch(struct move *move, struct move_part *part, const struct stored *stored)
{
    if (move->batch_count == move->batch_capacity) {
        move->batch_capacity = 2 * move->batch_capacity + 16;
        move->batches = heap_resize(move->batches, move->batch_capacity * sizeof *move->batches);
    }
    move->batches[move->batch_count++] =
        (struct move_batch){stored->base_offset, move->bytes.size, stored->value.size};
    CHECK(buf_append(&move->bytes, stored->value.data, stored->value.size) == STATUS_OK);
    struct index_row *range = &part->range;
    if (part->batch_count++ == 0) {
        if (stored->base_offset < range->first_offset)
            range->first_offset = stored->base_offset;
        range->first_time_ms = stored->envelope.append_time_ms;
        range->bytes_before = stored->envelope.cumulative_bytes - stored->value.size;
    }
    range->bytes_after = stored->envelope.cumulative_bytes;
    range->last_time_ms = stored->envelope.append_time_ms;
}

/* The batches from where the part begins, until the slice or the room ends. */
static enum status read_part(struct engine *engine, struct cursor *cursor, struct move_part *part)
{
    struct move *move = &engine->evacuation.move;
    struct stored stored;
    uint64_t base;
    enum status status = cursor_seek_holding(cursor, part->range.first_offset);
    while (status == STATUS_OK && cursor_at(cursor, &base)) {
        status = cursor_get(cursor, &stored);
        if (status == STATUS_OK)
            status = stored_check(&stored);
        if (status != STATUS_OK)
            break;
        if (move->batch_count > 0 && move->bytes.size + stored.value.size > MOVE_BYTES) {
            part->range.end_offset = base;
            break;
        }
        add_batch(move, part, &stored);
        status = cursor_next(cursor);
    }
    return status;
}

enum part_end { PART_ADDED, PART_NONE, PART_NO_ROOM };

static enum part_end add_part(struct engine *engine, uint64_t id)
{
    struct move *move = &engine->evacuation.move;
    struct slice slice;
    struct cursor cursor;
    uint64_t from;
    int64_t time_ms;
    if (!find_slice(engine, id, &slice, &from, &time_ms))
        return PART_NONE;
    /* When there is no batch (a gap), the empty range moves all the same. */
    struct move_part *part = &move->parts[move->part_count];
    uint64_t end_bytes = slice.bytes_before + slice.bytes;
    size_t batches = move->batch_count, bytes = move->bytes.size;
    *part = (struct move_part){.partition = id};
    part->range =
        (struct index_row){from, time_ms, end_bytes, slice.end_offset, end_bytes, time_ms};
    cursor_open(&cursor, engine, move->class, id, &slice);
    enum status status = read_part(engine, &cursor, part);
    cursor_close(&cursor);
    if (status != STATUS_OK) {
        move->batch_count = batches;
        move->bytes.size = bytes;
        mark_stuck(engine, id, &slice);
        return PART_NONE;
    }
    if (part->range.end_offset <= from)
        return PART_NO_ROOM;
    engine->evacuation.offset = part->range.end_offset;
    move->part_count++;
    return PART_ADDED;
}

static void fill_move(struct engine *engine)
{
    struct evacuation *evacuation = &engine->evacuation;
    struct move *move = &evacuation->move;
    move->part_count = 0;
    move->batch_count = 0;
    buf_clear(&move->bytes);
    while (evacuation->partition_at < evacuation->partition_count &&
           move->part_count < MOVE_PARTS && move->bytes.size < MOVE_BYTES) {
        enum part_end end = add_part(engine, evacuation->partitions[evacuation->partition_at]);
        if (end == PART_NO_ROOM)
            break;
        if (end == PART_NONE) {
            evacuation->partition_at++;
            evacuation->offset = 0;
        }
    }
}

static void leave(struct evacuation *evacuation)
{
    evacuation->chosen = false;
    heap_free(evacuation->partitions);
    evacuation->partitions = NULL;
}

void evacuate_step(struct engine *engine)
{
    struct evacuation *evacuation = &engine->evacuation;
    bool again = false;
    evacuation->began_ms = now_ms();
    if (!evacuation->chosen && !choose(engine, &again)) {
        rest(engine);
        if (again)
            want_at(engine, next_look_ms(evacuation));
        return;
    }
    fill_move(engine);
    if (evacuation->move.part_count > 0) {
        writer_move(engine, &evacuation->move);
        return;
    }
    leave(evacuation);
    atomic_fetch_add_explicit(&engine->count_evacuated, 1, memory_order_relaxed);
    rest(engine);
    want_at(engine, next_look_ms(evacuation)); /* there may be more of its kind */
    drop_want(engine);
}

/* The end of a piece */

void evacuate_apply(struct engine *engine, const struct move *move)
{
    pthread_mutex_lock(&engine->index.lock);
    for (uint32_t i = 0; i < move->part_count; i++) {
        const struct move_part *part = &move->parts[i];
        struct partition *partition = index_find_live(&engine->index, part->partition, move->class);
        if (part->in_place && partition != NULL)
            partition_place(partition, &part->range, move->target);
    }
    engine->index.commit = move->append.commit;
    pthread_mutex_unlock(&engine->index.lock);
    atomic_fetch_add_explicit(&engine->count_evacuated_bytes, move->bytes.size,
                              memory_order_relaxed);
}

void evacuate_done(struct engine *engine, enum status status)
{
    struct evacuation *evacuation = &engine->evacuation;
    uint64_t at_ms = evacuation->began_ms +
                     evacuation->move.bytes.size * 1000 / evacuation->bytes_per_second + 1;
    if (status != STATUS_OK) { /* no space, or the engine has failed */
        at_ms = now_ms() + RETRY_MS;
        leave(evacuation);
    }
    rest(engine);
    if (!engine_has_failed(engine))
        want_at(engine, at_ms);
}

void evacuate_deinit(struct engine *engine)
{
    struct evacuation *evacuation = &engine->evacuation;
    heap_free(evacuation->partitions);
    heap_free(evacuation->move.batches);
    buf_deinit(&evacuation->move.bytes);
}
