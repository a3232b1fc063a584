/* SPDX-License-Identifier: Apache-2.0 */
/* Streams whose other end is a scripted peer: bytes are cut at drawn places and take drawn times,
 * in order; little fits on the way to a slow peer. */
#include "tests/sim/sim.h"

#include "core/base/check.h"
#include "core/base/heap.h"
#include "core/net/stream_impl.h"

enum { WINDOW = 16 * 1024, DELAY_MS_MAX = 4 };

/* The gateway's end. */
struct sim_wire {
    struct stream stream; /* first: it is this memory that stream.c frees */
    struct sim_wire_ends *shared;
    bool paused;
    struct segment *unread, **unread_last;
};

/* What outlives the stream: both directions' bytes under way refer to it. */
struct sim_wire_ends {
    struct sim_wire *wire; /* NULL once the stream has gone */
    struct sim_peer *peer;
    struct loop *loop;
    uint64_t to_stream_ms, to_peer_ms; /* when the last bytes on the way arrive */
    size_t to_peer;                    /* bytes on the way */
    struct link link;
};

static struct list wires;

/* Bytes on the way; without any it is the end of the stream. */
struct segment {
    struct sim_wire_ends *shared;
    struct segment *next;
    enum status why; /* of the end: OK waits for its turn to be read, as a FIN does */
    size_t size;
    uint8_t bytes[];
};

static struct segment *segment_new(struct sim_wire_ends *shared, const void *bytes, size_t size)
{
    struct segment *segment = heap_new(sizeof *segment + size);
    segment->shared = shared;
    segment->why = STATUS_OK;
    segment->size = size;
    if (size > 0)
        memcpy(segment->bytes, bytes, size);
    return segment;
}

static uint64_t arrival(uint64_t *last_ms)
{
    uint64_t at = sim_now_ms() + sim_below(DELAY_MS_MAX + 1);
    if (at < *last_ms)
        at = *last_ms;
    *last_ms = at;
    return at - sim_now_ms();
}

/* ------------------------------------------------ to the gateway */

static void show_stream(struct sim_wire *wire, struct segment *segment)
{
    if (segment->size > 0)
        stream_input(&wire->stream, span_of(segment->bytes, segment->size));
    else
        stream_ended(&wire->stream, segment->why);
    heap_free(segment);
}

static void reach_stream(void *context)
{
    struct segment *segment = context;
    struct sim_wire *wire = segment->shared->wire;
    if (wire == NULL) {
        heap_free(segment);
    } else if (wire->paused && segment->why == STATUS_OK) {
        segment->next = NULL;
        *wire->unread_last = segment;
        wire->unread_last = &segment->next;
    } else {
        show_stream(wire, segment);
    }
}

static void read_on(void *context)
{
    struct sim_wire_ends *shared = context;
    struct segment *segment;
    while (shared->wire != NULL && !shared->wire->paused &&
           (segment = shared->wire->unread) != NULL) {
        shared->wire->unread = segment->next;
        if (segment->next == NULL)
            shared->wire->unread_last = &shared->wire->unread;
        show_stream(shared->wire, segment);
    }
}

static void leave_world(void *context)
{
    struct segment *segment = context;
    if (segment->shared->loop != NULL)
        sim_on(segment->shared->loop, reach_stream, segment);
    else
        heap_free(segment);
}

void sim_send(struct sim_peer *peer, struct span bytes)
{
    CHECK(peer->shared != NULL);
    struct sim_wire_ends *shared = peer->shared;
    while (bytes.size > 0) {
        size_t size = sim_chance(30) ? 1 + sim_below(bytes.size) : bytes.size;
        sim_after(arrival(&shared->to_stream_ms), leave_world,
                  segment_new(shared, bytes.data, size));
        bytes = span_from(bytes, size);
    }
}

static void detach(struct sim_wire_ends *shared, enum sim_ended ended)
{
    struct sim_peer *peer = shared->peer;
    shared->peer = NULL;
    if (peer == NULL)
        return;
    peer->shared = NULL;
    peer->ended = ended;
    peer->closed(peer);
}

bool sim_disconnect(struct sim_peer *peer)
{
    if (peer->shared == NULL)
        return false;
    struct sim_wire_ends *shared = peer->shared;
    struct segment *end = segment_new(shared, NULL, 0);
    end->why = sim_chance(50) ? STATUS_OK : STATUS_CLOSED;
    bool is_heard = end->why == STATUS_OK;
    sim_after(arrival(&shared->to_stream_ms), leave_world, end);
    detach(shared, SIM_ENDED_ITSELF);
    return is_heard;
}

static void hear_of_it(void *context)
{
    struct sim_wire_ends *shared = context;
    struct segment *end = segment_new(shared, NULL, 0);
    end->why = STATUS_CLOSED;
    leave_world(end);
}

void sim_vanish(struct sim_peer *peer, uint64_t after_ms)
{
    if (peer->shared == NULL)
        return;
    struct sim_wire_ends *shared = peer->shared;
    sim_after(DELAY_MS_MAX + after_ms, hear_of_it, shared);
    detach(shared, SIM_ENDED_ITSELF);
}

bool sim_is_open(const struct sim_peer *peer)
{
    return peer->shared != NULL && peer->shared->wire != NULL &&
           !peer->shared->wire->stream.closing;
}

void sim_cut_all(void)
{
    list_each_safe(link, following, &wires)
    {
        struct sim_wire_ends *shared = container_of(link, struct sim_wire_ends, link);
        link_remove(link);
        shared->wire = NULL;
        shared->loop = NULL;
        detach(shared, SIM_ENDED_BY_CRASH);
    }
}

/* ------------------------------------------------ to the peer */

static void more_room(void *context)
{
    struct sim_wire_ends *shared = context;
    if (shared->wire != NULL)
        loop_defer(shared->loop, &shared->wire->stream.flush_task, LOOP_FLUSH);
}

static void reach_peer(void *context)
{
    struct segment *segment = context;
    struct sim_wire_ends *shared = segment->shared;
    shared->to_peer -= segment->size;
    if (shared->loop != NULL)
        sim_on(shared->loop, more_room, shared);
    if (shared->peer != NULL && segment->size > 0)
        shared->peer->received(shared->peer, span_of(segment->bytes, segment->size));
    else if (segment->size == 0)
        detach(shared, SIM_ENDED_BY_GATEWAY);
    heap_free(segment);
}

static void wire_start(struct stream *stream)
{
    (void)stream;
}

static void wire_pause(struct stream *stream, bool paused)
{
    struct sim_wire *wire = (struct sim_wire *)stream;
    wire->paused = paused;
    if (!paused)
        sim_on(wire->shared->loop, read_on, wire->shared);
}

static void wire_flush(struct stream *stream)
{
    struct sim_wire_ends *shared = ((struct sim_wire *)stream)->shared;
    struct iovec vectors[8];
    while (stream_queued(stream) > 0 && shared->to_peer < WINDOW) {
        int count = stream_peek(stream, vectors, 8);
        size_t sent = 0;
        for (int i = 0; i < count && shared->to_peer < WINDOW; i++) {
            size_t size = vectors[i].iov_len;
            if (size > WINDOW - shared->to_peer)
                size = WINDOW - shared->to_peer;
            sim_after(arrival(&shared->to_peer_ms), reach_peer,
                      segment_new(shared, vectors[i].iov_base, size));
            shared->to_peer += size;
            sent += size;
            if (size < vectors[i].iov_len)
                break;
        }
        stream_sent(stream, sent);
    }
}

static void gone(void *context)
{
    struct sim_wire_ends *shared = context;
    struct sim_wire *wire = shared->wire;
    if (wire == NULL)
        return;
    shared->wire = NULL;
    shared->loop = NULL;
    link_remove(&shared->link);
    for (struct segment *segment = wire->unread, *next; segment != NULL; segment = next) {
        next = segment->next;
        heap_free(segment);
    }
    stream_gone(&wire->stream);
}

static void wire_close(struct stream *stream)
{
    struct sim_wire_ends *shared = ((struct sim_wire *)stream)->shared;
    sim_after(arrival(&shared->to_peer_ms), reach_peer, segment_new(shared, NULL, 0));
    sim_on(shared->loop, gone, shared);
}

static const struct stream_ops wire_ops = {
    .start = wire_start,
    .flush = wire_flush,
    .pause = wire_pause,
    .close = wire_close,
};

struct stream *sim_connect(struct loop *loop, struct sim_peer *peer)
{
    if (wires.head.next == NULL)
        list_init(&wires);
    struct sim_wire *wire = heap_new(sizeof *wire);
    struct sim_wire_ends *shared = heap_new(sizeof *shared);
    stream_init(&wire->stream, loop, &wire_ops);
    shared->wire = wire;
    shared->peer = peer;
    shared->loop = loop;
    list_push(&wires, &shared->link);
    wire->shared = shared;
    wire->unread_last = &wire->unread;
    peer->shared = shared;
    return &wire->stream;
}

/* The gateway's connection.c can make these too; nothing here does. */
struct stream *stream_tcp_new(struct loop *loop, int socket)
{
    (void)loop;
    (void)socket;
    return NULL;
}

struct stream *stream_tls_new(struct loop *loop, int socket, struct tls_context *tls)
{
    (void)tls;
    return stream_tcp_new(loop, socket);
}
