/* SPDX-License-Identifier: Apache-2.0 */
/* The system calls of io_uring, without a library. */
#include "tests/bench/ring.h"

#include <errno.h>
#include <linux/io_uring.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

static struct {
    int fd;
    uint32_t added;
    uint32_t *submit_tail, *complete_head, *complete_tail, submit_mask, complete_mask;
    struct io_uring_sqe *requests;
    struct io_uring_cqe *results;
} ring;

static void fail(const char *what)
{
    perror(what);
    exit(2);
}

static uint8_t *map(size_t size, uint64_t at)
{
    void *memory =
        mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring.fd, (off_t)at);
    if (memory == MAP_FAILED)
        fail("mmap of io_uring");
    return memory;
}

static uint32_t *word(uint8_t *memory, uint32_t at)
{
    return (uint32_t *)(void *)(memory + at);
}

void ring_open(void)
{
    struct io_uring_params made = {.flags =
                                       IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN};
    if ((ring.fd = (int)syscall(SYS_io_uring_setup, RING_MAX, &made)) < 0)
        fail("io_uring");
    uint8_t *submit =
        map(made.sq_off.array + made.sq_entries * sizeof(uint32_t), IORING_OFF_SQ_RING);
    uint8_t *complete =
        map(made.cq_off.cqes + made.cq_entries * sizeof(struct io_uring_cqe), IORING_OFF_CQ_RING);
    uint8_t *requests = map(made.sq_entries * sizeof(struct io_uring_sqe), IORING_OFF_SQES);
    ring.requests = (struct io_uring_sqe *)(void *)requests;
    ring.results = (struct io_uring_cqe *)(void *)(complete + made.cq_off.cqes);
    ring.submit_tail = word(submit, made.sq_off.tail);
    ring.submit_mask = *word(submit, made.sq_off.ring_mask);
    ring.complete_head = word(complete, made.cq_off.head);
    ring.complete_tail = word(complete, made.cq_off.tail);
    ring.complete_mask = *word(complete, made.cq_off.ring_mask);
    for (uint32_t i = 0; i < made.sq_entries; i++)
        word(submit, made.sq_off.array)[i] = i;
}

void ring_add(enum ring_what what, int fd, void *bytes, uint32_t size, void *context)
{
    uint32_t tail = *ring.submit_tail;
    ring.requests[tail & ring.submit_mask] = (struct io_uring_sqe){
        .opcode = what == RING_SEND ? IORING_OP_SEND : IORING_OP_RECV,
        .fd = fd,
        .addr = (uintptr_t)bytes,
        .len = size,
        .msg_flags = what == RING_SEND ? MSG_NOSIGNAL | MSG_DONTWAIT : MSG_DONTWAIT,
        .user_data = (uintptr_t)context,
    };
    __atomic_store_n(ring.submit_tail, tail + 1, __ATOMIC_RELEASE);
    ring.added++;
}

void ring_go(ring_done done)
{
    uint32_t submitted = ring.added;
    while (ring.added > 0) {
        long count = syscall(SYS_io_uring_enter, ring.fd, submitted, ring.added,
                             IORING_ENTER_GETEVENTS, NULL, 0);
        if (count < 0 && errno != EINTR)
            fail("io_uring_enter");
        if (count > 0)
            submitted -= (uint32_t)count;
        uint32_t head = *ring.complete_head;
        while (head != __atomic_load_n(ring.complete_tail, __ATOMIC_ACQUIRE)) {
            struct io_uring_cqe result = ring.results[head & ring.complete_mask];
            __atomic_store_n(ring.complete_head, ++head, __ATOMIC_RELEASE);
            ring.added--;
            done((void *)(uintptr_t)result.user_data, result.res);
        }
    }
}
