/* SPDX-License-Identifier: Apache-2.0 */
/* The loop: timers, deferred phases, mail between threads, requests, offloaded work. */
#include <pthread.h>
#include <semaphore.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "core/base/check.h"
#include "core/base/clock.h"
#include "core/base/heap.h"
#include "core/base/list.h"
#include "core/base/rng.h"
#include "core/net/loop_uv.h"
#include "core/net/offload.h"
#include "core/net/request.h"
#include "core/net/timer_heap.h"
#include "core/net/worker.h"

enum { TIMERS = 300 };

/* Random operations against the simplest model: look through all of them. */
static void timer_heap_agrees_with_a_naive_model(void **state)
{
    (void)state;
    rng_seed(3);
    struct timer_heap heap = {0};
    struct loop_timer timers[TIMERS] = {0};
    for (int step = 0; step < 5000; step++) {
        struct loop_timer *timer = &timers[rng_below(TIMERS)];
        switch (rng_below(4)) {
        case 0:
            timer_heap_remove(&heap, timer);
            assert_false(loop_timer_is_running(timer));
            break;
        case 1:
            if (timer_heap_first(&heap) != NULL)
                timer_heap_remove(&heap, timer_heap_first(&heap));
            break;
        default:
            timer_heap_put(&heap, timer, rng_below(1000));
            assert_true(loop_timer_is_running(timer));
        }
        const struct loop_timer *first = NULL;
        uint32_t running = 0;
        for (int i = 0; i < TIMERS; i++) {
            if (!loop_timer_is_running(&timers[i]))
                continue;
            running++;
            if (first == NULL || timers[i].due_ms < first->due_ms ||
                (timers[i].due_ms == first->due_ms && timers[i].order < first->order))
                first = &timers[i];
        }
        assert_ptr_equal(timer_heap_first(&heap), first);
        assert_int_equal(heap.count, running);
    }
    timer_heap_deinit(&heap);
}

/* What happened, in letters. */
struct diary {
    struct loop *loop;
    char text[64];
    size_t size;
};

static struct diary diary;

static void note(char letter)
{
    assert_true(diary.size < sizeof diary.text - 1);
    diary.text[diary.size++] = letter;
    diary.text[diary.size] = '\0';
}

static void diary_begin(void)
{
    diary = (struct diary){.loop = loop_new()};
}

static void diary_end(const char *expected)
{
    loop_free(diary.loop);
    assert_string_equal(diary.text, expected);
}

struct lettered_timer {
    struct loop_timer timer;
    char letter;
};

static void timer_notes(struct loop_timer *timer)
{
    note(container_of(timer, struct lettered_timer, timer)->letter);
}

static void timer_stops(struct loop_timer *timer)
{
    (void)timer;
    loop_stop(diary.loop);
}

static void timers_fire_in_order_and_never_early(void **state)
{
    (void)state;
    diary_begin();
    struct lettered_timer timers[4];
    for (int i = 0; i < 4; i++)
        timers[i] = (struct lettered_timer){.timer.fired = timer_notes, .letter = (char)('a' + i)};
    struct loop_timer end = {.fired = timer_stops};
    uint64_t begin_ms = clock_monotonic_ms();
    loop_timer_start(diary.loop, &timers[0].timer, 20);
    loop_timer_start(diary.loop, &timers[1].timer, 5);
    loop_timer_start(diary.loop, &timers[2].timer, 5);
    loop_timer_start(diary.loop, &timers[3].timer, 1);
    loop_timer_start(diary.loop, &end, 30);
    loop_timer_start(diary.loop, &timers[3].timer, 25);
    loop_timer_stop(diary.loop, &timers[2].timer);
    loop_timer_stop(diary.loop, &timers[2].timer);
    loop_run(diary.loop);
    assert_true(clock_monotonic_ms() - begin_ms >= 30);
    assert_false(loop_timer_is_running(&end));
    diary_end("bad");
}

static int restarts;

static void timer_restarts(struct loop_timer *timer)
{
    if (++restarts < 100)
        loop_timer_start(diary.loop, timer, 0);
    else
        loop_stop(diary.loop);
}

static void a_timer_of_no_delay_does_not_hang_the_loop(void **state)
{
    (void)state;
    diary_begin();
    restarts = 0;
    struct loop_timer timer = {.fired = timer_restarts};
    loop_timer_start(diary.loop, &timer, 0);
    loop_run(diary.loop);
    assert_int_equal(restarts, 100);
    diary_end("");
}

struct lettered_task {
    struct loop_task task;
    char letter;
    struct lettered_task *then;
    enum loop_phase then_phase;
};

static void task_notes(struct loop_task *task)
{
    struct lettered_task *self = container_of(task, struct lettered_task, task);
    note(self->letter);
    if (self->then != NULL)
        loop_defer(diary.loop, &self->then->task, self->then_phase);
}

static void work_runs_before_flushes_in_the_same_turn(void **state)
{
    (void)state;
    diary_begin();
    struct lettered_task tasks[6];
    for (int i = 0; i < 6; i++)
        tasks[i] = (struct lettered_task){.task.run = task_notes, .letter = (char)('a' + i)};
    /* a flushes; b, c, d work; b defers e as work; a defers f as work */
    tasks[1].then = &tasks[4];
    tasks[1].then_phase = LOOP_WORK;
    tasks[0].then = &tasks[5];
    tasks[0].then_phase = LOOP_WORK;
    struct loop_timer end = {.fired = timer_stops};
    loop_timer_start(diary.loop, &end, 10);
    loop_defer(diary.loop, &tasks[0].task, LOOP_FLUSH);
    loop_defer(diary.loop, &tasks[1].task, LOOP_WORK);
    loop_defer(diary.loop, &tasks[2].task, LOOP_WORK);
    loop_defer(diary.loop, &tasks[3].task, LOOP_WORK);
    loop_defer(diary.loop, &tasks[1].task, LOOP_WORK);
    loop_task_cancel(diary.loop, &tasks[3].task);
    loop_task_cancel(diary.loop, &tasks[3].task);
    loop_run(diary.loop);
    diary_end("bceaf");
}

static struct lettered_task *victims;

static void task_cancels(struct loop_task *task)
{
    (void)task;
    loop_task_cancel(diary.loop, &victims[2].task);
    loop_task_cancel(diary.loop, &victims[1].task);
    loop_defer(diary.loop, &victims[1].task, LOOP_WORK);
}

static void a_task_may_cancel_those_behind_it(void **state)
{
    (void)state;
    diary_begin();
    struct lettered_task tasks[3] = {0};
    victims = tasks;
    tasks[0].task.run = task_cancels;
    for (int i = 1; i < 3; i++)
        tasks[i] = (struct lettered_task){.task.run = task_notes, .letter = (char)('a' + i)};
    struct loop_timer end = {.fired = timer_stops};
    loop_timer_start(diary.loop, &end, 5);
    for (int i = 0; i < 3; i++)
        loop_defer(diary.loop, &tasks[i].task, LOOP_WORK);
    loop_run(diary.loop);
    diary_end("b");
}

static unsigned deferrals;

static void task_defers_itself(struct loop_task *task)
{
    deferrals++;
    loop_defer(diary.loop, task, LOOP_WORK);
}

static void a_task_that_defers_itself_does_not_starve_timers(void **state)
{
    (void)state;
    diary_begin();
    deferrals = 0;
    struct loop_task task = {.run = task_defers_itself};
    struct loop_timer end = {.fired = timer_stops};
    loop_timer_start(diary.loop, &end, 10);
    loop_defer(diary.loop, &task, LOOP_WORK);
    loop_run(diary.loop);
    assert_true(deferrals > 100);
    loop_task_cancel(diary.loop, &task);
    diary_end("");
}

enum { SENDERS = 3, MAILS = 2000 };

struct numbered_mail {
    struct mail mail;
    int sender, number;
};

struct sender {
    struct loop *to;
    int index;
    struct numbered_mail mails[MAILS];
};

static int received[SENDERS];
static int received_in_all;

static void mail_counts(struct mail *mail)
{
    struct numbered_mail *numbered = container_of(mail, struct numbered_mail, mail);
    assert_true(loop_is_home(diary.loop));
    assert_int_equal(received[numbered->sender]++, numbered->number);
    if (++received_in_all == SENDERS * MAILS)
        loop_stop(diary.loop);
}

static void *send_all(void *argument)
{
    struct sender *sender = argument;
    for (int i = 0; i < MAILS; i++) {
        sender->mails[i] = (struct numbered_mail){
            .mail.deliver = mail_counts, .sender = sender->index, .number = i};
        mailbox_post(sender->to, &sender->mails[i].mail);
    }
    return NULL;
}

static void mail_keeps_the_order_of_each_sender(void **state)
{
    (void)state;
    diary_begin();
    memset(received, 0, sizeof received);
    received_in_all = 0;
    struct sender *senders = heap_array(SENDERS, sizeof *senders);
    pthread_t threads[SENDERS];
    for (int i = 0; i < SENDERS; i++) {
        senders[i].to = diary.loop;
        senders[i].index = i;
        pthread_create(&threads[i], NULL, send_all, &senders[i]);
    }
    loop_run(diary.loop);
    for (int i = 0; i < SENDERS; i++)
        pthread_join(threads[i], NULL);
    heap_free(senders);
    assert_int_equal(received_in_all, SENDERS * MAILS);
    diary_end("");
}

/* Mails of a loop to itself, each of which posts the next one. */
enum { CHAIN = 1000, CHAIN_IN_A_TURN = 3 };
static struct chain {
    struct mail mail;
    struct loop *loop;
    struct loop_timer timer;
    int turns, delivered, first_turn, third_turn;
} chain;

static void chain_goes_on(struct mail *mail)
{
    chain.delivered++;
    if (chain.delivered == 1)
        chain.first_turn = chain.turns;
    if (chain.delivered == CHAIN_IN_A_TURN)
        chain.third_turn = chain.turns;
    if (chain.delivered < CHAIN)
        mailbox_post(chain.loop, mail);
    else
        loop_stop(chain.loop);
}

static void chain_begins(struct loop_timer *timer)
{
    if (chain.turns++ == 0)
        mailbox_post(chain.loop, &chain.mail);
    loop_timer_start(chain.loop, timer, 0);
}

static void a_chain_of_own_mails_is_short_in_a_turn(void **state)
{
    (void)state;
    chain = (struct chain){.loop = loop_new(), .mail.deliver = chain_goes_on};
    chain.timer.fired = chain_begins;
    loop_timer_start(chain.loop, &chain.timer, 0);
    loop_run(chain.loop);
    loop_free(chain.loop);
    assert_int_equal(chain.delivered, CHAIN);
    assert_int_equal(chain.third_turn, chain.first_turn);
    assert_in_range(chain.turns, CHAIN / CHAIN_IN_A_TURN, CHAIN);
}

/* Nobody wakes the loop for them: it must not sleep while one is there. */
static void own_mails_are_delivered_in_a_loop_that_has_nothing_else(void **state)
{
    (void)state;
    chain = (struct chain){.loop = loop_new(), .mail.deliver = chain_goes_on};
    mailbox_post(chain.loop, &chain.mail);
    loop_run(chain.loop);
    loop_free(chain.loop);
    assert_int_equal(chain.delivered, CHAIN);
}

/* A question that crosses to another worker's loop and comes back as a completed request. */
struct question {
    struct request request;
    struct mail mail;
    struct loop *other;
    int asked, answered;
};

static void question_done(struct request *request, enum status status)
{
    struct question *question = container_of(request, struct question, request);
    assert_true(loop_is_home(request->home));
    assert_int_equal(status, STATUS_NOT_FOUND);
    if (++question->answered == 100) {
        loop_stop(request->home);
        return;
    }
    mailbox_post(question->other, &question->mail);
}

static void question_delivered(struct mail *mail)
{
    struct question *question = container_of(mail, struct question, mail);
    /* cmocka's assertions belong to the main thread. */
    CHECK(loop_is_home(question->other));
    CHECK(!loop_is_home(question->request.home));
    question->asked++;
    request_complete(&question->request, STATUS_NOT_FOUND);
}

static void requests_complete_at_home(void **state)
{
    (void)state;
    struct worker *worker = worker_new(1);
    struct loop *home = loop_new();
    worker_start(worker);
    struct question question = {.other = worker_loop(worker), .mail.deliver = question_delivered};
    request_init(&question.request, home, question_done);
    mailbox_post(question.other, &question.mail);
    loop_run(home);
    worker_stop(worker);
    worker_stop(worker);
    worker_free(worker);
    loop_free(home);
    assert_int_equal(question.asked, 100);
    assert_int_equal(question.answered, 100);
}

static void a_worker_may_stop_before_it_has_begun(void **state)
{
    (void)state;
    for (int i = 0; i < 20; i++) {
        struct worker *worker = worker_new((unsigned)i);
        worker_start(worker);
        worker_stop(worker);
        worker_free(worker);
    }
    struct worker *worker = worker_new(99);
    worker_stop(worker);
    worker_free(worker);
    worker_free(NULL);
}

enum { JOBS = 400 };

static sem_t gate;
static int jobs_done, jobs_refused;

static enum status work_waits(struct offload *offload)
{
    (void)offload;
    sem_wait(&gate);
    return STATUS_DENIED;
}

static void job_done(struct request *request, enum status status)
{
    assert_true(status == STATUS_DENIED || status == STATUS_BUSY);
    jobs_refused += status == STATUS_BUSY;
    /* What was refused completes before the thread may begin. */
    if (status == STATUS_BUSY && jobs_refused == JOBS / 4)
        for (int i = 0; i < JOBS; i++)
            sem_post(&gate);
    if (++jobs_done == JOBS)
        loop_stop(request->home);
}

static void offload_is_bounded(void **state)
{
    (void)state;
    sem_init(&gate, 0, 0);
    offload_open();
    offload_open();
    struct loop *loop = loop_new();
    struct offload *jobs = heap_array(JOBS, sizeof *jobs);
    for (int i = 0; i < JOBS; i++) {
        request_init(&jobs[i].request, loop, job_done);
        jobs[i].work = work_waits;
        offload_run(&jobs[i]);
    }
    loop_run(loop);
    assert_in_range(jobs_refused, JOBS / 4, JOBS / 2);
    offload_close();
    offload_close();
    loop_free(loop);
    heap_free(jobs);
    sem_destroy(&gate);
}

enum { ENDS_PER_TURN = 256, END_TURNS = 200, ENDS = ENDS_PER_TURN * END_TURNS };

static struct ends {
    struct loop *loop;
    struct loop_timer timer;
    struct loop_leaving *leaving;
    int begun, finished, most_waiting, most_finished;
    int finished_before; /* this turn */
} ends;

static void an_end(struct loop_leaving *leaving)
{
    (void)leaving;
    ends.finished++;
}

static void more_ends(struct loop_timer *timer)
{
    int waiting = ends.begun - ends.finished, finished = ends.finished - ends.finished_before;
    ends.most_waiting = waiting > ends.most_waiting ? waiting : ends.most_waiting;
    ends.most_finished = finished > ends.most_finished ? finished : ends.most_finished;
    ends.finished_before = ends.finished;
    if (ends.begun == ENDS) {
        loop_stop(ends.loop);
        return;
    }
    for (int i = 0; i < ENDS_PER_TURN; i++) {
        struct loop_leaving *leaving = &ends.leaving[ends.begun++];
        leaving->finish = an_end;
        loop_leaving_over(ends.loop, leaving);
    }
    loop_timer_start(ends.loop, timer, 0);
}

/* Each of them holds a descriptor. */
static void ends_of_every_turn_are_spread_and_do_not_pile_up(void **state)
{
    (void)state;
    ends = (struct ends){.loop = loop_new(), .leaving = heap_array(ENDS, sizeof *ends.leaving)};
    ends.timer.fired = more_ends;
    loop_timer_start(ends.loop, &ends.timer, 0);
    loop_run(ends.loop);
    assert_in_range(ends.most_waiting, ENDS_PER_TURN / 2, 16 * ENDS_PER_TURN);
    assert_in_range(ends.most_finished, 1, ENDS_PER_TURN);
    loop_free(ends.loop);
    assert_int_equal(ends.finished, ENDS);
    heap_free(ends.leaving);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(timer_heap_agrees_with_a_naive_model),
        cmocka_unit_test(timers_fire_in_order_and_never_early),
        cmocka_unit_test(a_timer_of_no_delay_does_not_hang_the_loop),
        cmocka_unit_test(work_runs_before_flushes_in_the_same_turn),
        cmocka_unit_test(a_task_may_cancel_those_behind_it),
        cmocka_unit_test(a_task_that_defers_itself_does_not_starve_timers),
        cmocka_unit_test(mail_keeps_the_order_of_each_sender),
        cmocka_unit_test(a_chain_of_own_mails_is_short_in_a_turn),
        cmocka_unit_test(own_mails_are_delivered_in_a_loop_that_has_nothing_else),
        cmocka_unit_test(requests_complete_at_home),
        cmocka_unit_test(a_worker_may_stop_before_it_has_begun),
        cmocka_unit_test(offload_is_bounded),
        cmocka_unit_test(ends_of_every_turn_are_spread_and_do_not_pile_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
