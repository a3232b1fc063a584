/* SPDX-License-Identifier: Apache-2.0 */
/* One thread behind a bounded queue: slow work is refused rather than piled up. */
#include "core/net/offload.h"

#include <pthread.h>
#include <signal.h>

#include "core/base/check.h"

/* At about 20 ms per password hash, more than five seconds of waiting would be a failed login
 * anyway. */
enum { QUEUE_MAX = 256 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static struct offload *first;
static struct offload **last = &first;
static unsigned count;
static bool is_open;
static pthread_t thread;

static struct offload *offload_next(void)
{
    pthread_mutex_lock(&lock);
    while (is_open && first == NULL)
        pthread_cond_wait(&changed, &lock);
    struct offload *offload = first;
    if (offload != NULL) {
        first = offload->next;
        if (first == NULL)
            last = &first;
        count--;
    }
    pthread_mutex_unlock(&lock);
    return offload;
}

static void *offload_thread(void *argument)
{
    (void)argument;
    pthread_setname_np(pthread_self(), "offload");
    struct offload *offload;
    while ((offload = offload_next()) != NULL)
        request_complete(&offload->request, offload->work(offload));
    return NULL;
}

void offload_open(void)
{
    if (is_open)
        return;
    is_open = true;
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    CHECK(pthread_create(&thread, NULL, offload_thread, NULL) == 0);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

/* What is queued is still worked on: every request completes. */
void offload_close(void)
{
    pthread_mutex_lock(&lock);
    bool was_open = is_open;
    is_open = false;
    pthread_cond_signal(&changed);
    pthread_mutex_unlock(&lock);
    if (was_open)
        pthread_join(thread, NULL);
}

void offload_run(struct offload *offload)
{
    pthread_mutex_lock(&lock);
    bool accepted = is_open && count < QUEUE_MAX;
    if (accepted) {
        offload->next = NULL;
        *last = offload;
        last = &offload->next;
        count++;
        pthread_cond_signal(&changed);
    }
    pthread_mutex_unlock(&lock);
    if (!accepted)
        request_complete(&offload->request, STATUS_BUSY);
}
