/* SPDX-License-Identifier: Apache-2.0 */
/* Gathered sends over a ring. The kernel is done with all of them before the first done() is
 * called, so nothing is under way while the streams go on. */
#include "core/net/sends.h"

#include <errno.h>
#include <sys/socket.h>

#include "core/base/check.h"
#include "core/base/heap.h"
#include "core/base/trace.h"
#include "core/net/ring.h"

/* Fewer are sent one by one: filling the ring costs something, too. */
enum { WORTH_A_RING = 3, FLAGS = MSG_NOSIGNAL | MSG_DONTWAIT };

struct one {
    int socket;
    struct span bytes;
    ssize_t result;
    bool sent;
    void (*done)(void *context, ssize_t result);
    void *context;
};

struct sends {
    struct ring *ring; /* NULL: it has failed */
    struct one all[SENDS_MAX];
    uint32_t count, next; /* next: whose done() comes next, while going */
    bool going;
};

struct sends *sends_new(void)
{
    struct ring *ring = ring_new(SENDS_MAX);
    if (ring == NULL)
        return NULL;
    struct sends *sends = heap_new(sizeof *sends);
    sends->ring = ring;
    return sends;
}

void sends_free(struct sends *sends)
{
    if (sends == NULL)
        return;
    CHECK(sends->count == 0);
    ring_free(sends->ring);
    heap_free(sends);
}

bool sends_add(struct sends *sends, int socket, struct span bytes,
               void (*done)(void *context, ssize_t result), void *context)
{
    if (sends->going || sends->ring == NULL || sends->count == SENDS_MAX)
        return false;
    sends->all[sends->count++] =
        (struct one){.socket = socket, .bytes = bytes, .done = done, .context = context};
    return true;
}

bool sends_are_full(const struct sends *sends)
{
    return sends->count == SENDS_MAX;
}

static void sent(void *context, uint64_t number, int result)
{
    struct sends *sends = context;
    sends->all[number].result = result;
    sends->all[number].sent = result != -EINVAL; /* kernels before 5.6 know no such request */
}

static void send_by_ring(struct sends *sends)
{
    for (uint32_t i = 0; i < sends->count; i++) {
        struct io_uring_sqe *request = ring_next(sends->ring);
        CHECK(request != NULL);
        request->opcode = IORING_OP_SEND;
        request->fd = sends->all[i].socket;
        request->addr = (uintptr_t)sends->all[i].bytes.data;
        request->len = (uint32_t)sends->all[i].bytes.size;
        request->msg_flags = FLAGS;
        request->user_data = i;
    }
    bool worked = ring_go(sends->ring, sent, sends), any = false;
    for (uint32_t i = 0; i < sends->count; i++)
        any |= sends->all[i].sent;
    if (worked && any)
        return;
    trace(TRACE_WARN, "io_uring has failed; sockets are written to without it");
    ring_free(sends->ring);
    sends->ring = NULL;
}

static void send_one(struct one *one)
{
    one->result = send(one->socket, one->bytes.data, one->bytes.size, FLAGS);
    if (one->result < 0)
        one->result = -errno;
}

void sends_go(struct sends *sends)
{
    if (!sends->going) {
        sends->going = true;
        if (sends->count >= WORTH_A_RING)
            send_by_ring(sends);
        for (uint32_t i = 0; i < sends->count; i++)
            if (!sends->all[i].sent)
                send_one(&sends->all[i]);
    }
    while (sends->next < sends->count) {
        struct one *one = &sends->all[sends->next++];
        one->done(one->context, one->result);
    }
    sends->count = sends->next = 0;
    sends->going = false;
}
