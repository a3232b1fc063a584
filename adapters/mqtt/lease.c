/* SPDX-License-Identifier: Apache-2.0 */
/* Deliveries that somebody else may get if this client does not answer: what each outgoing
 * identifier stands for. */
#include "adapters/mqtt/session.h"
#include "core/base/heap.h"

struct mqtt_lease {
    struct subscription *subscription; /* shared; NULL: nothing to settle */
    uint32_t number;
};

static struct mqtt_lease *lease_at(struct mqtt_session *session, uint16_t id)
{
    if (session->leases == NULL)
        session->leases = heap_array(session->client.credit_max + 1u, sizeof *session->leases);
    return &session->leases[id];
}

void mqtt_lease_shared(struct mqtt_session *session, uint16_t id, struct subscription *subscription)
{
    *lease_at(session, id) =
        (struct mqtt_lease){.subscription = subscription, .number = subscription->lease};
}

void mqtt_lease_end(struct mqtt_session *session, uint16_t id)
{
    struct mqtt_lease lease = session->leases[id];
    session->leases[id] = (struct mqtt_lease){0};
    if (lease.subscription != NULL)
        broker_share_settled(lease.subscription, lease.number);
}

void mqtt_leases_free(struct mqtt_session *session)
{
    heap_free(session->leases);
    session->leases = NULL;
}
