/* SPDX-License-Identifier: Apache-2.0 */
/* Changes of the catalog. Worker 0 takes those that wait, some at a time: checks each against the
 * snapshot that those before it have made, stores the rows of all, hands that snapshot to every
 * worker, and answers when all of them have taken it in. */
#include "core/broker/change.h"
#include "core/broker/worker.h"

#include "core/base/heap.h"

enum { TOGETHER = 1500 }; /* changes and their rows */

/* ------------------------------------------------ from beginning to end, on worker 0 */

/* Changes that go together: stored in one write, all or none, and handed out as one snapshot, so
 * that who asks for many keeps nobody waiting for long. */
struct changes {
    struct broker *broker;
    struct list admins;
    uint32_t size; /* of TOGETHER */
    struct log_rows write;
    struct catalog *next;
    unsigned confirms;
};

static void changes_begin(struct broker *broker);

static void admin_end(struct broker_admin *admin, enum status status)
{
    for (unsigned i = 0; i < 4; i++)
        buf_deinit(&admin->buffers[i]);
    heap_free(admin->many);
    admin->many = NULL;
    principal_unref(admin->principal);
    admin->principal = NULL;
    if (status != STATUS_OK) {
        queue_unref(admin->queue);
        group_spec_unref(admin->group);
        admin->queue = NULL;
        admin->group = NULL;
    }
    request_complete(&admin->request, status);
}

static void changes_free(struct changes *changes)
{
    catalog_unref(changes->next);
    heap_free(changes->write.rows);
    heap_free(changes);
}

/* What was refused may have been because of one before it, so it shares what becomes of that. */
static void changes_end(struct changes *changes, enum status status)
{
    struct broker *broker = changes->broker;
    struct link *link;
    while ((link = list_pop(&changes->admins)) != NULL) {
        struct broker_admin *admin = container_of(link, struct broker_admin, link);
        if (status != STATUS_OK)
            err_set(&admin->err, status, "the change could not be stored: %s", status_text(status));
        admin_end(admin, status != STATUS_OK ? status : admin->outcome);
    }
    changes_free(changes);
    broker->changing = false;
    changes_begin(broker);
}

/* A snapshot on its way to one worker and back. */
struct handout {
    struct mail mail;
    struct broker_worker *to;
    struct changes *changes;
    struct catalog *catalog;
};

static void handout_confirm(struct mail *mail)
{
    struct handout *handout = container_of(mail, struct handout, mail);
    struct changes *changes = handout->changes;
    heap_free(handout);
    if (--changes->confirms == 0)
        changes_end(changes, STATUS_OK);
}

static void handout_deliver(struct mail *mail)
{
    struct handout *handout = container_of(mail, struct handout, mail);
    administer_apply(handout->to, handout->catalog);
    handout->mail.deliver = handout_confirm;
    mailbox_post(handout->to->broker->workers[0].loop, &handout->mail);
}

static void changes_stored(struct request *request, enum status status)
{
    struct changes *changes = container_of(request, struct changes, write.request);
    struct broker *broker = changes->broker;
    if (status != STATUS_OK) {
        changes_end(changes, status);
        return;
    }
    changes->confirms = broker->worker_count;
    for (unsigned i = 0; i < broker->worker_count; i++) {
        struct handout *handout = heap_new(sizeof *handout);
        handout->to = &broker->workers[i];
        handout->changes = changes;
        handout->catalog = catalog_ref(changes->next);
        handout->mail.deliver = handout_deliver;
        mailbox_post(handout->to->loop, &handout->mail);
    }
}

/* One that is refused before anything was changed ends at once. */
static void changes_take(struct changes *changes, struct broker_admin *admin)
{
    admin->outcome = change_make(changes->broker, admin, changes->next);
    if (admin->outcome != STATUS_OK && changes->size == 0) {
        admin_end(admin, admin->outcome);
        return;
    }
    list_push(&changes->admins, &admin->link);
    uint32_t rows = admin->outcome == STATUS_OK ? admin->row_count : 0;
    changes->size += 1 + rows;
    changes->write.row_count += rows;
}

static void changes_store(struct changes *changes)
{
    struct broker *broker = changes->broker;
    struct log_rows *write = &changes->write;
    write->rows = heap_array(write->row_count, sizeof *write->rows);
    uint32_t count = 0;
    list_each(link, &changes->admins)
    {
        const struct broker_admin *admin = container_of(link, struct broker_admin, link);
        const struct storage_row *rows = admin->many != NULL ? admin->many : admin->row;
        for (uint32_t i = 0; admin->outcome == STATUS_OK && i < admin->row_count; i++)
            write->rows[count++] = rows[i];
    }
    request_init(&write->request, broker->workers[0].loop, changes_stored);
    write->append.durability = DURABLE_SYNC;
    log_rows_write(broker->log, write);
}

/* What can be made of what waits is on its way to storage on return. */
static void changes_begin(struct broker *broker)
{
    if (broker->changing || list_is_empty(&broker->changes))
        return;
    struct changes *changes = heap_new(sizeof *changes);
    changes->broker = broker;
    changes->next = catalog_next(broker->workers[0].catalog);
    list_init(&changes->admins);
    struct link *link;
    while (changes->size < TOGETHER && (link = list_pop(&broker->changes)) != NULL)
        changes_take(changes, container_of(link, struct broker_admin, link));
    broker->changing = changes->size > 0;
    if (broker->changing)
        changes_store(changes);
    else
        changes_free(changes);
}

static void admin_arrive(struct mail *mail)
{
    struct broker_admin *admin = container_of(mail, struct broker_admin, request.mail);
    struct broker *broker = admin->worker->broker;
    list_push(&broker->changes, &admin->link);
    changes_begin(broker);
}

/* ------------------------------------------------ the call, on the client's worker */

static enum status password_work(struct offload *offload)
{
    struct broker_admin *admin = container_of(offload, struct broker_admin, offload);
    return principal_set_password(admin->principal, admin->password);
}

/* Back at the client's loop. */
static void admin_done(struct request *request, enum status status)
{
    struct broker_admin *admin = container_of(request, struct broker_admin, request);
    admin->worker->calls--;
    request->done = admin->done;
    request->done(request, status);
}

static void admin_send(struct broker_admin *admin)
{
    admin->request.mail.deliver = admin_arrive;
    mailbox_post(admin->worker->broker->workers[0].loop, &admin->request.mail);
}

static void password_done(struct request *request, enum status status)
{
    struct broker_admin *admin = container_of(request, struct broker_admin, offload.request);
    if (status == STATUS_OK) {
        admin_send(admin);
        return;
    }
    principal_unref(admin->principal);
    admin->principal = NULL;
    request_complete(&admin->request, status);
}

/* Queues and groups are managed by their queue's name, routes by their filter and what may be done
 * to their queue, users by whoever may manage all. */
static enum status may_manage(const struct broker_admin *admin)
{
    const struct client *client = admin->client;
    const struct catalog *catalog = client->worker->catalog;
    switch (admin->action) {
    case ADMIN_QUEUE_CREATE:
        return broker_check(client, ACTION_MANAGE, false, admin->name);
    case ADMIN_QUEUE_CHANGE:
    case ADMIN_QUEUE_DELETE:
    case ADMIN_GROUP_CREATE:
    case ADMIN_GROUP_CHANGE:
    case ADMIN_GROUP_DELETE: {
        bool by_group = admin->action == ADMIN_GROUP_CHANGE || admin->action == ADMIN_GROUP_DELETE;
        const struct group_spec *group = by_group ? catalog_group(catalog, admin->id) : NULL;
        const struct queue *queue =
            catalog_queue(catalog, group != NULL ? group->queue : admin->id);
        bool by_use = admin->action == ADMIN_GROUP_CREATE && admin->by_use;
        return queue == NULL ? STATUS_NOT_FOUND
                             : broker_check(client, by_use ? ACTION_CONSUME : ACTION_MANAGE, false,
                                            span_from_text(queue->name));
    }
    case ADMIN_ROUTE_SET: { /* what it brings is published to the queue */
        const struct queue *queue = catalog_queue(catalog, admin->id);
        enum status status = broker_check(client, ACTION_MANAGE, true, admin->name);
        if (status != STATUS_OK || queue == NULL)
            return status;
        struct span name = span_from_text(queue->name);
        return broker_check(client, ACTION_MANAGE, false, name) == STATUS_OK
                   ? STATUS_OK
                   : broker_check(client, ACTION_PUBLISH, false, name);
    }
    case ADMIN_ROUTE_DELETE:
        return broker_check(client, ACTION_MANAGE, true, admin->name);
    case ADMIN_USER_SET:
    case ADMIN_USER_DELETE:
    case ADMIN_GRANTS_SET:
    case ADMIN_KEY_CREATE:
    case ADMIN_KEY_DELETE:
        return broker_check(client, ACTION_MANAGE, false, span_from_text("*"));
    }
    return STATUS_INVALID;
}

static enum status user_is_valid(struct broker_admin *admin)
{
    if (admin->name.size == 0 || admin->name.size > LIMIT_USER_NAME)
        return err_set(&admin->err, STATUS_INVALID, "a user's name is 1 to %u characters",
                       LIMIT_USER_NAME);
    for (size_t i = 0; i < admin->name.size; i++)
        if (admin->name.data[i] <= ' ' || strchr("/:+#*%", admin->name.data[i]) != NULL ||
            admin->name.data[i] == 0x7f)
            return err_set(&admin->err, STATUS_INVALID,
                           "a user's name has no blank and none of / : + # * %%");
    if (admin->password.size == 0 || admin->password.size > LIMIT_PASSWORD)
        return err_set(&admin->err, STATUS_INVALID, "a password is 1 to %u bytes", LIMIT_PASSWORD);
    return STATUS_OK;
}

static void admin_init(struct broker_admin *admin)
{
    admin->err.text[0] = '\0';
    for (unsigned i = 0; i < 4; i++)
        buf_init(&admin->buffers[i], 0);
    admin->many = NULL;
    admin->principal = NULL;
    admin->queue = NULL;
    admin->group = NULL;
}

static void admin_begin(struct broker_worker *worker, struct broker_admin *admin)
{
    admin->worker = worker;
    admin->done = admin->request.done;
    admin->request.done = admin_done;
    worker->calls++;
}

void administer_self(struct broker_worker *worker, struct broker_admin *admin)
{
    CHECK(loop_is_home(worker->loop) && admin->request.home == worker->loop);
    admin_init(admin);
    admin_begin(worker, admin);
    admin_send(admin);
}

struct self_delete {
    struct broker_admin admin;
    void (*done)(struct broker_admin *admin, void *context, enum status status);
    void *context;
};

static void self_deleted(struct request *request, enum status status)
{
    struct broker_admin *admin = container_of(request, struct broker_admin, request);
    struct self_delete *deletion = container_of(admin, struct self_delete, admin);
    deletion->done(admin, deletion->context, status);
    heap_free(deletion);
}

void administer_self_delete(struct broker_worker *worker, const struct broker_admin *admin,
                            void (*done)(struct broker_admin *admin, void *context,
                                         enum status status),
                            void *context)
{
    struct self_delete *deletion = heap_new(sizeof *deletion);
    deletion->admin = *admin;
    deletion->done = done;
    deletion->context = context;
    request_init(&deletion->admin.request, worker->loop, self_deleted);
    administer_self(worker, &deletion->admin);
}

void broker_administer(struct broker_admin *admin)
{
    struct broker_worker *worker = admin->client->worker;
    CHECK(loop_is_home(worker->loop) && admin->request.home == worker->loop);
    admin_init(admin);
    enum status status = worker->ending ? STATUS_SHUTTING_DOWN : may_manage(admin);
    if (status == STATUS_OK && admin->action == ADMIN_USER_SET)
        status = user_is_valid(admin);
    if (status != STATUS_OK) {
        request_complete(&admin->request, status);
        return;
    }
    admin_begin(worker, admin);
    if (admin->action != ADMIN_USER_SET) {
        admin_send(admin);
        return;
    }
    admin->principal = heap_new(sizeof *admin->principal);
    atomic_init(&admin->principal->refs, 1);
    request_init(&admin->offload.request, worker->loop, password_done);
    admin->offload.work = password_work;
    offload_run(&admin->offload);
}

/* ------------------------------------------------ a worker takes a snapshot in */

static struct partition_spec spec_of(const struct queue *queue, uint32_t index)
{
    return (struct partition_spec){
        .id = queue->first_partition + index,
        .class = queue->class,
        .durability = queue->durability,
        .retention_ms = queue->retention_ms,
        .retention_bytes = queue->retention_bytes,
        .retention_records = queue->max_records,
        .protect_bytes = queue->protect_bytes,
        .refuse = queue->overflow == OVERFLOW_REFUSE,
        .siblings = queue->stat->partitions,
        .sibling_count = queue->partition_count,
    };
}

static void open_partitions(struct broker_worker *worker, const struct queue *queue)
{
    for (uint32_t i = 0; i < queue->partition_count; i++) {
        struct partition_spec spec = spec_of(queue, i);
        if (log_owner(worker->broker->log, spec.id) == worker->index)
            log_partition_open(worker->log, &spec, &queue->stat->partitions[i]);
    }
}

/* Retention, limits or policy of a living queue. */
static void change_queue(struct broker_worker *worker, const struct queue *queue)
{
    for (uint32_t i = 0; i < queue->partition_count; i++) {
        struct partition_spec spec = spec_of(queue, i);
        if (log_owner(worker->broker->log, spec.id) == worker->index)
            log_partition_limit(worker->log, &spec);
    }
    deduped_change(worker, queue);
    groups_change(worker, queue);
}

static void open_group(struct broker_worker *worker, const struct queue *queue,
                       const struct group_spec *group)
{
    struct partition_spec spec = {
        .id = group->dead_partition,
        .class = STORAGE_3_DAYS,
        .durability = queue->durability,
        .retention_ms = DEAD_RETENTION_HOURS * 60ULL * 60 * 1000,
    };
    if (spec.id != 0 && log_owner(worker->broker->log, spec.id) == worker->index)
        log_partition_open(worker->log, &spec, &group->stat->dead_letters);
    groups_open(worker, queue, group);
}

static void close_group(struct broker_worker *worker, const struct group_spec *group)
{
    groups_close(worker, group->id, true);
    uint64_t dead = group->dead_partition;
    if (dead != 0 && log_owner(worker->broker->log, dead) == worker->index)
        log_partition_close(worker->log, dead, true);
}

static void close_partitions(struct broker_worker *worker, const struct queue *queue)
{
    for (uint32_t i = 0; i < queue->partition_count; i++)
        if (log_owner(worker->broker->log, queue->first_partition + i) == worker->index)
            log_partition_close(worker->log, queue->first_partition + i, true);
}

static void forget_queue(struct broker_worker *worker, const struct queue *queue)
{
    close_partitions(worker, queue);
    publish_forget(worker, queue);
    delayed_forget(worker, queue);
    deduped_forget(worker, queue);
    deliver_forget(worker, queue);
    follow_forget(worker, queue);
}

/* Groups go before their queues, and come after them. */
static void apply_queues(struct broker_worker *worker, const struct catalog *old,
                         const struct catalog *new)
{
    const struct group_spec *group, *group_before;
    const struct queue *queue, *queue_before;
    for (struct section_step at = {0};
         catalog_group_difference(old, new, &at, &group_before, &group);)
        if (group == NULL)
            close_group(worker, group_before);
    for (struct section_step at = {0};
         catalog_queue_difference(old, new, &at, &queue_before, &queue);)
        if (queue == NULL)
            forget_queue(worker, queue_before);
        else if (queue_before == NULL)
            open_partitions(worker, queue);
        else
            change_queue(worker, queue);
    for (struct section_step at = {0};
         catalog_group_difference(old, new, &at, &group_before, &group);)
        if (group_before == NULL)
            open_group(worker, catalog_queue(new, group->queue), group);
        else if (group != NULL)
            groups_describe(worker, group);
}

static void apply_principal(struct client *client, const struct catalog *old,
                            const struct catalog *new)
{
    const struct principal *principal =
        client->principal == NULL ? NULL : catalog_principal(new, client->principal->id);
    bool withdrawn = client->pass != NULL && principal != NULL &&
                     strcmp(principal->hash, client->principal->hash) != 0;
    if (client->principal == NULL ? catalog_is_protected(old) && !catalog_is_protected(new)
                                  : principal == NULL || withdrawn) {
        client_put_out(client);
        return;
    }
    if (principal == client->principal)
        return;
    principal_unref(client->principal);
    client->principal = principal_ref(principal);
    subscribe_recheck(client);
}

/* Rights may have changed: who has gone is sent away, what is no longer allowed ends. One that goes
 * may take others along, so each is put back before its turn. */
static void apply_principals(struct broker_worker *worker, const struct catalog *old,
                             const struct catalog *new)
{
    struct list left;
    list_init(&left);
    struct link *link;
    while ((link = list_pop(&worker->clients)) != NULL)
        list_push(&left, link);
    while ((link = list_pop(&left)) != NULL) {
        struct client *client = container_of(link, struct client, link);
        list_push(&worker->clients, link);
        if (client->open)
            apply_principal(client, old, new);
    }
}

void administer_apply(struct broker_worker *worker, struct catalog *catalog)
{
    CHECK(loop_is_home(worker->loop));
    struct catalog *old = worker->catalog;
    bool principals = catalog_principals_differ(old, catalog);
    bool routes = catalog_routes_differ(old, catalog);
    if (routes)
        publish_reroute(worker);
    worker->catalog = catalog;
    apply_queues(worker, old, catalog);
    if (principals)
        apply_principals(worker, old, catalog);
    if (principals || routes || catalog_groups_differ(old, catalog))
        follow_recheck(worker, routes);
    catalog_unref(old);
}
