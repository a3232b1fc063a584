/* SPDX-License-Identifier: Apache-2.0 */
/* Publication of wills by a client of their own. */
#include "core/broker/will.h"

#include <stdio.h>

#include "core/base/heap.h"
#include "core/base/trace.h"
#include "core/broker/worker.h"

/* Who has gone, once more, for one record. */
struct last_words {
    struct client client;
    struct will_publish *publish;
};

static void last_words_end(struct last_words *words, enum status status)
{
    struct will_publish *publish = words->publish;
    client_close(&words->client);
    heap_free(words);
    request_complete(&publish->request, status);
}

static void answered(struct client *client, uint64_t token, enum status status, uint64_t partition,
                     uint64_t offset)
{
    (void)token;
    (void)partition;
    (void)offset;
    last_words_end(container_of(client, struct last_words, client), status);
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

static void say(struct last_words *words, struct stored_will *stored)
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

void will_publish(struct will_publish *publish)
{
    struct broker_worker *worker = publish->worker;
    struct stored_will *stored = heap_new(sizeof *stored);
    const struct principal *principal = NULL;
    bool is_will = will_decode(publish->row, stored);
    if (is_will && stored->user.size > 0)
        principal = catalog_principal_by_name(worker->catalog, publish->tenant, stored->user);
    if (!is_will || (stored->user.size > 0 && principal == NULL)) {
        trace(TRACE_INFO, "a will is dropped: %s", is_will ? "its user has gone" : "no such row");
        request_complete(&publish->request, is_will ? STATUS_DENIED : STATUS_MALFORMED);
    } else {
        struct last_words *words = heap_new(sizeof *words);
        words->publish = publish;
        client_init(&words->client, worker, &last_words_ops);
        client_speak_for(&words->client, publish->tenant, principal, publish->client_id);
        say(words, stored);
    }
    heap_free(stored);
}
