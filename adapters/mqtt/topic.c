/* SPDX-License-Identifier: Apache-2.0 */
/* Forms of topic names, filters and shares. */
#include "adapters/mqtt/topic.h"

#include "core/base/limits.h"
#include "core/base/utf8.h"

static bool has_byte(struct span text, int byte)
{
    return text.size != 0 && memchr(text.data, byte, text.size) != NULL;
}

/* Most topics are too short to have too many levels and are not counted. */
static bool size_is_in_limit(struct span topic)
{
    if (topic.size == 0 || topic.size > LIMIT_TOPIC_BYTES)
        return false;
    if (topic.size < LIMIT_TOPIC_LEVELS)
        return true;
    size_t levels = 1;
    for (size_t i = 0; i < topic.size; i++)
        levels += topic.data[i] == '/';
    return levels <= LIMIT_TOPIC_LEVELS;
}

bool mqtt_topic_is_formed(struct span topic)
{
    return size_is_in_limit(topic) && !has_byte(topic, '+') && !has_byte(topic, '#');
}

static bool filter_is_formed(struct span filter)
{
    for (size_t i = 0; i < filter.size; i++) {
        uint8_t byte = filter.data[i];
        if (byte != '+' && byte != '#')
            continue;
        bool is_first = i == 0 || filter.data[i - 1] == '/';
        bool is_last = i + 1 == filter.size;
        if (!is_first || (!is_last && (byte == '#' || filter.data[i + 1] != '/')))
            return false;
    }
    return size_is_in_limit(filter);
}

static const char SHARE[] = "$share/";

bool mqtt_is_share(struct span filter)
{
    return filter.size >= sizeof SHARE - 1 && memcmp(filter.data, SHARE, sizeof SHARE - 1) == 0;
}

static bool share_is_formed(struct span filter, struct span *name, struct span *rest)
{
    if (!mqtt_is_share(filter))
        return false;
    struct span after = span_from(filter, sizeof SHARE - 1);
    if (!has_byte(after, '/'))
        return false;
    const uint8_t *slash = memchr(after.data, '/', after.size);
    *name = span_of(after.data, (size_t)(slash - after.data));
    *rest = span_from(after, name->size + 1);
    return mqtt_topic_is_formed(*name) && filter_is_formed(*rest);
}

bool mqtt_any_filter_is_formed(struct span filter)
{
    struct span name, rest;
    return mqtt_is_share(filter) ? share_is_formed(filter, &name, &rest) : filter_is_formed(filter);
}

bool mqtt_topic_valid(struct span topic)
{
    return mqtt_topic_is_formed(topic) && utf8_is_valid_no_nul(topic);
}

bool mqtt_filter_valid(struct span filter)
{
    return mqtt_any_filter_is_formed(filter) && utf8_is_valid_no_nul(filter);
}

bool mqtt_share_split(struct span filter, struct span *name, struct span *rest)
{
    return share_is_formed(filter, name, rest) && utf8_is_valid_no_nul(filter);
}
