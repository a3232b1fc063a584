/* SPDX-License-Identifier: Apache-2.0 */
/* Where the bytes of records come from: batches of recent notices, the owner's tail cache when it
 * is this worker's, and else one read at a time. Records in order cost no search: the batch found
 * last has them. */
#include "core/queue/group_impl.h"

#include "core/base/check.h"
#include "core/base/trace.h"

enum { RETRY_MS = 1000, RETRY_UNKNOWN_MS = 50, TELL_MS = 60000 };

/* Shelves */

void shelf_clear(struct shelf *shelf)
{
    for (uint32_t i = 0; i < shelf->count; i++)
        batch_unref(shelf->batches[i]);
    *shelf = (struct shelf){.from = shelf->to, .to = shelf->to};
}

static bool shelf_has_room(const struct shelf *shelf, const struct batch *batch)
{
    return shelf->count == 0 ||
           (shelf->count < SHELF_BATCHES && shelf->bytes + batch_charge(batch) <= SHELF_BYTES);
}

/* Takes the reference. */
static void shelf_push(struct shelf *shelf, struct batch *batch)
{
    CHECK(shelf->count < SHELF_BATCHES);
    if (shelf->count == 0 && shelf->from > batch->base_offset)
        shelf->from = batch->base_offset;
    shelf->batches[shelf->count++] = batch;
    shelf->bytes += batch_charge(batch);
    shelf->to = batch_end(batch);
}

/* Batches that end at or before offset go. */
static void shelf_drop_below(struct shelf *shelf, uint64_t offset)
{
    uint32_t drop = 0;
    while (drop < shelf->count && batch_end(shelf->batches[drop]) <= offset) {
        shelf->bytes -= batch_charge(shelf->batches[drop]);
        batch_unref(shelf->batches[drop++]);
    }
    if (drop == 0)
        return;
    shelf->count -= drop;
    shelf->recent = 0;
    memmove(shelf->batches, shelf->batches + drop, shelf->count * sizeof *shelf->batches);
    if (shelf->from < offset)
        shelf->from = offset < shelf->to ? offset : shelf->to;
}

static bool shelf_covers(const struct shelf *shelf, uint64_t offset)
{
    return shelf->count > 0 && offset >= shelf->from && offset < shelf->to;
}

/* The batch that holds offset or begins after it; offset is covered. */
static struct batch *shelf_find(struct shelf *shelf, uint64_t offset)
{
    uint32_t at = shelf->recent;
    if (at > 0 && offset < batch_end(shelf->batches[at - 1]))
        at = 0;
    while (batch_end(shelf->batches[at]) <= offset)
        at++;
    shelf->recent = at;
    return shelf->batches[at];
}

/* Ages */

static void ages_push(struct ages *ages, const struct batch *batch)
{
    if (ages->count > 0 && batch->base_offset <= ages->known[ages->count - 1].first)
        return;
    if (ages->count == AGES_MAX) {
        /* Every second goes: what is left says at worst that something is older than it is. */
        for (uint32_t i = 0; i < AGES_MAX / 2; i++)
            ages->known[i] = ages->known[i * 2];
        ages->count = AGES_MAX / 2;
    }
    ages->known[ages->count++] = (struct age){
        .first = batch->base_offset,
        .append_time_ms = batch->append_time_ms,
        .bytes_before = batch->cumulative_bytes - batch->bytes->size,
    };
}

int64_t feed_oldest_ms(struct part *part)
{
    if (window_backlog(part->window) == 0)
        return 0;
    struct ages *ages = &part->ages;
    uint64_t base = window_oldest(part->window);
    uint32_t passed = 0;
    while (passed + 1 < ages->count && ages->known[passed + 1].first <= base)
        passed++;
    if (passed > 0) {
        ages->count -= passed;
        memmove(ages->known, ages->known + passed, ages->count * sizeof *ages->known);
    }
    uint64_t start = atomic_load_explicit(&part->bounds->start, memory_order_relaxed);
    if (base > start && ages->count > 0)
        return ages->known[0].append_time_ms;
    return atomic_load_explicit(&part->bounds->first_time_ms, memory_order_relaxed);
}

/* Behind feed_oldest_ms(), which drops the ages that are passed. */
uint64_t feed_held_bytes(const struct part *part)
{
    const struct ages *ages = &part->ages;
    uint64_t bytes = atomic_load_explicit(&part->bounds->bytes, memory_order_relaxed);
    uint64_t written = atomic_load_explicit(&part->bounds->written, memory_order_relaxed);
    if (window_backlog(part->window) == 0)
        return 0;
    if (ages->count == 0 || ages->known[0].first > window_oldest(part->window))
        return bytes;
    uint64_t held = written - ages->known[0].bytes_before;
    return held < bytes ? held : bytes;
}

/* Notices and bounds */

/* The first offset that no take has asked for yet. */
static uint64_t front_of(const struct part *part)
{
    return part->fifo != NULL ? part->met : window_next(part->window);
}

/* If it goes on where the shelf ends, or where its reader is. */
static void shelf_notice(struct shelf *shelf, uint64_t reader, uint64_t before, struct batch *batch)
{
    if (shelf->count == 0 && reader >= before)
        shelf->from = shelf->to = before;
    if (shelf->to == before && shelf_has_room(shelf, batch))
        shelf_push(shelf, batch_ref(batch));
}

void feed_notice(struct part *part, struct batch *batch, bool keep)
{
    struct group *group = part->group;
    uint64_t before = part->noticed;
    part->noticed = batch_end(batch);
    if (before < part->noticed)
        window_extend(part->window, part->noticed);
    if (window_base(part->window) >= batch->base_offset || part->ages.count > 0)
        ages_push(&part->ages, batch);
    if (!keep)
        return;
    shelf_notice(&part->ahead, front_of(part), before, batch);
    for (uint32_t i = 0; i < group->choice_count; i++) {
        struct group_lane *lane = group->choices[i];
        if (part < lane->parts || part >= lane->parts + lane->part_count)
            continue;
        struct place *place = &lane->places[part - lane->parts];
        if (part->fifo == NULL)
            shelf_notice(&place->shelf, place->cursor, before, batch);
    }
}

static void count_lost(struct part *part, uint64_t lost)
{
    if (lost > 0)
        atomic_fetch_add_explicit(&part->group->spec->stat->lost, lost, memory_order_relaxed);
}

/* Where retention runs behind a slow group, it does so again and again. */
static void tell_lost(struct part *part, uint64_t lost)
{
    struct group *group = part->group;
    uint64_t now_ms = loop_now_ms(group->loop);
    group->untold += lost;
    if (group->untold == 0 || (group->told_ms != 0 && now_ms < group->told_ms + TELL_MS))
        return;
    trace(TRACE_INFO, "retention has removed %llu records of queue %s that group %s had not done",
          (unsigned long long)group->untold, group->queue->name, group->spec->name);
    group->untold = 0;
    group->told_ms = now_ms;
}

/* What was purged is done; what retention has removed is lost. */
void feed_skip_to(struct part *part, uint64_t start)
{
    uint64_t purged = atomic_load_explicit(&part->bounds->purged, memory_order_acquire);
    if (purged > start)
        purged = start;
    if (purged > window_oldest(part->window))
        window_skip_to(part->window, purged);
    if (start <= window_oldest(part->window))
        return;
    uint64_t lost = window_skip_to(part->window, start);
    count_lost(part, lost);
    if (part->dead)
        return;
    tell_lost(part, lost);
    if (lost > 0)
        expiry_overtaken(part->group);
}

void feed_skip_lost(struct part *part)
{
    feed_skip_to(part, atomic_load_explicit(&part->bounds->start, memory_order_acquire));
}

void feed_skip_unreadable(struct part *part, uint64_t from, uint64_t to)
{
    uint64_t before = window_backlog(part->window);
    window_gap(part->window, from, to);
    count_lost(part, before - window_backlog(part->window));
}

bool feed_look(struct part *part)
{
    uint64_t end = atomic_load_explicit(&part->bounds->end, memory_order_relaxed);
    if (end <= window_end(part->window))
        return false;
    window_extend(part->window, end);
    return true;
}

void feed_drop(struct part *part)
{
    struct group *group = part->group;
    shelf_clear(&part->ahead);
    shelf_clear(&part->again);
    for (uint32_t i = 0; i < group->choice_count; i++) {
        struct group_lane *lane = group->choices[i];
        if (part >= lane->parts && part < lane->parts + lane->part_count)
            shelf_clear(&lane->places[part - lane->parts].shelf);
    }
}

void feed_restart(struct part *part)
{
    feed_drop(part);
    part->asked_end = part->nothing_end = 0;
    part->ages.count = 0;
}

/* Reading */

static void read_later(struct part *part, uint64_t delay_ms)
{
    part->retry_ms = loop_now_ms(part->group->loop) + delay_ms;
}

static void read_start(struct part *part, uint64_t offset, uint32_t max_bytes,
                       void (*done)(struct request *request, enum status status))
{
    struct group *group = part->group;
    CHECK(!part->reading);
    part->reading = true;
    part->asked_end = window_end(part->window);
    group->reads++;
    part->read = (struct log_read){.partition = part->id, .offset = offset, .max_bytes = max_bytes};
    request_init(&part->read.request, group->loop, done);
    log_read(group->worker, &part->read);
}

static void shelve(struct part *part, struct shelf *shelf)
{
    struct log_read *read = &part->read;
    shelf_clear(shelf);
    shelf->from = read->offset;
    for (uint32_t i = 0; i < read->count; i++) {
        ages_push(&part->ages, read->batches[i]);
        shelf_push(shelf, read->batches[i]);
    }
}

static void read_done(struct request *request, enum status status)
{
    struct part *part = container_of(request, struct part, read.request);
    struct log_read *read = &part->read;
    struct group *group = part->group;
    part->reading = false;
    group->reads--;
    group_wake(group);
    switch (status) {
    case STATUS_OK:
        if (read->count == 0)
            part->nothing_end = part->asked_end;
        else
            shelve(part, part->read_into);
        break;
    case STATUS_OUT_OF_RANGE:
        feed_skip_to(part, read->start);
        break;
    case STATUS_CORRUPT:
        if (read->start <= read->offset)
            read->start = read->offset + 1;
        trace(TRACE_ERROR,
              "group %s skips offsets %llu to %llu of partition %llu: they cannot be read",
              group->spec->name, (unsigned long long)read->offset,
              (unsigned long long)read->start - 1, (unsigned long long)part->id);
        feed_skip_unreadable(part, read->offset, read->start);
        break;
    default:
        trace(TRACE_WARN, "group %s cannot read partition %llu now: %s", group->spec->name,
              (unsigned long long)part->id, status_text(status));
        read_later(part, RETRY_MS);
        break;
    }
}

/* The shelf that covers offset; shelf is filled from the owner's tail cache if need be. NULL: it
 * must be read. */
static struct shelf *shelf_for(struct part *part, struct shelf *shelf, uint64_t offset)
{
    if (shelf != &part->again)
        shelf_drop_below(shelf, offset);
    if (shelf_covers(shelf, offset))
        return shelf;
    if (shelf_covers(&part->ahead, offset))
        return &part->ahead;
    if (shelf_covers(&part->again, offset))
        return &part->again;
    if (part->reading)
        return NULL;
    struct batch *batch = log_tail(part->group->worker, part->id, offset);
    if (batch == NULL)
        return NULL;
    shelf_clear(shelf);
    shelf->from = offset;
    ages_push(&part->ages, batch);
    shelf_push(shelf, batch);
    return shelf;
}

bool feed_is_expired(const struct record *record, int64_t wall_ms)
{
    struct span value;
    if (record->header_count == 0 || !record_find(record, HEADER_EXPIRES_AT, &value) ||
        value.size == 0 || value.size > 18)
        return false;
    int64_t expires_ms = 0;
    for (size_t i = 0; i < value.size; i++) {
        if (value.data[i] < '0' || value.data[i] > '9')
            return false;
        expires_ms = expires_ms * 10 + (value.data[i] - '0');
    }
    return expires_ms <= wall_ms;
}

static void note_expired(struct expired *expired, uint64_t offset)
{
    uint32_t last = expired->count - 1;
    if (expired->count > 0 && expired->runs[last].to == offset) {
        expired->runs[last].to++;
        return;
    }
    if (expired->count == EXPIRED_RUNS) {
        if (expired->known_from < expired->runs[0].to)
            expired->known_from = expired->runs[0].to;
        expired->count--;
        memmove(expired->runs, expired->runs + 1, expired->count * sizeof *expired->runs);
    }
    expired->runs[expired->count].from = offset;
    expired->runs[expired->count++].to = offset + 1;
}

bool feed_has_expired(const struct part *part, uint64_t offset)
{
    const struct expired *expired = &part->expired;
    for (uint32_t i = 0; i < expired->count; i++)
        if (offset >= expired->runs[i].from && offset < expired->runs[i].to)
            return true;
    return offset < expired->known_from;
}

/* A record that nobody needs is done. */
static bool settle_unwanted(struct part *part, int64_t wall_ms, const struct find *find)
{
    if (part->dead)
        return false;
    if (filter_record(part, find))
        return true;
    if (!feed_is_expired(&find->record, wall_ms))
        return false;
    note_expired(&part->expired, find->offset);
    window_gap(part->window, find->offset, find->offset + 1);
    atomic_fetch_add_explicit(&part->group->spec->stat->expired, 1, memory_order_relaxed);
    return true;
}

/* What all lanes hold of the log has a limit: of many each has less. 0: as much as one read gives.
 */
static uint32_t read_size(const struct group *group)
{
    return group->choice_count <= CHOICES_FEW ? 0 : SHELF_BYTES * CHOICES_FEW / group->choice_count;
}

static enum feed read_for(struct part *part, struct shelf *shelf, uint64_t offset)
{
    if (part->retry_ms != 0 || part->nothing_end == window_end(part->window))
        return FEED_NOTHING;
    if (!part->reading) {
        part->read_into = shelf;
        read_start(part, offset, read_size(part->group), read_done);
    }
    return FEED_LATER;
}

enum feed feed_load(struct part *part, struct shelf *shelf, bool held, int64_t wall_ms,
                    struct find *find)
{
    struct shelf *from = shelf_for(part, shelf, find->offset);
    if (from == NULL)
        return read_for(part, shelf, find->offset);
    find->batch = shelf_find(from, find->offset);
    if (!held && filter_batch(part, find))
        return FEED_SKIPPED;
    find->index = batch_find(find->batch, find->offset);
    uint64_t found = batch_end(find->batch);
    if (find->index < find->batch->record_count) {
        batch_record(find->batch, find->index, &find->record);
        found = find->record.offset;
    }
    if (found == find->offset)
        return !held && settle_unwanted(part, wall_ms, find) ? FEED_SKIPPED : FEED_RECORD;
    if (!held)
        window_gap(part->window, find->offset, found);
    return FEED_SKIPPED;
}

enum feed feed_next(struct group_lane *lane, struct part *part, int64_t wall_ms, struct find *find)
{
    struct group *group = part->group;
    if (lane->places != NULL)
        return order_next(lane, part, wall_ms, find);
    for (; group->steps_left > 0; group->steps_left--) {
        if (!window_peek(part->window, &find->offset))
            return FEED_NOTHING;
        bool again = find->offset < window_next(part->window);
        enum feed found =
            feed_load(part, again ? &part->again : &part->ahead, false, wall_ms, find);
        if (found != FEED_SKIPPED)
            return found;
    }
    return FEED_LATER;
}

/* The first read of a partition: it waits until the partition is open, and brings its bounds, and
 * the age of the oldest record when the group has been here before. */

static void probe_done(struct request *request, enum status status)
{
    struct part *part = container_of(request, struct part, read.request);
    struct log_read *read = &part->read;
    struct group *group = part->group;
    part->reading = false;
    group->reads--;
    for (uint32_t i = 0; i < read->count; i++) {
        ages_push(&part->ages, read->batches[i]);
        batch_unref(read->batches[i]);
    }
    if (group->state == GROUP_CLOSING) {
        group_wake(group);
        return;
    }
    if (status != STATUS_OK && status != STATUS_OUT_OF_RANGE && status != STATUS_CORRUPT) {
        if (status != STATUS_NOT_FOUND)
            trace(TRACE_WARN, "group %s waits for partition %llu: %s", group->spec->name,
                  (unsigned long long)part->id, status_text(status));
        read_later(part, status == STATUS_NOT_FOUND ? RETRY_UNKNOWN_MS : RETRY_MS);
        group_wake(group);
        return;
    }
    if (!part->has_snapshot)
        window_skip_to(part->window, group->spec->start == GROUP_LATEST && !part->dead
                                         ? part->start_at
                                         : read->start);
    else if (status == STATUS_OUT_OF_RANGE)
        feed_skip_to(part, read->start);
    window_extend(part->window, read->end);
    part->expired.known_from = read->end;
    if (part->noticed < read->end)
        part->noticed = read->end;
    store_probed(part);
}

void feed_probe(struct part *part)
{
    uint64_t offset = part->has_snapshot ? window_oldest(part->window) : UINT64_MAX;
    read_start(part, offset, 1, probe_done);
}
