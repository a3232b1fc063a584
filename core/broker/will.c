/* SPDX-License-Identifier: Apache-2.0 */
/* Publication of wills by a client of their own. */
#include "core/broker/will.h"

#include <stdio.h>

#include "core/base/heap.h"
#include "core/base/trace.h"
#include "core/broker/will_wait.h"
#include "core/broker/worker.h"

/* Who has gone, once more, for one record. */
struct last_words {
    struct client client;
    struct will_say *say;
};

void will_drop(struct broker_worker *worker, struct span client_id, const char *why)
{
    metric_add(worker->broker->metrics.dropped_will, 1);
    trace(TRACE_WARN, "the will of %.*s is dropped: %s",
          (int)(client_id.size < 64 ? client_id.size : 64), (const char *)client_id.data, why);
}

void will_drop_late(struct broker_worker *worker, struct span client_id)
{
    metric_add(worker->broker->metrics.dropped_will, 1);
    trace(TRACE_INFO, "the will of %.*s is dropped: its client is back",
          (int)(client_id.size < 64 ? client_id.size : 64), (const char *)client_id.data);
}

static void answered(struct client *client, uint64_t token, enum status status, uint64_t partition,
                     uint64_t offset)
{
    struct last_words *words = container_of(client, struct last_words, client);
    struct will_say *say = words->say;
    (void)token;
    (void)partition;
    (void)offset;
    client_close(client);
    heap_free(words);
    request_complete(&say->request, status);
}

static void resume(struct client *client)
{
    (void)client;
}

/* Its answer comes nevertheless. */
static void end(struct client *client, enum status why)
{
    (void)client;
    (void)why;
}

static const struct client_ops last_words_ops = {
    .protocol = "will",
    .answered = answered,
    .resume = resume,
    .end = end,
};

static void publish(struct last_words *words, struct stored_will *stored)
{
    struct publish *publish = &stored->will.publish;
    char expires[24];
    publish->answer = true;
    if (stored->will.expiry_ms > 0) { /* counts from its publication */
        publish->expires_at_ms =
            worker_wall_ms(words->client.worker) + (int64_t)stored->will.expiry_ms;
        snprintf(expires, sizeof expires, "%lld", (long long)publish->expires_at_ms);
        stored->headers[publish->header_count++] =
            (struct header){span_from_text(HEADER_EXPIRES_AT), span_from_text(expires)};
    }
    broker_publish(&words->client, publish);
}

/* False: it is to go to a queue that is not there. */
static bool find_queue(const struct broker_worker *worker, uint64_t tenant,
                       struct broker_will *will)
{
    if (will->queue.size == 0)
        return true;
    will->publish.queue = catalog_queue_by_text(worker->catalog, tenant, will->queue);
    return will->publish.queue != NULL;
}

void will_say(struct will_say *say)
{
    struct broker_worker *worker = say->worker;
    struct stored_will *stored = heap_new(sizeof *stored);
    const struct principal *principal = NULL;
    bool is_will = will_decode(say->row, stored);
    if (is_will && stored->user.size > 0)
        principal = catalog_principal_by_name(worker->catalog, say->tenant, stored->user);
    if (!is_will || (stored->user.size > 0 && principal == NULL)) {
        request_complete(&say->request, is_will ? STATUS_DENIED : STATUS_MALFORMED);
    } else if (!find_queue(worker, say->tenant, &stored->will)) {
        request_complete(&say->request, STATUS_NOT_FOUND);
    } else {
        struct last_words *words = heap_new(sizeof *words);
        words->say = say;
        client_init(&words->client, worker, &last_words_ops);
        client_speak_for(&words->client, say->tenant, principal, say->client_id);
        publish(words, stored);
    }
    heap_free(stored);
}

/* ------------------------------------------------ now or later */

static void kept_for_later(struct request *request, enum status status)
{
    struct will_publish *publish = container_of(request, struct will_publish, say.request);
    will_later_free(publish->later);
    if (status != STATUS_OK && !publish->has_row)
        will_drop(publish->say.worker, publish->say.client_id, status_text(status));
    request_complete(&publish->request, status);
}

static void said(struct request *request, enum status status)
{
    struct will_publish *publish = container_of(request, struct will_publish, say.request);
    if (!will_is_crowded_out(status) && (!will_waits(status) || publish->has_row)) {
        if (will_is_lost(status) && !publish->has_row)
            will_drop(publish->say.worker, publish->say.client_id, status_text(status));
        request_complete(&publish->request, status);
        return;
    }
    request_init(&publish->say.request, publish->say.worker->loop, kept_for_later);
    publish->later = will_later(&publish->say);
}

void will_publish(struct will_publish *publish)
{
    request_init(&publish->say.request, publish->say.worker->loop, said);
    will_say(&publish->say);
}
