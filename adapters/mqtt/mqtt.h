/* SPDX-License-Identifier: Apache-2.0 */
/* The MQTT adapter as the gateway sees it: one adapter, and the settings of all its connections. */
#ifndef ADAPTERS_MQTT_MQTT_H
#define ADAPTERS_MQTT_MQTT_H

#include "adapters/adapter.h"

struct mqtt_options {
    uint32_t max_packet;          /* bytes of a packet we accept; 0: 10 MiB and a little */
    uint16_t receive_max;         /* unanswered QoS 1 and 2 publishes of a client; 0: 65535 */
    uint16_t topic_alias_max;     /* aliases a client may set */
    uint16_t keep_alive_max;      /* seconds; 0: as the client asks */
    uint16_t inflight_max;        /* deliveries a client has not answered; 0: LIMIT_CLIENT_CREDIT */
    const char *server_reference; /* where clients shall go when this server ends; NULL: nowhere */
};

extern const struct adapter mqtt_adapter;

/* Before the first connection; options are copied, the reference is borrowed for ever. */
void mqtt_configure(const struct mqtt_options *options);
/* Statistics of the gateway to who subscribes to $SYS, from this worker, which the caller keeps
 * from others by broker_options.reserved_topics; interval_s 0: none. Before the loops run. */
void mqtt_announce_statistics(struct broker_worker *worker, uint32_t interval_s);

#endif
