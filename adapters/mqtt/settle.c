/* SPDX-License-Identifier: Apache-2.0 */
/* What is published to $queue/Q/$nack and $queue/Q/$extend: settlements by the packet identifier of
 * a delivery of this connection, or by a receipt of any. They are answered when they are durable.
 */
#include "adapters/mqtt/session.h"
#include "core/base/heap.h"
#include "core/base/limits.h"

/* An answer that a settlement owes. */
struct mqtt_settling {
    struct link link; /* the session's; not of one by receipt */
    bool is_owed;
    struct owed_answer owed;
    struct group_settle settle; /* by receipt */
    struct receipt receipt;
    enum status result;
};

static struct mqtt_settling *settling_new(struct mqtt_session *session,
                                          const struct publish *publish)
{
    struct mqtt_settling *settling = heap_new(sizeof *settling);
    link_init(&settling->link);
    settling->is_owed = publish->answer;
    if (publish->answer)
        settling->owed = broker_owe(&session->client, publish->token);
    return settling;
}

void mqtt_settling_done(struct mqtt_settling *settling, enum status status)
{
    link_remove(&settling->link);
    if (settling->is_owed)
        broker_give(settling->owed, status);
    heap_free(settling);
}

void mqtt_settlings_close(struct mqtt_session *session)
{
    struct link *link;
    while ((link = list_first(&session->settlings)) != NULL)
        mqtt_settling_done(container_of(link, struct mqtt_settling, link), STATUS_CANCELED);
}

static void settled(struct request *request, enum status status)
{
    struct mqtt_settling *settling = container_of(request, struct mqtt_settling, settle.request);
    mqtt_settling_done(settling, status != STATUS_OK ? status : settling->result);
}

static enum status by_receipt(struct mqtt_session *session, enum mqtt_address_kind kind,
                              const struct mqtt_settlement *asked, const struct publish *publish)
{
    struct receipt receipt;
    if (!receipt_parse(asked->receipt, &receipt))
        return STATUS_MALFORMED;
    const struct group_spec *group =
        catalog_group(broker_catalog(session->client.worker), receipt.group);
    if (group == NULL || group->queue != publish->queue->id)
        return STATUS_STALE;
    struct mqtt_settling *settling = settling_new(session, publish);
    bool nack = kind == MQTT_ADDRESS_NACK;
    settling->receipt = receipt;
    settling->settle = (struct group_settle){
        .receipts = &settling->receipt,
        .count = 1,
        .results = &settling->result,
        .outcome = nack ? SETTLE_FAILED : SETTLE_RENEWED,
        .delay_ms = nack ? asked->ms : 0,
        .lease_ms = nack || !asked->has_ms ? 0 : asked->ms,
    };
    request_init(&settling->settle.request, broker_loop(session->client.worker), settled);
    broker_settle(&session->client, group, &settling->settle);
    return STATUS_OK;
}

static enum status by_identifier(struct mqtt_session *session, enum mqtt_address_kind kind,
                                 const struct mqtt_settlement *asked, const struct publish *publish)
{
    struct mqtt_lease *at = mqtt_lease_at(session, asked->packet_id);
    if (at == NULL || at->queue == NULL || !mqtt_queue_is_of(at->queue, publish->queue->id))
        return STATUS_STALE;
    struct mqtt_lease lease = *at;
    if (kind == MQTT_ADDRESS_NACK)
        *at = (struct mqtt_lease){0}; /* the identifier is in use until it is answered */
    struct mqtt_settling *settling = settling_new(session, publish);
    list_push(&session->settlings, &settling->link);
    mqtt_queue_settle_asked(lease.queue, lease.number, kind, asked->ms, settling);
    return STATUS_OK;
}

void mqtt_settle_publish(struct mqtt_session *session, const struct mqtt_address *address,
                         const struct publish *publish)
{
    struct mqtt_settlement asked;
    enum status status = STATUS_MALFORMED;
    if (mqtt_settlement_parse(publish->body, &asked)) {
        if (!asked.has_ms && publish->delay_ms > 0 && publish->delay_ms <= LIMIT_DELAY_MS)
            asked.ms = (uint32_t)publish->delay_ms;
        asked.has_ms = asked.ms > 0;
        uint32_t ms_max = address->kind == MQTT_ADDRESS_NACK ? LIMIT_DELAY_MS : LIMIT_LEASE_MS;
        status = asked.ms > ms_max      ? STATUS_MALFORMED
                 : asked.packet_id != 0 ? by_identifier(session, address->kind, &asked, publish)
                                        : by_receipt(session, address->kind, &asked, publish);
    }
    if (status != STATUS_OK && publish->answer)
        broker_refuse(&session->client, publish->token, status);
}
