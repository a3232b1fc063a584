/* SPDX-License-Identifier: Apache-2.0 */
/* Purge: all that is committed now goes, whoever has not done it. */
#include "core/base/check.h"
#include "core/log/partition.h"

static void purge_trimmed(struct request *request, enum status status)
{
    struct log_purge *purge = container_of(request, struct log_purge, trim.request);
    struct log_partition *partition = purge->at;
    worker_complete(partition->worker, &purge->request, status);
    partition_release(partition);
}

static void purge_start(struct log_partition *partition, struct log_purge *purge)
{
    struct storage *storage = partition->worker->log->storage;
    purge->at = partition;
    purge->records = partition->end - partition->start;
    partition->in_flight++;
    partition->start = partition->end;
    partition->start_bytes = partition->end_bytes;
    partition->first_time_ms = 0;
    tail_drop_below(partition, partition->start);
    /* Before the start moves: a group that sees the new start knows why. */
    atomic_store_explicit(&partition->stat->purged, partition->start, memory_order_release);
    partition_publish(partition);
    purge->trim = (struct storage_trim){
        .partition = partition->spec.id,
        .class = partition->spec.class,
        .new_start = partition->start,
    };
    request_init(&purge->trim.request, partition->worker->loop, purge_trimmed);
    storage->ops->trim(storage, &purge->trim);
}

static void purge_arrive(struct mail *mail)
{
    struct log_purge *purge = container_of(mail, struct log_purge, request.mail);
    CHECK(loop_is_home(purge->owner->loop));
    enum status status;
    struct log_partition *partition =
        partition_admit(purge->owner, purge->partition, &purge->request.mail, &status);
    if (status != STATUS_OK)
        request_complete(&purge->request, status);
    else if (partition != NULL)
        purge_start(partition, purge);
}

void log_purge(struct log_worker *from, struct log_purge *purge)
{
    CHECK(loop_is_home(from->loop));
    purge->records = 0;
    purge->owner = from->log->workers[log_owner(from->log, purge->partition)];
    purge->request.mail.deliver = purge_arrive;
    if (purge->owner == from)
        purge_arrive(&purge->request.mail);
    else
        mailbox_post(purge->owner->loop, &purge->request.mail);
}
