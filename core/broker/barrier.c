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
    worker->fence = NULL;
    heap_free(fence);
}

static void barrier_turn(struct mail *mail)
{
    struct worker_fence *fence = container_of(mail, struct fence_mail, mail)->of;
    mail->deliver = barrier_return;
    mailbox_post(fence->from->loop, mail);
}

void worker_barrier(struct broker_worker *worker)
{
    const struct broker *broker = worker->broker;
    if (worker->fence != NULL || worker->synced <= worker->handled || broker->worker_count == 1)
        return;
    struct worker_fence *fence =
        heap_new(sizeof *fence + broker->worker_count * sizeof fence->mails[0]);
    fence->from = worker;
    fence->commit = worker->synced;
    fence->left = broker->worker_count - 1;
    worker->fence = fence;
    worker->calls++;
    for (unsigned i = 0; i < broker->worker_count; i++) {
        if (i == worker->index)
            continue;
        fence->mails[i].of = fence;
        fence->mails[i].mail.deliver = barrier_turn;
        mailbox_post(broker->workers[i].loop, &fence->mails[i].mail);
    }
}

/* Completions come in the order of their commits, as far as they waited for a sync. */
void worker_synced(struct broker_worker *worker, uint64_t commit)
{
    if (commit > worker->synced)
        worker->synced = commit;
    if (worker->broker->worker_count == 1)
        worker->handled = worker->synced;
}
