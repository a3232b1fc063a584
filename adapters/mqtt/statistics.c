/* SPDX-License-Identifier: Apache-2.0 */
/* $SYS: figures of the gateway under the names that users of other brokers know. They are told to
 * who has subscribed whenever they have changed, and at once to who subscribes; nothing of them is
 * stored. */
#include <stdio.h>

#include "adapters/mqtt/session.h"
#include "core/base/clock.h"
#include "core/broker/metrics.h"
#include "core/broker/topic.h"

#define PREFIX "$SYS/broker/"
enum { TEXT_MAX = 64 };

static struct {
    struct metric *connections, *received, *sent, *dropped, *subscriptions, *packets;
} cells;
static uint64_t started_ns;

/* One worker announces. */
static struct {
    struct broker_worker *worker;
    struct loop_timer timer;
    uint32_t interval_ms;
} announcer;

static void count(const struct metric *metric, char text[TEXT_MAX])
{
    snprintf(text, TEXT_MAX, "%lld",
             (long long)atomic_load_explicit(&metric->value, memory_order_relaxed));
}

static void version(struct broker_worker *worker, char text[TEXT_MAX])
{
    (void)worker;
    snprintf(text, TEXT_MAX, "polylog %s", POLYLOG_VERSION);
}

static void uptime(struct broker_worker *worker, char text[TEXT_MAX])
{
    (void)worker;
    snprintf(text, TEXT_MAX, "%llu seconds",
             (unsigned long long)((clock_monotonic_ns() - started_ns) / 1000000000u));
}

static void connected(struct broker_worker *worker, char text[TEXT_MAX])
{
    (void)worker;
    count(cells.connections, text);
}

static void packets_received(struct broker_worker *worker, char text[TEXT_MAX])
{
    (void)worker;
    count(cells.packets, text);
}

static void published(struct broker_worker *worker, char text[TEXT_MAX])
{
    (void)worker;
    count(cells.received, text);
}

static void sent(struct broker_worker *worker, char text[TEXT_MAX])
{
    (void)worker;
    count(cells.sent, text);
}

static void dropped(struct broker_worker *worker, char text[TEXT_MAX])
{
    (void)worker;
    count(cells.dropped, text);
}

static void subscriptions(struct broker_worker *worker, char text[TEXT_MAX])
{
    (void)worker;
    count(cells.subscriptions, text);
}

static void stored_records(struct broker_worker *worker, char text[TEXT_MAX])
{
    uint64_t bytes;
    snprintf(text, TEXT_MAX, "%llu", (unsigned long long)broker_stored(worker, &bytes));
}

static void stored_bytes(struct broker_worker *worker, char text[TEXT_MAX])
{
    uint64_t bytes;
    broker_stored(worker, &bytes);
    snprintf(text, TEXT_MAX, "%llu", (unsigned long long)bytes);
}

static const struct {
    const char *topic;
    void (*value)(struct broker_worker *worker, char text[TEXT_MAX]);
} figures[] = {
    {PREFIX "version", version},
    {PREFIX "uptime", uptime},
    {PREFIX "clients/connected", connected},
    {PREFIX "messages/received", packets_received},
    {PREFIX "publish/messages/received", published},
    {PREFIX "publish/messages/sent", sent},
    {PREFIX "publish/messages/dropped", dropped},
    {PREFIX "subscriptions/count", subscriptions},
    {PREFIX "store/messages/count", stored_records},
    {PREFIX "store/messages/bytes", stored_bytes},
};
enum { FIGURES = sizeof figures / sizeof *figures };

static void announce(struct loop_timer *timer)
{
    static char told[FIGURES][TEXT_MAX];
    for (unsigned i = 0; i < FIGURES; i++) {
        char text[TEXT_MAX];
        figures[i].value(announcer.worker, text);
        if (strcmp(text, told[i]) == 0)
            continue;
        memcpy(told[i], text, sizeof text);
        broker_announce(announcer.worker, span_from_text(figures[i].topic), span_from_text(text));
    }
    loop_timer_start(broker_loop(announcer.worker), timer, announcer.interval_ms);
}

void mqtt_announce_statistics(struct broker_worker *worker, uint32_t interval_s)
{
    cells.connections = metric_gauge("connections", "Open connections", "protocol=\"mqtt\"");
    cells.packets =
        metric_counter("received_packets_total", "Packets received", "protocol=\"mqtt\"");
    cells.received =
        metric_counter("received_records_total", "Records taken from clients", "protocol=\"mqtt\"");
    cells.sent = metric_counter("delivered_records_total", "Records delivered to subscriptions",
                                "protocol=\"mqtt\"");
    cells.dropped = metric_counter("dropped_total", "Records not delivered", "reason=\"slow\"");
    cells.subscriptions = metric_gauge("subscriptions", "Subscriptions to topic filters", "");
    started_ns = clock_monotonic_ns();
    announcer.worker = worker;
    announcer.interval_ms = interval_s * 1000;
    announcer.timer.fired = announce;
    if (interval_s > 0)
        loop_timer_start(broker_loop(worker), &announcer.timer, announcer.interval_ms);
}

static void show(struct mqtt_session *session, const struct subscribe_item *item, unsigned figure)
{
    char text[TEXT_MAX];
    figures[figure].value(session->client.worker, text);
    struct mqtt_publish publish = {
        .retain = true,
        .topic = span_from_text(figures[figure].topic),
        .payload = span_from_text(text),
        .properties = mqtt_properties_none,
    };
    if (item->identifier != 0) {
        publish.properties.subscription_id = item->identifier;
        publish.properties.present |= MQTT_HAS(SUBSCRIPTION_ID);
    }
    size_t size = mqtt_publish_size(session->version, &publish);
    if (size > 0 && size <= session->packet_max)
        mqtt_encode_publish(session->version, &publish, stream_reserve(session->stream, size));
}

void mqtt_show_statistics(struct mqtt_session *session, const struct subscribe_item *item)
{
    bool wanted = item->retained == RETAINED_ALWAYS ||
                  (item->retained == RETAINED_WHEN_NEW && !item->existed);
    if (announcer.interval_ms == 0 || item->status != STATUS_OK || item->share.size > 0 ||
        !wanted || item->filter.size < 4 || memcmp(item->filter.data, "$SYS", 4) != 0)
        return;
    for (unsigned i = 0; i < FIGURES; i++)
        if (topic_matches(item->filter, span_from_text(figures[i].topic)))
            show(session, item, i);
}
