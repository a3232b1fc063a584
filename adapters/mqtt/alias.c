/* SPDX-License-Identifier: Apache-2.0 */
/* Topic aliases towards the client (3.3.2.3.4), for topics that come again: the second time a topic
 * is seen it goes out with an alias, from then on the alias stands for it. Topics that share a
 * place take it from each other. */
#include "adapters/mqtt/session.h"
#include "core/base/hash.h"
#include "core/base/heap.h"
#include "core/base/pack.h"

enum { ALIASES_MAX = 64, ALIAS_BYTES = 3, COPY_BYTES = 4096, HEAD_MAX = 1 + 4 + 2 + 2 + 4 };

struct mqtt_out_aliases {
    uint16_t count;
    struct {
        uint64_t hash; /* keyed, so a match is proof enough; 0: free */
        bool known;    /* the client has the alias */
    } slots[];
};

void mqtt_aliases_out(struct mqtt_session *session, uint16_t client_max)
{
    uint16_t count = client_max < ALIASES_MAX ? client_max : ALIASES_MAX;
    if (count == 0)
        return;
    session->out_aliases =
        heap_new(sizeof *session->out_aliases + count * sizeof session->out_aliases->slots[0]);
    session->out_aliases->count = count;
}

/* An encoded PUBLISH, taken apart. */
struct parts {
    struct span topic;
    struct span rest; /* properties without their length, payload */
    uint32_t properties_size;
};

static uint32_t take_varint(const uint8_t **at)
{
    uint32_t value = 0;
    unsigned shift = 0;
    do
        value |= (uint32_t)(**at & 0x7f) << (shift++ * 7);
    while (*(*at)++ >= 0x80);
    return value;
}

static struct parts take_apart(struct span frame, bool has_id)
{
    struct parts parts;
    const uint8_t *at = frame.data + 1;
    take_varint(&at);
    parts.topic = span_of(at + 2, load_u16(at));
    at += 2 + parts.topic.size + (has_id ? 2u : 0u);
    parts.properties_size = take_varint(&at);
    parts.rest = span_from(frame, (size_t)(at - frame.data));
    return parts;
}

/* What goes out instead of the topic; 0: just the topic. *known: the client has seen it. */
static uint16_t alias_for(struct mqtt_out_aliases *aliases, struct span topic, bool *known)
{
    uint64_t hash = hash_bytes(topic);
    unsigned slot = (unsigned)(hash % aliases->count);
    *known = aliases->slots[slot].known;
    if (aliases->slots[slot].hash != hash) {
        aliases->slots[slot].hash = hash;
        aliases->slots[slot].known = false;
        return 0;
    }
    return (uint16_t)(slot + 1);
}

static uint8_t *put_varint(uint8_t *to, uint32_t value)
{
    for (; value >= 0x80; value >>= 7)
        *to++ = (uint8_t)(value | 0x80);
    *to++ = (uint8_t)value;
    return to;
}

bool mqtt_send_aliased(struct mqtt_session *session, struct blob *frame, uint16_t id, uint8_t flag)
{
    struct parts parts = take_apart(blob_span(frame), id != 0);
    bool known;
    uint16_t alias = alias_for(session->out_aliases, parts.topic, &known);
    if (alias == 0)
        return false;
    struct span topic = known ? span_of(NULL, 0) : parts.topic;
    uint32_t properties = parts.properties_size + ALIAS_BYTES;
    size_t remaining = 2 + topic.size + (id != 0 ? 2u : 0u) + mqtt_varint_size(properties) +
                       ALIAS_BYTES + parts.rest.size;
    /* The first one, and one of a short topic, is a little longer than without an alias. */
    if (1 + mqtt_varint_size((uint32_t)remaining) + remaining > session->packet_max)
        return false;
    uint8_t head[HEAD_MAX], *at = head;
    *at++ = (uint8_t)(frame->bytes[0] | flag);
    at = put_varint(at, (uint32_t)remaining);
    store_u16(at, (uint16_t)topic.size);
    size_t head_size = (size_t)(at + 2 - head);
    uint8_t tail[2 + 4 + ALIAS_BYTES];
    at = tail;
    if (id != 0) {
        store_u16(at, id);
        at += 2;
    }
    at = put_varint(at, properties);
    *at = MQTT_PROPERTY_TOPIC_ALIAS;
    store_u16(at + 1, alias);
    size_t tail_size = (size_t)(at + ALIAS_BYTES - tail);
    bool copies = parts.rest.size <= COPY_BYTES;
    uint8_t *to = stream_reserve(session->stream, head_size + topic.size + tail_size +
                                                      (copies ? parts.rest.size : 0));
    memcpy(to, head, head_size);
    if (topic.size > 0)
        memcpy(to + head_size, topic.data, topic.size);
    memcpy(to + head_size + topic.size, tail, tail_size);
    if (!copies)
        stream_write_blob(session->stream, frame, (size_t)(parts.rest.data - frame->bytes),
                          parts.rest.size);
    else if (parts.rest.size > 0) /* neither properties nor a payload */
        memcpy(to + head_size + topic.size + tail_size, parts.rest.data, parts.rest.size);
    session->out_aliases->slots[alias - 1].known = true;
    return true;
}
