/* SPDX-License-Identifier: Apache-2.0 */
/* The part of a stream that does not depend on what carries it.
 *
 *   open --stream_close, orderly end--> closing: output is still sent, input is dropped
 *   open, closing --stream_abort, error, 5 s--> aborted: output is dropped
 *   closing with no output left, aborted --flush task--> gone: the kind closes its transport
 *   gone --stream_gone--> closed() is called, memory is freed
 *
 * Only the flush task begins the transport's close, so closed() never runs inside a caller's call.
 */
#include <stdatomic.h>

#include "core/base/check.h"
#include "core/base/heap.h"
#include "core/base/limits.h"
#include "core/net/stream_impl.h"

enum {
    COLLECT_MIN = 4 * 1024, /* first chunk of a turn's small writes; each next one doubles */
    COLLECT_MAX = 64 * 1024,
    COLLECT_BETWEEN = 512,    /* behind a referenced blob comes the head of the next one */
    REFERENCE_MIN = 2 * 1024, /* below this, copying is cheaper than a chunk and a vector */
    KEPT_MIN = 512,
    CLOSE_MS = 5000,
};

/* Bytes of its own, or a part of a blob. */
struct stream_chunk {
    struct stream_chunk *next;
    struct blob *blob;
    const uint8_t *data;
    uint32_t sent;
    uint32_t size;
    uint32_t capacity; /* of bytes; 0 with a blob */
    uint8_t bytes[];
};

_Atomic uint64_t stream_handshakes_failed;

/* Where writes after close go. Untouched pages of it cost nothing. */
static _Thread_local uint8_t dropped[COLLECT_MAX];

static void flush_run(struct loop_task *task);
static void resume_run(struct loop_task *task);
static void close_expired(struct loop_timer *timer);

void stream_init(struct stream *stream, struct loop *loop, const struct stream_ops *ops)
{
    *stream = (struct stream){
        .ops = ops,
        .loop = loop,
        .flush_task.run = flush_run,
        .resume_task.run = resume_run,
        .close_timer.fired = close_expired,
    };
}

static void flush_later(struct stream *stream)
{
    if (stream->flush_task.previous == NULL)
        loop_defer(stream->loop, &stream->flush_task, LOOP_FLUSH);
}

void stream_start(struct stream *stream, const struct stream_events *events, void *context)
{
    CHECK(loop_is_home(stream->loop) && !stream->started);
    stream->started = true;
    stream->events = events;
    stream->context = context;
    if (!stream->closing)
        stream->ops->start(stream);
    flush_later(stream);
}

void stream_hand_over(struct stream *stream, const struct stream_events *events, void *context)
{
    /* It may have gone while its closed() is still to come: the new owner hears that. */
    CHECK(loop_is_home(stream->loop) && stream->started);
    stream->events = events;
    stream->context = context;
    if (!stream->paused && !stream->closing)
        loop_defer(stream->loop, &stream->resume_task, LOOP_WORK);
}

/* Output */

static void chunk_free(struct stream_chunk *chunk)
{
    blob_unref(chunk->blob);
    heap_free(chunk);
}

static void chunk_append(struct stream *stream, struct stream_chunk *chunk)
{
    if (stream->last != NULL)
        stream->last->next = chunk;
    else
        stream->first = chunk;
    stream->last = chunk;
}

static struct stream_chunk *chunk_add(struct stream *stream, size_t capacity)
{
    struct stream_chunk *chunk = heap_resize(NULL, sizeof *chunk + capacity);
    *chunk = (struct stream_chunk){.data = chunk->bytes, .capacity = (uint32_t)capacity};
    chunk_append(stream, chunk);
    return chunk;
}

static struct stream_chunk *chunk_take(struct stream *stream)
{
    struct stream_chunk *chunk = stream->first;
    CHECK(chunk != NULL);
    stream->first = chunk->next;
    if (stream->first == NULL)
        stream->last = NULL;
    chunk->next = NULL;
    return chunk;
}

/* size contiguous bytes at the end of the output, counted as written. */
static uint8_t *output_room(struct stream *stream, size_t size)
{
    struct stream_chunk *chunk = stream->last;
    if (chunk == NULL || chunk->blob != NULL || chunk->capacity - chunk->size < size) {
        size_t capacity = COLLECT_MIN;
        if (chunk != NULL)
            capacity = chunk->blob != NULL ? COLLECT_BETWEEN : (size_t)chunk->capacity * 2;
        if (capacity > COLLECT_MAX)
            capacity = COLLECT_MAX;
        chunk = chunk_add(stream, capacity < size ? size : capacity);
    }
    uint8_t *room = chunk->bytes + chunk->size;
    chunk->size += (uint32_t)size;
    stream->queued += size;
    flush_later(stream);
    return room;
}

void stream_write(struct stream *stream, struct span bytes)
{
    CHECK(loop_is_home(stream->loop) && bytes.size <= UINT32_MAX / 2);
    if (!stream->closing && bytes.size != 0)
        memcpy(output_room(stream, bytes.size), bytes.data, bytes.size);
}

uint8_t *stream_reserve(struct stream *stream, size_t size)
{
    CHECK(loop_is_home(stream->loop) && size <= COLLECT_MAX);
    return stream->closing ? dropped : output_room(stream, size);
}

void stream_write_blob(struct stream *stream, struct blob *blob, size_t offset, size_t size)
{
    CHECK(offset <= blob->size && size <= blob->size - offset);
    if (size < REFERENCE_MIN) {
        stream_write(stream, span_of(blob->bytes + offset, size));
        return;
    }
    CHECK(loop_is_home(stream->loop));
    if (stream->closing)
        return;
    struct stream_chunk *chunk = chunk_add(stream, 0);
    chunk->blob = blob_ref(blob);
    chunk->data = blob->bytes + offset;
    chunk->size = (uint32_t)size;
    stream->queued += size;
    flush_later(stream);
}

size_t stream_queued(const struct stream *stream)
{
    return stream->queued;
}

int stream_peek(struct stream *stream, struct iovec *vectors, int count)
{
    int filled = 0;
    for (struct stream_chunk *chunk = stream->first; chunk != NULL && filled < count;
         chunk = chunk->next) {
        /* iovec is not const, though sending only reads. */
        vectors[filled++] = (struct iovec){
            .iov_base = (void *)(uintptr_t)(chunk->data + chunk->sent),
            .iov_len = chunk->size - chunk->sent,
        };
    }
    return filled;
}

/* A large output counts as one that was queued, also when the socket takes it at once: who writes
 * may have stopped because of it. */
static void note_large(struct stream *stream)
{
    stream->was_queued |= stream->queued >= LIMIT_CLIENT_OUT_BYTES / 4;
}

void stream_sent(struct stream *stream, size_t size)
{
    CHECK(size <= stream->queued);
    note_large(stream);
    stream->queued -= size;
    while (size > 0) {
        struct stream_chunk *chunk = stream->first;
        CHECK(chunk != NULL);
        size_t left = chunk->size - chunk->sent;
        if (size < left) {
            chunk->sent += (uint32_t)size;
            return;
        }
        size -= left;
        chunk_free(chunk_take(stream));
    }
}

/* The first size bytes of a chunk that is larger, as a chunk of their own at the end of to. */
static void chunk_split(struct stream_chunk *chunk, struct stream *to, size_t size)
{
    struct stream_chunk *part = chunk_add(to, chunk->blob == NULL ? size : 0);
    part->size = (uint32_t)size;
    if (chunk->blob == NULL) {
        memcpy(part->bytes, chunk->data + chunk->sent, size);
    } else {
        part->blob = blob_ref(chunk->blob);
        part->data = chunk->data + chunk->sent;
    }
    chunk->sent += (uint32_t)size;
}

void stream_move(struct stream *from, struct stream *to, size_t size, struct span head)
{
    CHECK(size <= from->queued && from->loop == to->loop);
    if (to->closing) {
        stream_sent(from, size);
        return;
    }
    if (head.size > 0) {
        struct stream_chunk *front = chunk_add(to, head.size);
        memcpy(front->bytes, head.data, head.size);
        front->size = (uint32_t)head.size;
    }
    from->queued -= size;
    to->queued += head.size + size;
    while (size > 0) {
        CHECK(from->first != NULL);
        size_t left = from->first->size - from->first->sent;
        if (size < left) {
            chunk_split(from->first, to, size);
            size = 0;
        } else {
            size -= left;
            chunk_append(to, chunk_take(from));
        }
    }
    flush_later(to);
}

static void output_drop(struct stream *stream)
{
    while (stream->first != NULL) {
        struct stream_chunk *next = stream->first->next;
        chunk_free(stream->first);
        stream->first = next;
    }
    stream->last = NULL;
    stream->queued = 0;
}

static bool flush_begins(const struct stream *stream)
{
    return stream->started && !stream->gone && !stream->aborted && stream->queued != 0;
}

void stream_flush(struct stream *stream)
{
    loop_task_cancel(stream->loop, &stream->flush_task);
    if (stream->gathered || flush_begins(stream))
        stream->ops->flush(stream);
    stream_flushed(stream);
}

static void flush_run(struct loop_task *task)
{
    struct stream *stream = container_of(task, struct stream, flush_task);
    if (flush_begins(stream)) {
        if (stream->ops->gather != NULL && stream->ops->gather(stream))
            return;
        stream->ops->flush(stream);
    }
    stream_flushed(stream);
}

void stream_flushed(struct stream *stream)
{
    if (stream->gone)
        return;
    if (stream->aborted)
        output_drop(stream);
    if (stream->closing && stream->queued == 0) {
        stream->gone = true;
        loop_timer_stop(stream->loop, &stream->close_timer);
        stream->ops->close(stream);
        return;
    }
    bool has_drained = stream->was_queued && stream->queued == 0;
    stream->was_queued = stream->queued != 0;
    if (has_drained && !stream->closing)
        stream->events->drained(stream->context);
}

/* Input */

static void kept_drop(struct stream *stream)
{
    heap_free(stream->kept);
    stream->kept = NULL;
    stream->kept_size = stream->kept_capacity = 0;
}

static enum status kept_append(struct stream *stream, struct span bytes)
{
    size_t size = (size_t)stream->kept_size + bytes.size;
    if (size > LIMIT_CLIENT_IN_BYTES)
        return STATUS_TOO_LARGE;
    if (size > stream->kept_capacity) {
        size_t capacity = (size_t)stream->kept_capacity * 2;
        if (capacity < size)
            capacity = size < KEPT_MIN ? KEPT_MIN : size;
        uint8_t *kept = heap_try_resize(stream->kept, capacity);
        if (kept == NULL)
            return STATUS_NO_MEMORY;
        stream->kept = kept;
        stream->kept_capacity = (uint32_t)capacity;
    }
    memcpy(stream->kept + stream->kept_size, bytes.data, bytes.size);
    stream->kept_size = (uint32_t)size;
    return STATUS_OK;
}

/* The tail of a large frame must not hold the memory of the frame. */
static void kept_shrink(struct stream *stream)
{
    if (stream->kept_capacity / 4 < stream->kept_size || stream->kept_capacity <= KEPT_MIN)
        return;
    uint8_t *kept = heap_try_resize(stream->kept, stream->kept_size);
    if (kept != NULL) {
        stream->kept = kept;
        stream->kept_capacity = stream->kept_size;
    }
}

/* Shows bytes, unless nobody wants them now; says how many were taken. */
static size_t show(struct stream *stream, struct span bytes)
{
    if (stream->paused || stream->closing || bytes.size == 0)
        return 0;
    CHECK(!stream->in_input);
    size_t used = 0;
    stream->in_input = true;
    stream->events->input(stream->context, bytes, &used);
    stream->in_input = false;
    CHECK(used <= bytes.size);
    return used;
}

static void show_kept(struct stream *stream)
{
    size_t used = show(stream, span_of(stream->kept, stream->kept_size));
    if (stream->closing || used == stream->kept_size) {
        kept_drop(stream);
    } else if (used != 0) {
        stream->kept_size -= (uint32_t)used;
        memmove(stream->kept, stream->kept + used, stream->kept_size);
        kept_shrink(stream);
    }
}

void stream_input(struct stream *stream, struct span bytes)
{
    CHECK(loop_is_home(stream->loop));
    if (stream->closing || bytes.size == 0)
        return;
    bool had_kept = stream->kept != NULL;
    struct span rest = had_kept ? bytes : span_from(bytes, show(stream, bytes));
    if (stream->closing || rest.size == 0)
        return;
    enum status status = kept_append(stream, rest);
    if (status != STATUS_OK)
        stream_ended(stream, status);
    else if (had_kept)
        show_kept(stream);
}

/* Copies the few bytes of an incomplete frame instead of all that has followed it. */
void stream_input_joined(struct stream *stream, uint8_t *bytes, size_t size, size_t room)
{
    size_t kept = stream->kept_size;
    if (kept != 0 && kept <= room && !stream->paused && !stream->closing) {
        bytes -= kept;
        size += kept;
        memcpy(bytes, stream->kept, kept);
        kept_drop(stream);
    }
    stream_input(stream, span_of(bytes, size));
}

void stream_pause(struct stream *stream)
{
    CHECK(loop_is_home(stream->loop));
    if (stream->paused || stream->closing)
        return;
    stream->paused = true;
    loop_task_cancel(stream->loop, &stream->resume_task);
    stream->ops->pause(stream, true);
}

void stream_resume(struct stream *stream)
{
    CHECK(loop_is_home(stream->loop));
    if (!stream->paused || stream->closing)
        return;
    stream->paused = false;
    loop_defer(stream->loop, &stream->resume_task, LOOP_WORK);
}

static void resume_run(struct loop_task *task)
{
    struct stream *stream = container_of(task, struct stream, resume_task);
    if (stream->kept != NULL)
        show_kept(stream);
    if (!stream->paused && !stream->closing)
        stream->ops->pause(stream, false);
}

/* The end */

static void begin_close(struct stream *stream, enum status why)
{
    stream->closing = true;
    stream->why = why;
    if (!stream->in_input)
        kept_drop(stream);
    loop_task_cancel(stream->loop, &stream->resume_task);
    flush_later(stream);
}

void stream_close(struct stream *stream)
{
    CHECK(loop_is_home(stream->loop));
    if (stream->closing)
        return;
    begin_close(stream, STATUS_OK);
    loop_timer_start(stream->loop, &stream->close_timer, CLOSE_MS);
    /* A peer that only writes must be able to finish before it reads what we still have for it. */
    if (stream->started)
        stream->ops->pause(stream, false);
}

static void close_expired(struct loop_timer *timer)
{
    struct stream *stream = container_of(timer, struct stream, close_timer);
    stream->why = STATUS_TIMED_OUT;
    stream->aborted = true;
    flush_later(stream);
}

void stream_abort(struct stream *stream)
{
    CHECK(loop_is_home(stream->loop));
    if (stream->aborted || stream->gone)
        return;
    begin_close(stream, STATUS_OK);
    stream->aborted = true;
}

void stream_ended(struct stream *stream, enum status why)
{
    CHECK(loop_is_home(stream->loop));
    if (stream->gone)
        return;
    if (why != STATUS_OK) {
        begin_close(stream, why);
        stream->aborted = true;
    } else if (!stream->closing) {
        begin_close(stream, why);
        loop_timer_start(stream->loop, &stream->close_timer, CLOSE_MS);
    }
}

bool stream_is_closing(const struct stream *stream)
{
    return stream->closing;
}

void stream_gone(struct stream *stream)
{
    stream->gone = true;
    stream->closing = true;
    loop_task_cancel(stream->loop, &stream->flush_task);
    loop_task_cancel(stream->loop, &stream->resume_task);
    loop_timer_stop(stream->loop, &stream->close_timer);
    output_drop(stream);
    kept_drop(stream);
    if (stream->events != NULL)
        stream->events->closed(stream->context, stream->why);
    heap_free(stream);
}

const char *stream_peer(const struct stream *stream)
{
    return stream->peer;
}

const char *stream_certificate_subject(const struct stream *stream)
{
    return stream->ops->certificate_subject != NULL ? stream->ops->certificate_subject(stream)
                                                    : NULL;
}
