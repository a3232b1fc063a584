/* SPDX-License-Identifier: Apache-2.0 */
/* The sends of a turn, gathered and not: streams over socket pairs that all have output at once.
 * Where the kernel allows no io_uring, both are the same. */
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "core/base/check.h"
#include "core/base/heap.h"
#include "core/net/loop_uv.h"
#include "core/net/sends.h"
#include "core/net/stream.h"

enum { MANY = SENDS_MAX + 40, LARGE = 1 << 20, RUN_MS = 20 };

struct end {
    struct stream *stream;
    int peer;
    unsigned drained, closed;
    enum status why;
};

static void on_input(void *context, struct span bytes, size_t *used)
{
    (void)context;
    *used = bytes.size;
}

static void on_drained(void *context)
{
    ((struct end *)context)->drained++;
}

static void on_closed(void *context, enum status why)
{
    struct end *end = context;
    end->closed++;
    end->why = why;
    end->stream = NULL;
}

static const struct stream_events events = {on_input, on_drained, on_closed};

static void open_end(struct loop *loop, struct end *end)
{
    int sockets[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, sockets), 0);
    *end = (struct end){.peer = sockets[1], .stream = stream_tcp_new(loop, sockets[0])};
    assert_non_null(end->stream);
    stream_start(end->stream, &events, end);
}

static void open_ends(struct loop *loop, struct end *ends, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        open_end(loop, &ends[i]);
}

struct stop {
    struct loop *loop;
    struct loop_timer timer;
};

static void stop_loop(struct loop_timer *timer)
{
    loop_stop(container_of(timer, struct stop, timer)->loop);
}

static void run(struct loop *loop)
{
    struct stop stop = {.loop = loop, .timer.fired = stop_loop};
    loop_timer_start(loop, &stop.timer, RUN_MS);
    loop_run(loop);
}

static void close_ends(struct loop *loop, struct end *ends, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        if (ends[i].stream != NULL)
            stream_abort(ends[i].stream);
    loop_free(loop);
    for (unsigned i = 0; i < count; i++) {
        assert_int_equal(ends[i].closed, 1);
        close(ends[i].peer);
    }
}

static bool has(const struct end *end, const char *text)
{
    char got[64];
    ssize_t size = recv(end->peer, got, sizeof got, MSG_DONTWAIT);
    return size == (ssize_t)strlen(text) && memcmp(got, text, strlen(text)) == 0;
}

static void write_text(struct end *end, const char *text)
{
    stream_write(end->stream, span_from_text(text));
}

static struct loop *loop_of(void **state)
{
    struct loop *loop = loop_new();
    if (*state != NULL && !loop_gather_sends(loop))
        print_message("no io_uring here\n");
    return loop;
}

/* Each of many gets its own, in one turn; again in the next. */
static bool all_arrive(struct loop *loop, struct end *ends)
{
    bool good = true;
    for (unsigned turn = 0; turn < 2; turn++) {
        char text[32];
        for (unsigned i = 0; i < MANY; i++) {
            snprintf(text, sizeof text, "%u to %u", turn, i);
            write_text(&ends[i], text);
        }
        run(loop);
        for (unsigned i = 0; i < MANY; i++) {
            snprintf(text, sizeof text, "%u to %u", turn, i);
            good &= has(&ends[i], text);
        }
    }
    return good;
}

static void what_many_write_arrives(void **state)
{
    static struct end ends[MANY];
    struct loop *loop = loop_of(state);
    open_ends(loop, ends, MANY);
    assert_true(all_arrive(loop, ends));
    close_ends(loop, ends, MANY);
}

static struct blob *large_blob(void)
{
    struct blob *blob = blob_new(LARGE);
    for (size_t i = 0; i < LARGE; i++)
        blob->bytes[i] = (uint8_t)(i * 7 + i / 251);
    return blob;
}

/* What the socket does not take at once follows when there is room, and drains once. */
static void a_full_socket_gets_the_rest_later(void **state)
{
    struct end ends[4];
    struct loop *loop = loop_of(state);
    open_ends(loop, ends, 4);
    struct blob *blob = large_blob();
    stream_write_blob(ends[1].stream, blob, 0, LARGE);
    for (unsigned i = 0; i < 4; i++)
        if (i != 1)
            write_text(&ends[i], "small");
    run(loop);
    assert_true(stream_queued(ends[1].stream) > 0);
    assert_int_equal(ends[1].drained, 0);
    uint8_t *got = heap_new(LARGE);
    size_t size = 0;
    for (unsigned i = 0; i < 1000 && size < LARGE; i++) {
        ssize_t part = recv(ends[1].peer, got + size, LARGE - size, MSG_DONTWAIT);
        size += part > 0 ? (size_t)part : 0;
        if (part < 0)
            run(loop);
    }
    assert_int_equal(size, LARGE);
    assert_memory_equal(got, blob->bytes, LARGE);
    run(loop);
    assert_int_equal(ends[1].drained, 1);
    assert_true(has(&ends[0], "small") && has(&ends[2], "small") && has(&ends[3], "small"));
    blob_unref(blob);
    heap_free(got);
    close_ends(loop, ends, 4);
}

static void ends_come_with_their_last_words(void **state)
{
    struct end ends[6];
    char byte;
    struct loop *loop = loop_of(state);
    open_ends(loop, ends, 6);
    for (unsigned i = 0; i < 6; i++)
        write_text(&ends[i], "words");
    shutdown(ends[1].peer, SHUT_RD); /* the first to write is told */
    stream_close(ends[2].stream);
    stream_abort(ends[3].stream);
    run(loop);
    assert_true(ends[1].closed == 1 && ends[1].why == STATUS_CLOSED);
    assert_true(has(&ends[2], "words"));
    assert_int_equal(recv(ends[2].peer, &byte, 1, MSG_DONTWAIT), 0);
    assert_int_equal(recv(ends[3].peer, &byte, 1, MSG_DONTWAIT), 0);
    assert_true(ends[3].closed == 1 && ends[3].why == STATUS_OK);
    assert_true(has(&ends[0], "words") && has(&ends[4], "words") && has(&ends[5], "words"));
    close_ends(loop, ends, 6);
}

struct meddler {
    struct loop_task task;
    struct end *ends;
    bool in_order;
};

/* Runs behind the flushes of the ends, so that theirs are gathered. */
static void meddle(struct loop_task *task)
{
    struct meddler *meddler = container_of(task, struct meddler, task);
    struct end *ends = meddler->ends;
    write_text(&ends[0], ", second");
    stream_flush(ends[0].stream);
    meddler->in_order = has(&ends[0], "first, second");
    stream_abort(ends[1].stream);
    stream_flush(ends[1].stream);
    write_text(&ends[2], ", second");
}

static void a_flush_at_once_keeps_the_order(void **state)
{
    struct end ends[5];
    struct meddler meddler = {.task.run = meddle, .ends = ends};
    struct loop *loop = loop_of(state);
    open_ends(loop, ends, 5);
    run(loop);
    for (unsigned i = 0; i < 5; i++)
        write_text(&ends[i], "first");
    loop_defer(loop, &meddler.task, LOOP_FLUSH);
    run(loop);
    assert_true(meddler.in_order);
    assert_int_equal(ends[1].closed, 1);
    assert_true(has(&ends[2], "first, second"));
    assert_true(has(&ends[3], "first") && has(&ends[4], "first"));
    close_ends(loop, ends, 5);
}

/* From now on these two system calls fail in this process. */
static void forbid(unsigned one, unsigned other)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, one, 1, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, other, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog filter = {sizeof code / sizeof code[0], code};
    CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    CHECK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) == 0);
}

enum { WITHOUT_SETUP, WITHOUT_ENTER, WITHOUT_SEND };

static bool arrives_without(int what)
{
    static struct end ends[MANY];
    struct loop *loop = loop_new();
    if (what == WITHOUT_SETUP) {
        forbid(SYS_io_uring_setup, SYS_io_uring_setup);
        CHECK(!loop_gather_sends(loop) && loop_sends(loop) == NULL);
    } else if (!loop_gather_sends(loop)) {
        return true;
    }
    open_ends(loop, ends, MANY);
    if (what == WITHOUT_ENTER)
        forbid(SYS_io_uring_enter, SYS_io_uring_enter);
    else if (what == WITHOUT_SEND)
        forbid(SYS_sendto, SYS_sendmsg);
    return all_arrive(loop, ends);
}

/* In a process of its own, since what is forbidden remains so. */
static void expect_arrival_without(int what)
{
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0)
        _exit(arrives_without(what) ? 0 : 1);
    int status = -1;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
}

static void without_io_uring_each_is_sent_by_itself(void **state)
{
    (void)state;
    expect_arrival_without(WITHOUT_SETUP);
}

static void a_ring_that_fails_is_given_up(void **state)
{
    (void)state;
    expect_arrival_without(WITHOUT_ENTER);
}

static void the_ring_does_all_the_sends(void **state)
{
    (void)state;
    expect_arrival_without(WITHOUT_SEND);
}

#define GATHERED(test) cmocka_unit_test_prestate(test, &gathered)

int main(void)
{
    static bool gathered;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_many_write_arrives),
        cmocka_unit_test(a_full_socket_gets_the_rest_later),
        cmocka_unit_test(ends_come_with_their_last_words),
        cmocka_unit_test(a_flush_at_once_keeps_the_order),
        GATHERED(what_many_write_arrives),
        GATHERED(a_full_socket_gets_the_rest_later),
        GATHERED(ends_come_with_their_last_words),
        GATHERED(a_flush_at_once_keeps_the_order),
        cmocka_unit_test(without_io_uring_each_is_sent_by_itself),
        cmocka_unit_test(a_ring_that_fails_is_given_up),
        cmocka_unit_test(the_ring_does_all_the_sends),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
