/* SPDX-License-Identifier: Apache-2.0 */
/* The way of records from one partition of a group to another: read, copy, append. The rows of the
 * append say which offsets are done by it. They are not deltas: deltas and snapshots go to storage
 * on another way and may overtake them. Until the append is stored its offsets are not done here,
 * so that nothing else that is stored can say that they are. */
#include "core/queue/group_impl.h"

#include "core/base/check.h"
#include "core/base/heap.h"
#include "core/base/limits.h"

enum { ROW_VERSION = 1, ROW_OFFSET_AT = 1 };

struct move *move_new(struct part *from)
{
    CHECK(from->move == NULL);
    struct move *move = heap_new(sizeof *move);
    move->group = from->group;
    move->from = from;
    from->move = move;
    from->group->jobs++;
    batch_builder_init(&move->builder);
    return move;
}

static void drop_read(struct move *move)
{
    for (uint32_t i = 0; i < move->read.count; i++)
        batch_unref(move->read.batches[i]);
    move->read.count = 0;
}

void move_free(struct move *move)
{
    struct group *group = move->group;
    move->from->move = NULL;
    group->jobs--;
    drop_read(move);
    batch_unref(move->append.batch);
    batch_builder_deinit(&move->builder);
    heap_free(move);
    group_wake(group);
}

static void read_done(struct request *request, enum status status)
{
    struct move *move = container_of(request, struct move, read.request);
    move->next(move, status);
}

void move_read(struct move *move, uint64_t offset,
               void (*next)(struct move *move, enum status status))
{
    drop_read(move);
    move->next = next;
    move->read = (struct log_read){.partition = move->from->id, .offset = offset};
    request_init(&move->read.request, move->group->loop, read_done);
    log_read(move->group->worker, &move->read);
}

void move_unread(const struct move *move, enum status status)
{
    struct part *part = move->from;
    const struct log_read *read = &move->read;
    if (status == STATUS_OUT_OF_RANGE)
        feed_skip_to(part, read->start);
    else if (status == STATUS_CORRUPT)
        feed_skip_unreadable(part, read->offset,
                             read->start > read->offset ? read->start : read->offset + 1);
    else
        part->move_retry_ms = loop_now_ms(part->group->loop) + MOVE_RETRY_MS;
}

enum status move_find(const struct move *move, uint64_t offset, struct record *record)
{
    const struct log_read *read = &move->read;
    if (offset < read->offset)
        return STATUS_BUSY;
    for (uint32_t i = 0; i < read->count; i++) {
        const struct batch *batch = read->batches[i];
        if (offset >= batch_end(batch))
            continue;
        uint32_t index = batch_find(batch, offset);
        if (index == batch->record_count)
            return STATUS_NOT_FOUND;
        batch_record(batch, index, record);
        return record->offset == offset ? STATUS_OK : STATUS_NOT_FOUND;
    }
    /* Behind what was read: only of the first one this read says that it is not there. */
    return offset == read->offset ? STATUS_NOT_FOUND : STATUS_BUSY;
}

bool move_add(struct move *move, const struct record *record, const struct header *more,
              uint32_t more_count)
{
    size_t size = record->key.size + record->value.size + record->headers.size;
    if (move->count == MOVE_MAX || batch_builder_is_full(&move->builder, size))
        return false;
    struct header headers[LIMIT_HEADERS];
    struct record_input input = {
        .timestamp_ms = record->timestamp_ms,
        /* An old record must not become the retained one again. */
        .attributes = record->attributes & (uint8_t)~RECORD_RETAIN,
        .key = record->key,
        .value = record->value,
        .headers = headers,
        .more_headers = more,
        .more_count = more_count,
    };
    struct reader at = reader_of(record->headers);
    struct header header;
    while (input.header_count < LIMIT_HEADERS && record_next_header(&at, &header) &&
           !span_is(header.name, HEADER_DEAD))
        headers[input.header_count++] = header;
    enum status status = batch_builder_add(&move->builder, &input);
    if (status == STATUS_TOO_LARGE) {
        input.more_count = 0;
        status = batch_builder_add(&move->builder, &input);
    }
    if (status != STATUS_OK)
        return false;
    move->offsets[move->count++] = record->offset;
    return true;
}

static void append_done(struct request *request, enum status status)
{
    struct move *move = container_of(request, struct move, append.request);
    for (uint32_t i = 0; status == STATUS_OK && i < move->count; i++)
        window_moved(move->from->window, move->offsets[i]);
    move->next(move, status);
}

void move_send(struct move *move, uint64_t partition,
               void (*next)(struct move *move, enum status status))
{
    drop_read(move);
    move->next = next;
    for (uint32_t i = 0; i < move->count; i++) {
        uint8_t *value = move->values[i];
        value[0] = ROW_VERSION;
        memset(value + ROW_OFFSET_AT, 0, MOVED_ROW - ROW_OFFSET_AT);
        move->rows[i] = (struct storage_row){
            .change = STORAGE_PUT,
            .key = moved_key(move->keys[i], move->from, move->offsets[i]),
            .value = span_of(value, MOVED_ROW),
            .offset_at = ROW_OFFSET_AT,
            .patch_record = i,
        };
    }
    move->from->has_moved = true;
    move->append = (struct log_append){
        .partition = partition,
        .batch = batch_builder_seal(&move->builder),
        .rows = move->rows,
        .row_count = move->count,
    };
    request_init(&move->append.request, move->group->loop, append_done);
    log_append(move->group->worker, &move->append);
}
