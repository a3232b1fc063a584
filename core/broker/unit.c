/* SPDX-License-Identifier: Apache-2.0 */
/* What is stored as a whole, a transaction's commit or messages together, as one unit of storage:
 * one part for each batch, each partition that records wait for, each group and each kept session,
 * and one for all shares. Every part goes to its owner, which looks at it, holds what it needs, and
 * hands it to storage, as a refusal if it cannot be. Parts never wait for each other or for other
 * units, so that none can block another; storage ends all of them alike when the last has come. A
 * session has one unit at a time: all of another that has a part for it waits, before any of its
 * parts is on its way.
 *
 *   worker of the client: parts -> owners: checked, held -> storage: one write, or none
 *       <- all parts have ended <- commit indexes moved, windows changed, or leases as before
 */
#include "core/base/heap.h"
#include "core/broker/session.h"
#include "core/broker/share.h"
#include "core/broker/transaction.h"
#include "core/broker/unit_sessions.h"

/* Records for one partition while parts are added. */
struct bundle {
    struct link link;
    uint64_t partition;
    struct outbox *outbox; /* of this worker; valid until the unit is sent */
    const struct queue *queue;
    struct batch_builder builder;
    struct deduped_items items;
    bool has_unnamed; /* records without an id */
    uint32_t pending_records;
    uint64_t pending_bytes;
};

struct batch_part {
    struct link link;
    struct unit *unit;
    bool has_unnamed;
    struct log_append append;
    struct deduped_append *deduped; /* NULL: straight into the log */
};

/* Records for one partition that wait for their time. */
struct delayed_part {
    struct link link;
    struct unit *unit;
    bool has_unnamed;
    struct delayed_append append;
};

struct group_part {
    struct link link;
    struct unit *unit;
    uint64_t group;
    uint64_t generation; /* of the catalog in which the group was found */
    struct mail mail;
    struct group_unit part;
    struct unit_settlement *settlements;
    uint32_t capacity;
};

struct unit {
    struct trip trip;
    unit_ended *ended;
    void *context;
    struct client *client; /* while parts are added */
    struct broker_worker *worker;
    struct protocol_figures *figures;
    struct list bundles, batches, delayed, groups;
    struct unit_sessions sessions;
    struct share_unit shares; /* has the unit's number too */
    struct map by_partition, delayed_by_partition, by_group;
    struct buf note;             /* a delayed part's */
    struct storage_row note_row; /* likewise, it lies there */
    uint64_t bytes;
    uint32_t records; /* that do not wait */
    uint32_t waiting; /* those that do */
    uint32_t left;
    enum status status;
};

static void parts_send(struct unit_sessions *sessions);
static void session_ended(struct unit_sessions *sessions, enum status status);

struct unit *unit_new(struct client *client, unit_ended *ended, void *context)
{
    struct unit *unit = heap_new(sizeof *unit);
    publish_submit(client->worker); /* what the client has published before goes first */
    delayed_seal(client->worker);
    unit->ended = ended;
    unit->context = context;
    unit->client = client;
    unit->worker = client->worker;
    unit->figures = client->figures;
    list_init(&unit->bundles);
    list_init(&unit->batches);
    list_init(&unit->delayed);
    list_init(&unit->groups);
    unit_sessions_init(&unit->sessions, unit->worker);
    unit->sessions.start = parts_send;
    unit->sessions.ended = session_ended;
    map_init(&unit->by_partition);
    map_init(&unit->delayed_by_partition);
    map_init(&unit->by_group);
    buf_init(&unit->note, SESSION_NOTE_ROW);
    return unit;
}

/* ------------------------------------------------ messages */

static struct bundle *bundle_of(struct unit *unit, const struct aim *aim)
{
    uint64_t partition = aim->outbox->partition;
    struct bundle *bundle = map_get(&unit->by_partition, span_of(&partition, sizeof partition));
    if (bundle != NULL)
        return bundle;
    bundle = heap_new(sizeof *bundle);
    bundle->partition = partition;
    bundle->outbox = aim->outbox;
    bundle->queue = aim->queue;
    batch_builder_init(&bundle->builder);
    list_push(&unit->bundles, &bundle->link);
    map_put(&unit->by_partition, span_of(&bundle->partition, sizeof bundle->partition), bundle);
    return bundle;
}

/* What comes behind a batch with ids goes the same way, so that it stays behind it. */
static void part_dedup(struct batch_part *part, struct bundle *bundle)
{
    struct log_append *append = &part->append;
    deduped_items_end(&bundle->items, append->batch->record_count);
    struct deduped_append *deduped = heap_new(sizeof *deduped);
    deduped->context = part;
    deduped->partition = append->partition;
    deduped->append.batch = append->batch;
    deduped->append.items = bundle->items.items;
    deduped->append.count = bundle->items.count;
    deduped->append.pending_records = append->pending_records;
    deduped->append.pending_bytes = append->pending_bytes;
    bundle->items = (struct deduped_items){0};
    part->deduped = deduped;
    bundle->outbox->deduping++;
}

static void bundle_seal(struct unit *unit, struct bundle *bundle)
{
    struct batch *batch = batch_builder_seal(&bundle->builder);
    if (batch == NULL)
        return;
    struct batch_part *part = heap_new(sizeof *part);
    part->unit = unit;
    part->append.partition = bundle->partition;
    part->append.batch = batch;
    part->append.pending_records = bundle->pending_records;
    part->append.pending_bytes = bundle->pending_bytes;
    part->has_unnamed = bundle->has_unnamed;
    bundle->has_unnamed = false;
    bundle->pending_records = 0;
    bundle->pending_bytes = 0;
    if (bundle->items.count > 0 || bundle->outbox->deduping > 0)
        part_dedup(part, bundle);
    list_push(&unit->batches, &part->link);
    metric_observe(unit->worker->broker->metrics.batch_records, batch->record_count);
}

static struct delayed_part *delayed_part_of(struct unit *unit, uint64_t partition)
{
    struct delayed_part *part =
        map_get(&unit->delayed_by_partition, span_of(&partition, sizeof partition));
    if (part != NULL)
        return part;
    part = heap_new(sizeof *part);
    part->unit = unit;
    part->append.partition = partition;
    list_push(&unit->delayed, &part->link);
    map_put(&unit->delayed_by_partition,
            span_of(&part->append.partition, sizeof part->append.partition), part);
    return part;
}

static enum status publish_delayed(struct unit *unit, const struct publish *publish,
                                   const struct aim *aim)
{
    uint64_t partition = aim->outbox->partition;
    struct delay_record record;
    enum status status = publish_may_wait(aim);
    if (status == STATUS_OK)
        status = delayed_record(unit->client, publish, partition, &aim->record, &record);
    if (status != STATUS_OK)
        return status;
    struct delayed_part *part = delayed_part_of(unit, partition);
    delayed_append_add(&part->append, unit->client, publish, &record);
    part->has_unnamed |= !publish_is_deduped(publish);
    unit->bytes += aim->size;
    unit->waiting++;
    return STATUS_OK;
}

enum status unit_publish(struct unit *unit, const struct publish *publish)
{
    struct aim aim;
    enum status status = publish_aim(unit->client, publish, &aim);
    if (status != STATUS_OK)
        return status;
    if (publish->delay_ms > 0)
        return publish_delayed(unit, publish, &aim);
    struct bundle *bundle = bundle_of(unit, &aim);
    bool counted = aim.queue->overflow == OVERFLOW_REFUSE;
    if (counted && !queue_admit(aim.queue, bundle->partition, aim.size))
        return STATUS_OVER_QUOTA;
    if (batch_builder_is_full(&bundle->builder, aim.size))
        bundle_seal(unit, bundle);
    status = batch_builder_add(&bundle->builder, &aim.record);
    if (counted && status != STATUS_OK)
        queue_take_back(aim.queue, bundle->partition, 1, aim.size);
    if (status != STATUS_OK)
        return status;
    if (counted) {
        bundle->pending_records++;
        bundle->pending_bytes += aim.size;
    }
    if (publish_is_deduped(publish))
        deduped_items_add(&bundle->items, unit->client, publish, bundle->builder.record_count);
    else
        bundle->has_unnamed = true;
    unit->bytes += aim.size;
    unit->records++;
    return STATUS_OK;
}

static bool note_delayed(struct unit *unit, struct delayed_part *part)
{
    struct span notes = buf_span(&unit->note);
    struct storage_row *row = &unit->note_row;
    *row = (struct storage_row){.change = STORAGE_PUT, .offset_at = -1};
    part->append.more = row;
    part->append.more_count = session_note_row(&notes, &row->key, &row->value) ? 1 : 0;
    return part->append.more_count > 0;
}

bool unit_note(struct unit *unit, struct span note)
{
    list_each(link, &unit->bundles) bundle_seal(unit, container_of(link, struct bundle, link));
    CHECK(buf_append(&unit->note, note.data, note.size) == STATUS_OK);
    list_each(link, &unit->batches)
    {
        struct batch_part *part = container_of(link, struct batch_part, link);
        if (!part->has_unnamed)
            continue;
        part->append.batch->notes = unit->note.data;
        part->append.batch->notes_size = (uint32_t)unit->note.size;
        buf_init(&unit->note, 0);
        return true;
    }
    list_each(link, &unit->delayed)
    {
        struct delayed_part *part = container_of(link, struct delayed_part, link);
        if (part->has_unnamed)
            return note_delayed(unit, part);
    }
    return false;
}

/* What looks into rows first, as those with ids and delays do, may have to wait there. */
bool unit_is_spread(const struct unit *unit)
{
    bool spread = !list_is_empty(&unit->delayed);
    unsigned before = 0;
    list_each(link, &unit->batches)
    {
        const struct batch_part *part = container_of(link, struct batch_part, link);
        unsigned owner = log_owner(unit->worker->broker->log, part->append.partition);
        spread |= part->deduped != NULL || (link != list_first(&unit->batches) && owner != before);
        before = owner;
    }
    return unit->left > 1 && spread;
}

uint64_t unit_bytes(const struct unit *unit)
{
    return unit->bytes;
}

/* ------------------------------------------------ settlements */

static struct group_part *group_part_of(struct unit *unit, uint64_t group)
{
    struct group_part *part = map_get(&unit->by_group, span_of(&group, sizeof group));
    if (part != NULL)
        return part;
    part = heap_new(sizeof *part);
    part->unit = unit;
    part->group = group;
    part->generation = catalog_generation(unit->worker->catalog);
    list_push(&unit->groups, &part->link);
    map_put(&unit->by_group, span_of(&part->group, sizeof part->group), part);
    return part;
}

static enum status may_settle(const struct unit *unit, uint64_t id)
{
    const struct catalog *catalog = unit->worker->catalog;
    const struct group_spec *group = catalog_group(catalog, id);
    const struct queue *queue = group == NULL ? NULL : catalog_queue(catalog, group->queue);
    return queue == NULL
               ? STATUS_NOT_FOUND
               : broker_check(unit->client, ACTION_CONSUME, false, span_from_text(queue->name));
}

enum status unit_settle(struct unit *unit, const struct unit_settlement *settlement)
{
    uint64_t group = settlement->receipt.group;
    if (map_get(&unit->by_group, span_of(&group, sizeof group)) == NULL) {
        enum status status = may_settle(unit, group);
        if (status != STATUS_OK)
            return status;
    }
    struct group_part *part = group_part_of(unit, group);
    if (part->part.count == part->capacity) {
        part->capacity = part->capacity == 0 ? 16 : 2 * part->capacity;
        part->settlements =
            heap_resize(part->settlements, part->capacity * sizeof *part->settlements);
    }
    part->settlements[part->part.count++] = settlement_ref(settlement);
    return STATUS_OK;
}

enum status unit_settle_kept(struct unit *unit, const struct client *client, uint32_t number)
{
    return unit_sessions_add(&unit->sessions, client, number);
}

enum status unit_settle_shared(struct unit *unit, struct subscription *subscription, uint32_t lease)
{
    return share_unit_add(&unit->shares, share_seat_of(subscription), lease);
}

/* ------------------------------------------------ the end */

static void bundles_free(struct unit *unit)
{
    struct link *link;
    while ((link = list_pop(&unit->bundles)) != NULL) {
        struct bundle *bundle = container_of(link, struct bundle, link);
        if (bundle->pending_records > 0)
            queue_take_back(bundle->queue, bundle->partition, bundle->pending_records,
                            bundle->pending_bytes);
        batch_builder_deinit(&bundle->builder);
        deduped_items_deinit(&bundle->items);
        heap_free(bundle);
    }
    map_deinit(&unit->by_partition);
    map_deinit(&unit->delayed_by_partition);
    map_deinit(&unit->by_group);
}

static void deduped_free(const struct unit *unit, struct deduped_append *deduped)
{
    struct outbox *outbox =
        map_get(&unit->worker->outboxes, span_of(&deduped->partition, sizeof deduped->partition));
    if (outbox != NULL) /* of a queue that is still there */
        outbox->deduping--;
    heap_free(deduped->append.items);
    heap_free(deduped);
}

/* What the queue still counts as on its way of it: the log has taken the rest off. */
static void part_take_back(const struct unit *unit, const struct batch_part *part)
{
    const struct deduped_append *deduped = part->deduped;
    uint32_t records =
        deduped == NULL ? part->append.pending_records : deduped->append.pending_records;
    uint64_t bytes = deduped == NULL ? part->append.pending_bytes : deduped->append.pending_bytes;
    publish_take_back(unit->worker, part->append.partition, records, bytes);
}

static void parts_free(struct unit *unit)
{
    struct link *link;
    while ((link = list_pop(&unit->batches)) != NULL) {
        struct batch_part *part = container_of(link, struct batch_part, link);
        part_take_back(unit, part);
        if (part->deduped != NULL)
            deduped_free(unit, part->deduped);
        batch_unref(part->append.batch);
        heap_free(part);
    }
    while ((link = list_pop(&unit->delayed)) != NULL) {
        struct delayed_part *part = container_of(link, struct delayed_part, link);
        delayed_append_deinit(&part->append);
        heap_free(part);
    }
    while ((link = list_pop(&unit->groups)) != NULL) {
        struct group_part *part = container_of(link, struct group_part, link);
        settlements_free(part->settlements, part->part.count);
        heap_free(part);
    }
}

static void unit_free(struct unit *unit)
{
    parts_free(unit);
    unit_sessions_free(&unit->sessions);
    buf_deinit(&unit->note);
    heap_free(unit);
}

void unit_drop(struct unit *unit)
{
    share_unit_end(&unit->shares, STATUS_CANCELED); /* if they are still held */
    bundles_free(unit);
    unit_free(unit);
}

static int64_t duplicates_in(const struct dedup_item *items, uint32_t count)
{
    int64_t duplicates = 0;
    for (uint32_t i = 0; i < count; i++)
        duplicates += items[i].duplicate ? items[i].record_count : 0;
    return duplicates;
}

static void count_duplicates(const struct unit *unit)
{
    int64_t duplicates = 0;
    list_each(link, &unit->batches)
    {
        const struct deduped_append *deduped = container_of(link, struct batch_part, link)->deduped;
        if (deduped != NULL)
            duplicates += duplicates_in(deduped->append.items, deduped->append.count);
    }
    list_each(link, &unit->delayed)
    {
        const struct deduped_items *items =
            &container_of(link, struct delayed_part, link)->append.items;
        duplicates += duplicates_in(items->items, items->count);
    }
    metric_add(unit->worker->broker->metrics.duplicates, duplicates);
}

static void part_ended(struct unit *unit, enum status status)
{
    struct broker_worker *worker = unit->worker;
    if (unit->status == STATUS_OK)
        unit->status = status;
    if (--unit->left > 0)
        return;
    status = unit->status;
    if (status == STATUS_OK)
        count_duplicates(unit);
    worker->in_bytes -= unit->bytes;
    share_unit_end(&unit->shares, status);
    unit_ended *ended = unit->ended;
    void *context = unit->context;
    struct protocol_figures *figures = unit->figures;
    unit_free(unit);
    ended(context, figures, status);
    publish_back(worker);
}

static void append_done(struct request *request, enum status status)
{
    part_ended(container_of(request, struct batch_part, append.request)->unit, status);
}

static void deduped_done(struct request *request, enum status status)
{
    struct deduped_append *deduped = container_of(request, struct deduped_append, append.request);
    const struct batch_part *part = deduped->context;
    part_ended(part->unit, status);
}

static void delayed_done(struct request *request, enum status status)
{
    part_ended(container_of(request, struct delayed_part, append.request)->unit, status);
}

static void group_done(struct request *request, enum status status)
{
    part_ended(container_of(request, struct group_part, part.request)->unit, status);
}

static void session_ended(struct unit_sessions *sessions, enum status status)
{
    part_ended(container_of(sessions, struct unit, sessions), status);
}

static void shares_done(struct request *request, enum status status)
{
    part_ended(container_of(request, struct unit, shares.request), status);
}

/* ------------------------------------------------ the way there */

static void group_arrive(struct mail *mail)
{
    struct group_part *part = container_of(mail, struct group_part, mail);
    struct broker *broker = part->unit->worker->broker;
    struct broker_worker *home = broker_home(broker, part->group);
    struct group *group;
    enum status status = groups_find(home, part->group, part->generation, mail, &group);
    if (group != NULL)
        group_settle_unit(group, &part->part);
    else if (status != STATUS_OK)
        group_unit_refuse(broker->log, &part->part, status);
}

static void parts_send(struct unit_sessions *sessions)
{
    struct unit *unit = container_of(sessions, struct unit, sessions);
    struct broker_worker *worker = unit->worker;
    list_each(link, &unit->batches)
    {
        struct batch_part *part = container_of(link, struct batch_part, link);
        if (part->deduped != NULL)
            deduped_send(worker, part->deduped);
        else
            log_append(worker->log, &part->append);
    }
    list_each(link, &unit->delayed)
    {
        delayed_append_send(&container_of(link, struct delayed_part, link)->append, worker);
    }
    list_each(link, &unit->groups)
    {
        struct group_part *part = container_of(link, struct group_part, link);
        const struct broker_worker *home = broker_home(worker->broker, part->group);
        part->mail.deliver = group_arrive;
        if (home == worker)
            group_arrive(&part->mail);
        else
            mailbox_post(home->loop, &part->mail);
    }
    unit_sessions_send(&unit->sessions, unit->shares.unit, unit->shares.part_count);
    if (unit->shares.has_rows)
        share_unit_write(&unit->shares, worker);
}

static void start(struct trip *trip)
{
    unit_sessions_await(&container_of(trip, struct unit, trip)->sessions);
}

static void parts_number(struct unit *unit, uint64_t number)
{
    struct loop *loop = unit->worker->loop;
    list_each(link, &unit->batches)
    {
        struct batch_part *part = container_of(link, struct batch_part, link);
        struct log_append *append = &part->append;
        append->unit = number;
        append->part_count = unit->left;
        request_init(&append->request, loop, append_done);
        if (part->deduped == NULL)
            continue;
        part->deduped->append.unit = number;
        part->deduped->append.part_count = unit->left;
        request_init(&part->deduped->append.request, loop, deduped_done);
    }
    list_each(link, &unit->delayed)
    {
        struct delayed_part *part = container_of(link, struct delayed_part, link);
        part->append.unit = number;
        part->append.part_count = unit->left;
        request_init(&part->append.request, loop, delayed_done);
    }
    list_each(link, &unit->groups)
    {
        struct group_part *part = container_of(link, struct group_part, link);
        part->part.settlements = part->settlements;
        part->part.unit = number;
        part->part.part_count = unit->left;
        request_init(&part->part.request, loop, group_done);
    }
    unit->shares.unit = number;
    unit->shares.part_count = unit->left;
    request_init(&unit->shares.request, loop, shares_done);
}

bool unit_send(struct unit *unit)
{
    struct broker_worker *worker = unit->worker;
    list_each(link, &unit->bundles) bundle_seal(unit, container_of(link, struct bundle, link));
    bundles_free(unit);
    unit->left = list_count(&unit->batches) + list_count(&unit->delayed) +
                 list_count(&unit->groups) + unit->sessions.count + unit->shares.has_rows;
    if (unit->left == 0) {
        share_unit_end(&unit->shares, STATUS_OK);
        return false;
    }
    unit->figures->received_now += unit->records + unit->waiting;
    worker->stored_now += unit->records;
    worker->in_bytes += unit->bytes;
    parts_number(unit, ((uint64_t)worker->index + 1) << 48 | ++worker->units);
    publish_depart(worker, &unit->trip, start);
    loop_defer(worker->loop, &worker->seal_task, LOOP_WORK);
    return true;
}
