/* SPDX-License-Identifier: Apache-2.0 */
/* Deliveries that somebody else may get if this client does not answer: what each outgoing
 * identifier stands for, and what an answer means. */
#include "adapters/mqtt/session.h"
#include "core/base/heap.h"
#include "core/base/limits.h"

void mqtt_lease_put(struct mqtt_session *session, uint16_t id, const struct mqtt_lease *lease)
{
    if (session->leases == NULL)
        session->leases = heap_array(mqtt_id_count(session), sizeof *session->leases);
    session->leases[id] = *lease;
}

struct mqtt_lease *mqtt_lease_at(struct mqtt_session *session, uint16_t id)
{
    return session->leases != NULL && id < mqtt_id_count(session) ? &session->leases[id] : NULL;
}

/* In ms, of a negative answer; what is no number asks for none. */
static uint32_t delay_of(const struct mqtt_ack *ack)
{
    struct span list = ack->properties.list;
    struct mqtt_pair pair;
    uint64_t delay_ms;
    while (mqtt_user_next(&list, &pair))
        if (span_is(pair.name, "delay") && mqtt_parse_number(pair.value, &delay_ms))
            return delay_ms < LIMIT_DELAY_MS ? (uint32_t)delay_ms : LIMIT_DELAY_MS;
    return 0;
}

void mqtt_lease_end(struct mqtt_session *session, uint16_t id, const struct mqtt_ack *ack)
{
    struct mqtt_lease *at = mqtt_lease_at(session, id);
    if (at == NULL)
        return;
    struct mqtt_lease lease = *at;
    *at = (struct mqtt_lease){0};
    if (lease.subscription != NULL) {
        broker_share_settled(lease.subscription, lease.number); /* also a refusal (4.8.2-6) */
    } else if (lease.queue != NULL) {
        enum settle_outcome outcome = ack->reason < MQTT_REASON_UNSPECIFIED ? SETTLE_DONE
                                      : ack->reason == MQTT_REASON_PAYLOAD_FORMAT_INVALID
                                          ? SETTLE_REJECTED
                                          : SETTLE_FAILED;
        mqtt_queue_settle(lease.queue, lease.number, outcome,
                          outcome == SETTLE_FAILED ? delay_of(ack) : 0);
    }
}

void mqtt_leases_free(struct mqtt_session *session)
{
    heap_free(session->leases);
    session->leases = NULL;
}
