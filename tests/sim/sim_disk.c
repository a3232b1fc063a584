/* SPDX-License-Identifier: Apache-2.0 */
/* A decorator over the memory engine: an append is written after a drawn time and answered after a
 * drawn sync; a journal of all appends in order lets a crash keep any prefix that the last sync
 * allows. */
#include "tests/sim/sim.h"

#include "core/base/check.h"
#include "core/base/heap.h"
#include "core/base/list.h"
#include "storage/memory/memory.h"

enum { LAST_WORDS_MS = 10 };

/* One written append (or trim), as the journal keeps it: copies of everything. */
struct written {
    struct storage_append append;
    struct storage_trim trim;
    bool is_trim;
    struct written *next; /* of the first part only */
    struct written *part; /* the next part of the unit: all are kept, or none */
};

/* An append that waits for its write or its sync. */
struct pending {
    struct storage_append *append;
    struct storage_trim *trim;
    struct pending *next;
    struct pending *part; /* the next part of the unit */
};

struct sim_disk {
    struct storage storage;
    struct storage *inner;
    struct written *journal, **journal_last;
    uint64_t written, synced;            /* entries of the journal */
    struct pending *asked, **asked_last; /* not written yet */
    struct pending *parts;               /* of units that are not complete, the first of each */
    struct pending *unsynced, **unsynced_last;
    bool writing, syncing, fail_sync, failed;
    uint64_t stands_from_ms, stands_until_ms; /* nothing is written or synced */
    bool stands;                              /* likewise, or not all that was asked meanwhile */
    uint64_t stood_ms;                        /* before that, in all */
    uint64_t failed_ms, told_until_ms;        /* what was said of it may be on its way so long */
    uint64_t syncs, life; /* life: raised by every crash, so that old events do nothing */
};

static struct sim_disk *used;

void sim_disk_use(struct sim_disk *disk)
{
    used = disk;
}

static struct storage *inner_open(void)
{
    struct storage *inner;
    struct storage_options options = {0};
    struct err err;
    CHECK(memory_storage_ops.open(&options, &inner, &err) == STATUS_OK);
    return inner;
}

struct sim_disk *sim_disk_new(void)
{
    struct sim_disk *disk = heap_new(sizeof *disk);
    disk->storage.ops = &sim_storage_ops;
    disk->journal_last = &disk->journal;
    disk->asked_last = &disk->asked;
    disk->unsynced_last = &disk->unsynced;
    disk->inner = inner_open();
    return disk;
}

/* ------------------------------------------------ the journal */

static struct span copy(struct span bytes)
{
    uint8_t *to = heap_new(bytes.size + 1);
    if (bytes.size > 0)
        memcpy(to, bytes.data, bytes.size);
    return span_of(to, bytes.size);
}

static void span_free(struct span bytes)
{
    heap_free((void *)(uintptr_t)bytes.data);
}

static struct written *written_new(const struct pending *pending)
{
    struct written *entry = heap_new(sizeof *entry);
    if (pending->trim != NULL) {
        entry->is_trim = true;
        entry->trim.partition = pending->trim->partition;
        entry->trim.class = pending->trim->class;
        entry->trim.new_start = pending->trim->new_start;
        entry->trim.remove = pending->trim->remove;
        return entry;
    }
    const struct storage_append *from = pending->append;
    struct storage_append *to = &entry->append;
    to->batch_count = from->batch_count;
    to->batches = heap_array(from->batch_count + 1, sizeof *to->batches);
    for (uint32_t i = 0; i < from->batch_count; i++) {
        to->batches[i] = from->batches[i];
        to->batches[i].bytes = blob_copy(blob_span(from->batches[i].bytes));
        to->batches[i].footer = copy(from->batches[i].footer);
    }
    to->row_count = from->row_count;
    to->rows = heap_array(from->row_count + 1, sizeof *to->rows);
    for (uint32_t i = 0; i < from->row_count; i++) {
        to->rows[i] = from->rows[i];
        to->rows[i].key = copy(from->rows[i].key);
        to->rows[i].value = copy(from->rows[i].value);
    }
    to->durability = from->durability;
    to->unit = from->unit;
    to->part_count = from->part_count;
    return entry;
}

static void written_free(struct written *entry)
{
    if (entry->part != NULL)
        written_free(entry->part);
    for (uint32_t i = 0; i < entry->append.batch_count; i++) {
        blob_unref(entry->append.batches[i].bytes);
        span_free(entry->append.batches[i].footer);
    }
    for (uint32_t i = 0; i < entry->append.row_count; i++) {
        span_free(entry->append.rows[i].key);
        span_free(entry->append.rows[i].value);
    }
    heap_free(entry->append.batches);
    heap_free(entry->append.rows);
    heap_free(entry);
}

/* The memory engine answers by mail to the world loop; nothing has to be done with it but counted.
 */
static unsigned inner_answers;

static void inner_done(struct request *request, enum status status)
{
    (void)request;
    CHECK(status == STATUS_OK);
    inner_answers++;
}

static void apply(struct sim_disk *disk, struct written *entry)
{
    for (; entry != NULL; entry = entry->part) {
        if (entry->is_trim) {
            request_init(&entry->trim.request, sim_world(), inner_done);
            disk->inner->ops->trim(disk->inner, &entry->trim);
        } else {
            request_init(&entry->append.request, sim_world(), inner_done);
            disk->inner->ops->append(disk->inner, &entry->append);
        }
    }
}

/* ------------------------------------------------ writing and syncing */

struct event {
    struct sim_disk *disk;
    uint64_t life;
    uint64_t covers;
};

static void later(struct sim_disk *disk, uint64_t delay_ms, void (*run)(void *), uint64_t covers)
{
    struct event *event = heap_new(sizeof *event);
    *event = (struct event){.disk = disk, .life = disk->life, .covers = covers};
    if (disk->stands_until_ms > sim_now_ms())
        delay_ms += disk->stands_until_ms - sim_now_ms();
    sim_after(delay_ms, run, event);
}

static struct sim_disk *still(struct event *event)
{
    return event->disk->life == event->life ? event->disk : NULL;
}

static void complete(struct pending *pending, enum status status)
{
    if (pending->part != NULL)
        complete(pending->part, status);
    if (pending->trim != NULL)
        request_complete(&pending->trim->request, status);
    else
        request_complete(&pending->append->request, status);
    heap_free(pending);
}

static void fail_all(struct sim_disk *disk)
{
    disk->failed = true;
    disk->failed_ms = sim_now_ms();
    struct pending *pending;
    while ((pending = disk->unsynced) != NULL) {
        disk->unsynced = pending->next;
        complete(pending, STATUS_STORAGE_FAILED);
    }
    disk->unsynced_last = &disk->unsynced;
    while ((pending = disk->asked) != NULL) {
        disk->asked = pending->next;
        complete(pending, STATUS_STORAGE_FAILED);
    }
    disk->asked_last = &disk->asked;
    while ((pending = disk->parts) != NULL) {
        disk->parts = pending->next;
        complete(pending, STATUS_STORAGE_FAILED);
    }
}

static void begin_sync(struct sim_disk *disk);

static void sync_over(void *context)
{
    struct event *event = context;
    struct sim_disk *disk = still(event);
    uint64_t covers = event->covers;
    heap_free(event);
    if (disk == NULL || disk->failed)
        return;
    disk->syncing = false;
    disk->syncs++;
    if (disk->fail_sync) {
        fail_all(disk);
        return;
    }
    uint64_t count = covers - disk->synced;
    disk->synced = covers;
    while (count-- > 0) {
        struct pending *pending = disk->unsynced;
        disk->unsynced = pending->next;
        if (disk->unsynced == NULL)
            disk->unsynced_last = &disk->unsynced;
        complete(pending, STATUS_OK);
    }
    begin_sync(disk);
}

static void begin_sync(struct sim_disk *disk)
{
    if (disk->syncing || disk->failed || disk->written == disk->synced)
        return;
    disk->syncing = true;
    later(disk, 1 + sim_below(sim_chance(5) ? 200 : 6), sync_over, disk->written);
}

static void begin_write(struct sim_disk *disk);

/* What a caller is told of its batches is what the copy in the journal was told. */
static void hand_back(const struct written *entry, struct storage_append *append)
{
    for (uint32_t i = 0; i < append->batch_count; i++) {
        struct storage_batch *batch = &append->batches[i];
        batch->base_offset = entry->append.batches[i].base_offset;
        batch->append_time_ms = entry->append.batches[i].append_time_ms;
        memcpy(batch->bytes->bytes, entry->append.batches[i].bytes->bytes, 16);
    }
    append->commit = entry->append.commit;
}

/* Adds a part to those of its unit; the first of all when none is missing, else NULL. */
static struct pending *unit_collect(struct sim_disk *disk, struct pending *pending)
{
    struct pending **first = &disk->parts;
    while (*first != NULL && (*first)->append->unit != pending->append->unit)
        first = &(*first)->next;
    struct pending **end = first;
    uint32_t count = 1;
    for (; *end != NULL; end = &(*end)->part)
        count++;
    *end = pending;
    if (count < pending->append->part_count)
        return NULL;
    struct pending *unit = *first;
    *first = unit->next;
    unit->next = NULL;
    return unit;
}

static void write_one(struct sim_disk *disk)
{
    struct pending *pending = disk->asked;
    disk->asked = pending->next;
    if (disk->asked == NULL)
        disk->asked_last = &disk->asked;
    pending->next = NULL;
    if (pending->append != NULL && pending->append->unit != 0)
        pending = unit_collect(disk, pending);
    if (pending == NULL)
        return;
    for (struct pending *part = pending; part != NULL; part = part->part) {
        if (part->append == NULL || part->append->unit == 0 || part->append->refused == STATUS_OK)
            continue;
        complete(pending, part->append->refused);
        return;
    }
    struct written *entry = NULL, **end = &entry;
    for (struct pending *part = pending; part != NULL; part = part->part) {
        *end = written_new(part);
        end = &(*end)->part;
    }
    *disk->journal_last = entry;
    disk->journal_last = &entry->next;
    apply(disk, entry);
    for (struct pending *part = pending; part != NULL; part = part->part, entry = entry->part)
        if (part->append != NULL)
            hand_back(entry, part->append);
    disk->written++;
    *disk->unsynced_last = pending;
    disk->unsynced_last = &pending->next;
}

static void write_over(void *context)
{
    struct event *event = context;
    struct sim_disk *disk = still(event);
    heap_free(event);
    if (disk == NULL || disk->failed)
        return;
    disk->writing = false;
    for (uint64_t count = 1 + sim_below(4); count > 0 && disk->asked != NULL; count--)
        write_one(disk);
    begin_sync(disk);
    begin_write(disk);
}

/* This time, so far. */
static uint64_t stood_still(const struct sim_disk *disk)
{
    return disk->stands ? sim_now_ms() - disk->stands_from_ms : 0;
}

static void rise(struct sim_disk *disk)
{
    disk->stood_ms += stood_still(disk);
    disk->stands_until_ms = 0;
    disk->stands = false;
}

static void begin_write(struct sim_disk *disk)
{
    if (disk->asked == NULL && sim_now_ms() >= disk->stands_until_ms)
        rise(disk);
    if (disk->writing || disk->failed || disk->asked == NULL)
        return;
    disk->writing = true;
    later(disk, sim_below(2), write_over, 0);
}

static void ask(struct sim_disk *disk, struct storage_append *append, struct storage_trim *trim)
{
    struct pending *pending = heap_new(sizeof *pending);
    pending->append = append;
    pending->trim = trim;
    if (disk->failed) {
        complete(pending, STATUS_STORAGE_FAILED);
        return;
    }
    *disk->asked_last = pending;
    disk->asked_last = &pending->next;
    begin_write(disk);
}

/* ------------------------------------------------ faults */

void sim_disk_crash(struct sim_disk *disk)
{
    if (disk->failed)
        disk->told_until_ms = sim_now_ms() + LAST_WORDS_MS;
    disk->life++;
    uint64_t kept = disk->synced + sim_below(disk->written - disk->synced + 1);
    struct written **end = &disk->journal;
    for (uint64_t i = 0; i < kept; i++)
        end = &(*end)->next;
    for (struct written *entry = *end; entry != NULL;) {
        struct written *next = entry->next;
        /* Not freed: the old memory engine still points to it. */
        entry = next;
    }
    *end = NULL;
    disk->journal_last = end;
    struct pending *pending;
    while ((pending = disk->asked) != NULL) {
        disk->asked = pending->next;
        heap_free(pending);
    }
    while ((pending = disk->unsynced) != NULL) {
        disk->unsynced = pending->next;
        heap_free(pending);
    }
    disk->asked_last = &disk->asked;
    disk->unsynced_last = &disk->unsynced;
    disk->parts = NULL;
    rise(disk);
    disk->writing = disk->syncing = disk->fail_sync = disk->failed = false;
    disk->written = disk->synced = kept;
    disk->inner = inner_open();
    for (struct written *entry = disk->journal; entry != NULL; entry = entry->next)
        apply(disk, entry);
}

void sim_disk_stand(struct sim_disk *disk, uint64_t ms)
{
    rise(disk);
    disk->stands = true;
    disk->stands_from_ms = sim_now_ms();
    disk->stands_until_ms = sim_now_ms() + ms;
}

uint64_t sim_disk_now_ms(void)
{
    return sim_now_ms() - used->stood_ms - stood_still(used);
}

bool sim_disk_stands(void)
{
    return used->stands;
}

void sim_disk_fail_sync(struct sim_disk *disk)
{
    disk->fail_sync = true;
}

bool sim_disk_has_failed(void)
{
    return used->failed || used->fail_sync || sim_now_ms() < used->told_until_ms;
}

uint64_t sim_disk_failed_for(void)
{
    return used->failed ? sim_now_ms() - used->failed_ms : 0;
}

uint64_t sim_disk_syncs(const struct sim_disk *disk)
{
    return disk->syncs;
}

void sim_disk_free(struct sim_disk *disk)
{
    struct written *entry;
    disk->inner->ops->close(disk->inner);
    while ((entry = disk->journal) != NULL) {
        disk->journal = entry->next;
        written_free(entry);
    }
    heap_free(disk);
}

/* ------------------------------------------------ storage.h */

static enum status disk_open(const struct storage_options *options, struct storage **storage,
                             struct err *err)
{
    (void)options;
    (void)err;
    CHECK(used != NULL);
    *storage = &used->storage;
    return STATUS_OK;
}

static struct sim_disk *disk_of(struct storage *storage)
{
    return (struct sim_disk *)storage;
}

static void disk_append(struct storage *storage, struct storage_append *append)
{
    ask(disk_of(storage), append, NULL);
}

static void disk_trim(struct storage *storage, struct storage_trim *trim)
{
    ask(disk_of(storage), NULL, trim);
}

/* Reading sees what was written; it takes its time only by the mail that answers it. */
static void disk_read(struct storage *storage, struct storage_read *read)
{
    struct storage *inner = disk_of(storage)->inner;
    inner->ops->read(inner, read);
}

static void disk_scan(struct storage *storage, struct storage_scan *scan)
{
    struct storage *inner = disk_of(storage)->inner;
    inner->ops->scan(inner, scan);
}

static void disk_floor(struct storage *storage, struct storage_floor *floor)
{
    struct storage *inner = disk_of(storage)->inner;
    inner->ops->floor(inner, floor);
}

static void disk_bounds(struct storage *storage, struct storage_bounds *bounds)
{
    struct storage *inner = disk_of(storage)->inner;
    inner->ops->bounds(inner, bounds);
}

static void disk_close(struct storage *storage)
{
    (void)storage;
}

static enum status disk_health(struct storage *storage)
{
    return disk_of(storage)->failed ? STATUS_STORAGE_FAILED : STATUS_OK;
}

const struct storage_ops sim_storage_ops = {
    .name = "sim",
    .can = STORAGE_ATOMIC_ROWS | STORAGE_UNITS | STORAGE_PERSISTENT,
    .open = disk_open,
    .append = disk_append,
    .read = disk_read,
    .scan = disk_scan,
    .trim = disk_trim,
    .floor = disk_floor,
    .bounds = disk_bounds,
    .close = disk_close,
    .health = disk_health,
};
