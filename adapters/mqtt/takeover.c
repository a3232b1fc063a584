/* SPDX-License-Identifier: Apache-2.0 */
/* One connection per client identifier: the newest (MQTT-3.1.4-3). The table is shared by all
 * workers and locked for a moment at CONNECT and at the end of a connection; what happens to the
 * older connection happens on its own worker. */
#include <pthread.h>

#include "adapters/mqtt/session.h"
#include "core/base/heap.h"
#include "core/base/map.h"

/* The name is held while mail is not posted; then the mail frees the claim. */
struct mqtt_claim {
    struct mail mail;
    struct loop *loop;
    struct mqtt_session *session; /* NULL once it has ended; used on its own loop only */
    bool replaced;
    struct span key; /* bytes below */
    uint8_t bytes[];
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct map claims;

static void replaced(struct mail *mail)
{
    struct mqtt_claim *claim = container_of(mail, struct mqtt_claim, mail);
    struct mqtt_session *session = claim->session;
    if (session != NULL) {
        session->claim = NULL;
        mqtt_end(session, MQTT_REASON_SESSION_TAKEN_OVER);
    }
    heap_free(claim);
}

void mqtt_claim_name(struct mqtt_session *session)
{
    struct span id = session->client.id;
    uint64_t tenant = session->client.tenant;
    struct mqtt_claim *claim = heap_new(sizeof *claim + sizeof tenant + id.size);
    claim->loop = broker_loop(session->client.worker);
    claim->session = session;
    claim->mail.deliver = replaced;
    memcpy(claim->bytes, &tenant, sizeof tenant);
    if (id.size > 0)
        memcpy(claim->bytes + sizeof tenant, id.data, id.size);
    claim->key = span_of(claim->bytes, sizeof tenant + id.size);
    session->claim = claim;

    pthread_mutex_lock(&lock);
    struct mqtt_claim *older = map_put(&claims, claim->key, claim);
    if (older != NULL) {
        older->replaced = true;
        mailbox_post(older->loop, &older->mail);
    }
    pthread_mutex_unlock(&lock);
}

void mqtt_give_name_back(struct mqtt_session *session)
{
    struct mqtt_claim *claim = session->claim;
    if (claim == NULL)
        return;
    session->claim = NULL;
    pthread_mutex_lock(&lock);
    bool held = !claim->replaced;
    if (held)
        map_remove(&claims, claim->key);
    else
        claim->session = NULL;
    pthread_mutex_unlock(&lock);
    if (held)
        heap_free(claim);
}
