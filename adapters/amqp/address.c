/* SPDX-License-Identifier: Apache-2.0 */
/* Addresses of nodes (docs/mapping.md): a queue's name alone, /queues/q, /queues/q/groups/g,
 * /queues/q/groups/g/deadletters, /topics/t; none at all is the anonymous relay. */
#include "adapters/amqp/address.h"
#include "core/base/limits.h"

enum { AROUND_MAX = 1024 }; /* of what is no topic */

static bool take(struct span *text, const char *prefix)
{
    size_t size = strlen(prefix);
    if (text->size < size || memcmp(text->data, prefix, size) != 0)
        return false;
    *text = span_of(text->data + size, text->size - size);
    return true;
}

/* Up to the next slash, which goes too. */
static struct span take_level(struct span *text)
{
    const uint8_t *slash = text->size == 0 ? NULL : memchr(text->data, '/', text->size);
    size_t size = slash == NULL ? text->size : (size_t)(slash - text->data);
    struct span level = span_of(text->data, size);
    *text = span_from(*text, size + 1);
    return level;
}

static bool parse_queue(struct span text, struct amqp_address *address)
{
    address->at = AMQP_AT_QUEUE;
    address->queue = take_level(&text);
    if (text.size == 0)
        return address->queue.size > 0;
    if (!take(&text, "groups/"))
        return false;
    address->group = take_level(&text);
    address->dead = span_is(text, "deadletters");
    return address->group.size > 0 && (text.size == 0 || address->dead);
}

bool amqp_address_parse(struct span text, bool is_topic, struct amqp_address *address)
{
    *address = (struct amqp_address){.at = AMQP_AT_NOTHING};
    if (text.size > AROUND_MAX + LIMIT_TOPIC_BYTES)
        return false;
    if (text.size == 0) {
        address->at = AMQP_AT_RELAY;
        return true;
    }
    if (span_is(text, "$management")) {
        address->at = AMQP_AT_MANAGEMENT;
        return true;
    }
    if (take(&text, "/topics/") || is_topic) {
        address->at = AMQP_AT_TOPIC;
        address->topic = text;
        return text.size > 0;
    }
    if (take(&text, "/queues/"))
        return parse_queue(text, address);
    if (memchr(text.data, '/', text.size) != NULL)
        return false;
    return parse_queue(text, address);
}
