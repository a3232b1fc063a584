/* SPDX-License-Identifier: Apache-2.0 */
/* The system calls of io_uring, without a library: two memory areas shared with the kernel, and two
 * calls. */
#include "core/net/ring.h"

#include <errno.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "core/base/heap.h"

struct area {
    uint8_t *bytes; /* MAP_FAILED: none */
    size_t size;
};

struct ring {
    int fd;
    struct area submit, complete, entries;
    uint32_t size, added;
    uint32_t *submit_head, *submit_tail, *complete_head, *complete_tail;
    uint32_t submit_mask, complete_mask;
    struct io_uring_sqe *requests;
    struct io_uring_cqe *results;
};

static struct area map(int fd, size_t size, uint64_t at)
{
    int kept = PROT_READ | PROT_WRITE;
    uint8_t *bytes = mmap(NULL, size, kept, MAP_SHARED | MAP_POPULATE, fd, (off_t)at);
    return (struct area){bytes, size};
}

static void unmap(struct area area)
{
    if (area.bytes != MAP_FAILED)
        munmap(area.bytes, area.size);
}

static uint32_t *word(struct area area, uint32_t at)
{
    return (uint32_t *)(void *)(area.bytes + at);
}

static void find_words(struct ring *ring, const struct io_uring_params *made)
{
    ring->size = made->sq_entries;
    ring->requests = (struct io_uring_sqe *)(void *)ring->entries.bytes;
    ring->results = (struct io_uring_cqe *)(void *)(ring->complete.bytes + made->cq_off.cqes);
    ring->submit_head = word(ring->submit, made->sq_off.head);
    ring->submit_tail = word(ring->submit, made->sq_off.tail);
    ring->submit_mask = *word(ring->submit, made->sq_off.ring_mask);
    ring->complete_head = word(ring->complete, made->cq_off.head);
    ring->complete_tail = word(ring->complete, made->cq_off.tail);
    ring->complete_mask = *word(ring->complete, made->cq_off.ring_mask);
    for (uint32_t i = 0; i < made->sq_entries; i++)
        word(ring->submit, made->sq_off.array)[i] = i;
}

struct ring *ring_new(uint32_t size)
{
    struct io_uring_params made = {0};
    int fd = (int)syscall(SYS_io_uring_setup, size, &made);
    if (fd < 0)
        return NULL;
    struct ring *ring = heap_new(sizeof *ring);
    size_t words = made.sq_entries * sizeof(uint32_t);
    size_t results = made.cq_entries * sizeof(struct io_uring_cqe);
    ring->fd = fd;
    ring->submit = map(fd, made.sq_off.array + words, IORING_OFF_SQ_RING);
    ring->complete = map(fd, made.cq_off.cqes + results, IORING_OFF_CQ_RING);
    ring->entries = map(fd, made.sq_entries * sizeof(struct io_uring_sqe), IORING_OFF_SQES);
    if (ring->submit.bytes == MAP_FAILED || ring->complete.bytes == MAP_FAILED ||
        ring->entries.bytes == MAP_FAILED) {
        ring_free(ring);
        return NULL;
    }
    find_words(ring, &made);
    return ring;
}

void ring_free(struct ring *ring)
{
    if (ring == NULL)
        return;
    unmap(ring->submit);
    unmap(ring->complete);
    unmap(ring->entries);
    close(ring->fd);
    heap_free(ring);
}

struct io_uring_sqe *ring_next(struct ring *ring)
{
    if (ring->added == ring->size)
        return NULL;
    uint32_t tail = *ring->submit_tail + ring->added++;
    struct io_uring_sqe *request = &ring->requests[tail & ring->submit_mask];
    *request = (struct io_uring_sqe){0};
    return request;
}

static uint32_t harvest(struct ring *ring, void (*done)(void *, uint64_t, int), void *context)
{
    uint32_t count = 0, head = *ring->complete_head;
    while (head != __atomic_load_n(ring->complete_tail, __ATOMIC_ACQUIRE)) {
        struct io_uring_cqe result = ring->results[head & ring->complete_mask];
        __atomic_store_n(ring->complete_head, ++head, __ATOMIC_RELEASE);
        done(context, result.user_data, result.res);
        count++;
    }
    return count;
}

bool ring_go(struct ring *ring, void (*done)(void *, uint64_t, int), void *context)
{
    uint32_t left = ring->added;
    uint32_t tail = *ring->submit_tail + left;
    __atomic_store_n(ring->submit_tail, tail, __ATOMIC_RELEASE);
    ring->added = 0;
    while (left > 0) {
        uint32_t taken = __atomic_load_n(ring->submit_head, __ATOMIC_ACQUIRE);
        long count = syscall(SYS_io_uring_enter, ring->fd, tail - taken, left,
                             IORING_ENTER_GETEVENTS, NULL, 0);
        int error = errno;
        left -= harvest(ring, done, context);
        if (count < 0 && error != EINTR) {
            /* What the kernel has not taken is taken back. */
            taken = __atomic_load_n(ring->submit_head, __ATOMIC_ACQUIRE);
            __atomic_store_n(ring->submit_tail, taken, __ATOMIC_RELEASE);
            return left == 0;
        }
    }
    return true;
}
