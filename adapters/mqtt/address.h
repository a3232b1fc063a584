/* SPDX-License-Identifier: Apache-2.0 */
/* Topics and filters that are addresses of the gateway (docs/mapping.md, Addresses). Pure: every
 * span of a result borrows from the input.
 *
 *   publish    a/b   $queue/Q   $queue/Q/$nack   $queue/Q/$extend   $delayed/SECONDS/(a/b or
 * $queue/Q) subscribe  a/+   $queue/Q   $queue/Q/$dead/GROUP   $share/GROUP/(a/+ or $queue/Q)
 *              $replay/FROM/(a/+ or $queue/Q)   with FROM an offset, @MS since 1970, or earliest
 */
#ifndef ADAPTERS_MQTT_ADDRESS_H
#define ADAPTERS_MQTT_ADDRESS_H

#include "adapters/mqtt/codec.h"

enum mqtt_address_kind {
    MQTT_ADDRESS_BAD, /* begins like one of ours and is none, or is no topic or filter at all */
    MQTT_ADDRESS_TOPIC,
    MQTT_ADDRESS_QUEUE,
    MQTT_ADDRESS_DEAD,
    MQTT_ADDRESS_NACK,
    MQTT_ADDRESS_EXTEND,
};

struct mqtt_position {
    bool by_time;
    uint64_t value; /* offset, or ms since 1970 */
};

struct mqtt_address {
    enum mqtt_address_kind kind;
    struct span topic; /* TOPIC: topic or filter, without what stood before it */
    struct span queue; /* the others: name or id */
    struct span group; /* of a share, or of DEAD; empty: none */
    bool delayed, replayed;
    uint64_t delay_ms;         /* UINT64_MAX: no number, or too large for one */
    struct mqtt_position from; /* replayed */
};

void mqtt_address_of_topic(struct span topic, struct mqtt_address *address);
void mqtt_address_of_filter(struct span filter, struct mqtt_address *address);
bool mqtt_position_parse(struct span text, struct mqtt_position *position);

/* The topic of what is delivered from QUEUE or DEAD, so that it matches the filter without its
 * share (MQTT-3.3.2-3). Returns its size; to has room for MQTT_ADDRESS_TEXT bytes. */
enum { MQTT_ADDRESS_TEXT = 256 };
size_t mqtt_address_put(const struct mqtt_address *address, char *to);

/* What is published to NACK and EXTEND: the packet identifier or the receipt of a delivery, and
 * perhaps a blank and a number of ms. */
struct mqtt_settlement {
    uint16_t packet_id; /* 0: by receipt */
    struct span receipt;
    bool has_ms;
    uint32_t ms;
};
bool mqtt_settlement_parse(struct span payload, struct mqtt_settlement *settlement);

/* What a SUBSCRIBE asks for in user properties, for all its filters. */
struct mqtt_asked {
    bool receipt, offset; /* show=receipt, show=offset */
    uint32_t lease_ms;    /* lease; 0: as the queue says */
    bool replayed;        /* replay */
    struct mqtt_position from;
};

/* What a session keeps of a subscription beside its filter. */
enum { MQTT_KEPT_BYTES = 11 };
void mqtt_kept_encode(const struct mqtt_filter *filter, const struct mqtt_asked *asked,
                      uint32_t identifier, uint8_t to[MQTT_KEPT_BYTES]);
/* filter->filter is not touched. */
bool mqtt_kept_decode(struct span kept, struct mqtt_filter *filter, struct mqtt_asked *asked,
                      uint32_t *identifier);

/* All of text is a decimal number of at most 18 digits. */
bool mqtt_parse_number(struct span text, uint64_t *value);

#endif
