/* SPDX-License-Identifier: Apache-2.0 */
/* What is kept under a name does not end while the name is held: by clients of which nothing is
 * kept, but which use what is. Without a session of theirs there is nothing to tell whether they
 * are there, so its row says that it has not ended, and a crash ends it as any other. When the last
 * of them has gone a due row has the sweep end it: its time begins. */
#include "core/broker/session.h"

#include "core/base/heap.h"

struct broker_hold {
    struct broker_worker *worker;
    struct session_name name;
    struct span text; /* bytes are its own */
    struct log_rows write;
    struct storage_row row;
    uint8_t key[SESSION_DUE_KEY];
};

struct broker_hold *broker_session_hold(struct client *client)
{
    const struct session *session = client->session;
    if (!session_is_kept(client) || session->expiry_s == UINT32_MAX)
        return NULL;
    struct broker_hold *hold = heap_new(sizeof *hold);
    hold->worker = session->worker;
    hold->name = session->name;
    hold->text = span_of(heap_text((const char *)session->text.data, session->text.size),
                         session->text.size);
    name_hold(&session->worker->broker->names, session->name.tenant, hold->text);
    return hold;
}

static void hold_free(struct broker_hold *hold)
{
    heap_free((void *)(uintptr_t)hold->text.data);
    heap_free(hold);
}

static void told(struct request *request, enum status status)
{
    struct broker_hold *hold = container_of(request, struct broker_hold, write.request);
    if (status != STATUS_OK)
        atomic_store(&hold->worker->broker->ends_missing, true);
    hold->worker->calls--;
    hold_free(hold);
}

void broker_session_release(struct broker_hold *hold)
{
    if (hold == NULL)
        return;
    struct broker_worker *worker = hold->worker;
    if (!name_unhold(&worker->broker->names, hold->name.tenant, hold->text)) {
        hold_free(hold);
        return;
    }
    session_due_key((uint64_t)clock_wall_ms(), &hold->name, hold->key);
    hold->row = (struct storage_row){.change = STORAGE_PUT,
                                     .key = span_of(hold->key, sizeof hold->key),
                                     .value = span_of("\1", 1),
                                     .offset_at = -1};
    hold->write = (struct log_rows){.rows = &hold->row, .row_count = 1};
    hold->write.append.durability = DURABLE_INTERVAL; /* a crash ends it anyway */
    request_init(&hold->write.request, worker->loop, told);
    worker->calls++;
    log_rows_write(worker->broker->log, &hold->write);
}
