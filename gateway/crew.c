/* SPDX-License-Identifier: Apache-2.0 */
/* Errands are mails there and an eventfd back, so that one poll covers their end and the signals.
 */
#include "gateway/crew.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "core/base/check.h"

static int listen_to_signals(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    if (pthread_sigmask(SIG_BLOCK, &set, NULL) != 0)
        return -1;
    return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

enum status crew_open(struct crew *crew, unsigned count, bool signals, struct err *err)
{
    CHECK(count >= 1 && count <= LIMIT_WORKERS);
    *crew = (struct crew){.signal_fd = -1};
    crew->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (crew->wake_fd < 0 || (signals && (crew->signal_fd = listen_to_signals()) < 0))
        return err_set(err, STATUS_INTERNAL, "signals: %s", strerror(errno));
    for (; crew->count < count; crew->count++) {
        crew->workers[crew->count] = worker_new(crew->count);
        crew->loops[crew->count] = worker_loop(crew->workers[crew->count]);
    }
    return STATUS_OK;
}

void crew_start(struct crew *crew)
{
    for (unsigned i = 0; i < crew->count; i++)
        worker_start(crew->workers[i]);
}

void crew_stop(struct crew *crew)
{
    for (unsigned i = 0; i < crew->count; i++)
        worker_stop(crew->workers[i]);
}

void crew_close(struct crew *crew)
{
    for (unsigned i = 0; i < crew->count; i++)
        worker_free(crew->workers[i]);
    if (crew->wake_fd >= 0)
        close(crew->wake_fd);
    if (crew->signal_fd >= 0)
        close(crew->signal_fd);
    *crew = (struct crew){.wake_fd = -1, .signal_fd = -1};
}

/* ------------------------------------------------ errands */

static void errand_deliver(struct mail *mail)
{
    struct errand *errand = container_of(mail, struct errand, mail);
    errand->run(errand);
}

static void errand_completed(struct request *request, enum status status)
{
    errand_end(container_of(request, struct errand, request), status);
}

void errand_init(struct errand *errand, struct crew *crew, unsigned worker,
                 void (*run)(struct errand *))
{
    *errand = (struct errand){.crew = crew, .loop = crew->loops[worker], .run = run};
    errand->mail.deliver = errand_deliver;
    request_init(&errand->request, errand->loop, errand_completed);
}

void errand_end(struct errand *errand, enum status status)
{
    int wake_fd = errand->crew->wake_fd;
    errand->status = status;
    atomic_store(&errand->ended, true);
    uint64_t one = 1;
    ssize_t written = write(wake_fd, &one, sizeof one);
    (void)written; /* a full counter is a wake-up too */
}

/* ------------------------------------------------ waiting */

static void take_signals(struct crew *crew)
{
    struct signalfd_siginfo signal;
    while (read(crew->signal_fd, &signal, sizeof signal) == (ssize_t)sizeof signal) {
        if (signal.ssi_signo == SIGHUP)
            crew->reload_asked = true;
        else
            crew->stop_asked = true;
    }
}

static void wait_once(struct crew *crew)
{
    struct pollfd fds[2] = {{.fd = crew->wake_fd, .events = POLLIN},
                            {.fd = crew->signal_fd, .events = POLLIN}};
    if (poll(fds, 2, -1) < 0) {
        CHECK(errno == EINTR);
        return;
    }
    uint64_t count;
    if (fds[0].revents != 0)
        while (read(crew->wake_fd, &count, sizeof count) > 0)
            ;
    if (fds[1].revents != 0)
        take_signals(crew);
}

enum status errand_do(struct errand *errand, bool patient)
{
    struct crew *crew = errand->crew;
    mailbox_post(errand->loop, &errand->mail);
    while (!atomic_load(&errand->ended)) {
        if (!patient && crew->stop_asked)
            return STATUS_CANCELED;
        wait_once(crew);
    }
    return errand->status;
}

void crew_wait_for_signal(struct crew *crew)
{
    while (!crew->stop_asked && !crew->reload_asked)
        wait_once(crew);
}
