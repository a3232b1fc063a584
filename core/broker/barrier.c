/* SPDX-License-Identifier: Apache-2.0 */
/* How far this worker has seen everything: a mail to each other worker and back, behind which no
 * notice of what was committed before can be on its way. With one worker there is nothing to ask.
 */
#include "core/broker/worker.h"

#include "core/base/heap.h"

struct worker_fence {
    struct broker_worker *from;
    uint64_t commit;
    uint32_t left;
    void (*done)(void *context); /* NULL: nobody waits for it */
    void *context;
    struct fence_mail {
        struct mail mail;
        struct worker_fence *of;
    } mails[];
};

static void barrier_return(struct mail *mail)
{
    struct worker_fence *fence = container_of(mail, struct fence_mail, mail)->of;
    struct broker_worker *worker = fence->from;
    if (--fence->left > 0)
        return;
    if (fence->commit > worker->handled)
        worker->handled = fence->commit;
    worker->calls--;
    if (worker->fence == fence)
        worker->fence = NULL;
    if (fence->done != NULL)
        fence->done(fence->context);
    heap_free(fence);
}

static void barrier_turn(struct mail *mail)
{
    struct worker_fence *fence = container_of(mail, struct fence_mail, mail)->of;
    mail->deliver = barrier_return;
    mailbox_post(fence->from->loop, mail);
}

static struct worker_fence *ask_all(struct broker_worker *worker, void (*done)(void *context),
                                    void *context)
{
    const struct broker *broker = worker->broker;
    struct worker_fence *fence =
        heap_new(sizeof *fence + broker->worker_count * sizeof fence->mails[0]);
    fence->from = worker;
    fence->commit = worker->synced;
    fence->left = broker->worker_count - 1;
    fence->done = done;
    fence->context = context;
    worker->calls++;
    for (unsigned i = 0; i < broker->worker_count; i++) {
        if (i == worker->index)
            continue;
        fence->mails[i].of = fence;
        fence->mails[i].mail.deliver = barrier_turn;
        mailbox_post(broker->workers[i].loop, &fence->mails[i].mail);
    }
    return fence;
}

void worker_barrier(struct broker_worker *worker)
{
    if (worker->fence != NULL || worker->synced <= worker->handled ||
        worker->broker->worker_count == 1)
        return;
    worker->fence = ask_all(worker, NULL, NULL);
}

void worker_after_notices(struct broker_worker *worker, void (*done)(void *context), void *context)
{
    if (worker->broker->worker_count == 1)
        done(context);
    else
        ask_all(worker, done, context);
}

/* Completions come in the order of their commits, as far as they waited for a sync. */
void worker_synced(struct broker_worker *worker, uint64_t commit)
{
    if (commit > worker->synced)
        worker->synced = commit;
    if (worker->broker->worker_count == 1)
        worker->handled = worker->synced;
}
