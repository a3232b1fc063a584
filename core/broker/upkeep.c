/* SPDX-License-Identifier: Apache-2.0 */
/* What an operator does to a living house: purge a queue, copy the store. */
#include "core/broker/worker.h"

#include "core/base/heap.h"

/* ------------------------------------------------ purge */

/* One worker's groups look where the partitions begin now. */
struct look {
    struct mail mail;
    struct broker_worker *to;
    struct broker_purge *purge;
};

static void purge_end(struct broker_purge *purge, enum status status)
{
    purge->worker->calls--;
    heap_free(purge->parts);
    purge->request.done(&purge->request, status);
}

static void look_confirmed(struct mail *mail)
{
    struct look *look = container_of(mail, struct look, mail);
    struct broker_purge *purge = look->purge;
    heap_free(look);
    if (--purge->left == 0)
        purge_end(purge, purge->status);
}

/* A turn later: the groups have done what they were woken for. */
static void look_taken(struct mail *mail)
{
    struct look *look = container_of(mail, struct look, mail);
    look->mail.deliver = look_confirmed;
    mailbox_post(look->purge->worker->loop, &look->mail);
}

static void look_arrive(struct mail *mail)
{
    struct look *look = container_of(mail, struct look, mail);
    groups_look(look->to, look->purge->queue);
    look->mail.deliver = look_taken;
    mailbox_post(look->to->loop, &look->mail);
}

static void tell_groups(struct broker_purge *purge)
{
    struct broker *broker = purge->worker->broker;
    purge->left = broker->worker_count;
    for (unsigned i = 0; i < broker->worker_count; i++) {
        struct look *look = heap_new(sizeof *look);
        look->to = &broker->workers[i];
        look->purge = purge;
        look->mail.deliver = look_arrive;
        mailbox_post(look->to->loop, &look->mail);
    }
}

static void part_purged(struct request *request, enum status status)
{
    struct log_purge *part = container_of(request, struct log_purge, request);
    struct broker_purge *purge = part->context;
    purge->records += part->records;
    if (status != STATUS_OK)
        purge->status = status;
    if (--purge->left == 0)
        tell_groups(purge);
}

void broker_purge(struct broker_purge *purge)
{
    struct broker_worker *worker = purge->client->worker;
    CHECK(loop_is_home(worker->loop) && purge->request.home == worker->loop);
    const struct queue *queue = catalog_queue(worker->catalog, purge->queue);
    purge->records = 0;
    enum status status = worker->ending  ? STATUS_SHUTTING_DOWN
                         : queue == NULL ? STATUS_NOT_FOUND
                                         : broker_check(purge->client, ACTION_MANAGE, false,
                                                        span_from_text(queue->name));
    if (status != STATUS_OK) {
        request_complete(&purge->request, status);
        return;
    }
    worker->calls++;
    purge->worker = worker;
    purge->status = STATUS_OK;
    purge->left = queue->partition_count;
    purge->parts = heap_array(queue->partition_count, sizeof *purge->parts);
    for (uint32_t i = 0; i < queue->partition_count; i++) {
        struct log_purge *part = &purge->parts[i];
        request_init(&part->request, worker->loop, part_purged);
        part->partition = queue->first_partition + i;
        part->context = purge;
        log_purge(worker->log, part);
    }
}

/* ------------------------------------------------ backup */

static void backup_done(struct request *request, enum status status)
{
    struct broker_backup *backup = container_of(request, struct broker_backup, backup.request);
    backup->worker->calls--;
    backup->err = backup->backup.err;
    backup->request.done(&backup->request, status);
}

void broker_backup(struct broker_backup *backup)
{
    struct broker_worker *worker = backup->client->worker;
    struct storage *storage = worker->broker->storage;
    CHECK(loop_is_home(worker->loop) && backup->request.home == worker->loop);
    backup->err.text[0] = '\0';
    enum status status =
        worker->ending ? STATUS_SHUTTING_DOWN
                       : broker_check(backup->client, ACTION_MANAGE, false, span_from_text("*"));
    if (status == STATUS_OK && storage->ops->backup == NULL)
        status = err_set(&backup->err, STATUS_UNSUPPORTED,
                         "the engine %s keeps nothing that could be copied", storage->ops->name);
    if (status != STATUS_OK) {
        request_complete(&backup->request, status);
        return;
    }
    worker->calls++;
    backup->worker = worker;
    backup->backup.directory = backup->directory;
    backup->backup.err.text[0] = '\0';
    request_init(&backup->backup.request, worker->loop, backup_done);
    storage->ops->backup(storage, &backup->backup);
}
