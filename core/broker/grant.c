/* SPDX-License-Identifier: Apache-2.0 */
/* Grants: their text form, and whether they allow an address once user and client id are put in. */
#include "core/base/heap.h"
#include "core/base/limits.h"
#include "core/broker/auth.h"
#include "core/broker/topic.h"

enum { QUEUE_PATTERN_BYTES = 256 };

static const struct {
    const char *name;
    enum action action;
} actions_all[] = {
    {"publish", ACTION_PUBLISH}, {"consume", ACTION_CONSUME}, {"manage", ACTION_MANAGE}};

enum { ACTIONS = sizeof actions_all / sizeof *actions_all };

/* ---------------------------------------------------------------- text */

static unsigned action_of(struct span name)
{
    for (size_t i = 0; i < ACTIONS; i++) {
        if (span_is(name, actions_all[i].name))
            return actions_all[i].action;
    }
    return 0;
}

/* Names with commas between; 0 when there is anything else. */
static unsigned actions_parse(struct span text)
{
    unsigned actions = 0;
    for (size_t at = 0; at <= text.size;) {
        const uint8_t *comma = at < text.size ? memchr(text.data + at, ',', text.size - at) : NULL;
        size_t end = comma == NULL ? text.size : (size_t)(comma - text.data);
        unsigned action = at == end ? 0 : action_of(span_of(text.data + at, end - at));
        if (action == 0)
            return 0;
        actions |= action;
        at = end + 1;
    }
    return actions;
}

/* Is this a placeholder: %u or %c? */
static bool placeholder_at(struct span pattern, size_t at)
{
    return pattern.data[at] == '%' && at + 1 < pattern.size &&
           (pattern.data[at + 1] == 'u' || pattern.data[at + 1] == 'c');
}

/* The characters of queue names, also of temporary ones, '*', and the placeholders. */
static bool queue_pattern_is_valid(struct span pattern)
{
    if (pattern.size == 0 || pattern.size > QUEUE_PATTERN_BYTES)
        return false;
    for (size_t i = 0; i < pattern.size; i++) {
        uint8_t c = pattern.data[i];
        bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
        if (!letter && c != '-' && c != '_' && c != '.' && c != '*' && c != '$' &&
            !placeholder_at(pattern, i))
            return false;
    }
    return true;
}

static bool starts_with(struct span text, const char *prefix)
{
    size_t size = strlen(prefix);
    return text.size >= size && memcmp(text.data, prefix, size) == 0;
}

enum status grant_parse(struct span actions, struct span pattern, struct grant *grant,
                        struct err *err)
{
    static const char topic_prefix[] = "topic:", queue_prefix[] = "queue:";
    *grant = (struct grant){.actions = actions_parse(actions)};
    if (grant->actions == 0)
        return err_set(err, STATUS_INVALID,
                       "actions are publish, consume and manage, with commas between");
    grant->is_topic = starts_with(pattern, topic_prefix);
    if (!grant->is_topic && !starts_with(pattern, queue_prefix))
        return err_set(err, STATUS_INVALID, "a grant is for topic:FILTER or queue:PATTERN");
    struct span text = span_from(pattern, sizeof topic_prefix - 1);
    if (grant->is_topic && !topic_filter_is_valid(text))
        return err_set(err, STATUS_INVALID, "what follows topic: is no topic filter");
    if (!grant->is_topic && !queue_pattern_is_valid(text))
        return err_set(err, STATUS_INVALID, "what follows queue: is no pattern of queue names");
    grant->pattern = heap_text((const char *)text.data, text.size);
    return STATUS_OK;
}

void grant_format(const struct grant *grant, struct buf *to)
{
    const char *before = "";
    for (size_t i = 0; i < ACTIONS; i++) {
        if ((grant->actions & actions_all[i].action) == 0)
            continue;
        buf_printf(to, "%s%s", before, actions_all[i].name);
        before = ",";
    }
    buf_printf(to, " %s:%s", grant->is_topic ? "topic" : "queue", grant->pattern);
}

void grant_deinit(struct grant *grant)
{
    heap_free(grant->pattern);
    *grant = (struct grant){0};
}

/* ---------------------------------------------------------------- rights */

/* Peers choose their names. One that holds a wildcard or a level separator would widen the grant,
 * and so would none at all ("queue:%c*"). */
static bool value_is_harmless(struct span value)
{
    for (size_t i = 0; i < value.size; i++) {
        if (memchr("+#/*", value.data[i], 4) != NULL)
            return false;
    }
    return value.size != 0;
}

/* Puts user and client id in. False: this grant says nothing about such a client. */
static bool pattern_expand(struct span pattern, struct span user, struct span client_id,
                           struct buf *to)
{
    for (size_t i = 0; i < pattern.size; i++) {
        if (!placeholder_at(pattern, i)) {
            if (buf_append(to, &pattern.data[i], 1) != STATUS_OK)
                return false;
            continue;
        }
        struct span value = pattern.data[++i] == 'u' ? user : client_id;
        if (!value_is_harmless(value) || buf_append(to, value.data, value.size) != STATUS_OK)
            return false;
    }
    /* A name must not lead into the topics that only an explicit '$' reaches. */
    return to->data[0] != '$' || pattern.data[0] == '$';
}

/* '*' stands for any run of characters. On a mismatch only the last '*' has to give way, because an
 * earlier one that takes more could not make the rest fit any better. */
static bool wildcard_matches(struct span pattern, struct span text)
{
    size_t p = 0, t = 0, star = SIZE_MAX, resume = 0;
    while (t < text.size) {
        if (p < pattern.size && pattern.data[p] == '*') {
            star = p++;
            resume = t;
        } else if (p < pattern.size && pattern.data[p] == text.data[t]) {
            p++;
            t++;
        } else if (star != SIZE_MAX) {
            p = star + 1;
            t = ++resume;
        } else {
            return false;
        }
    }
    while (p < pattern.size && pattern.data[p] == '*')
        p++;
    return p == pattern.size;
}

static bool grant_allows(const struct grant *grant, struct span pattern, struct span address)
{
    if (!grant->is_topic)
        return wildcard_matches(pattern, address);
    return topic_filter_is_valid(pattern) && topic_filter_covers(pattern, address);
}

bool principal_may(const struct principal *principal, enum action action, bool is_topic,
                   struct span address, struct span client_id)
{
    if (principal == NULL || address.size == 0)
        return false;
    struct span user = span_from_text(principal->name);
    bool allowed = false;
    for (uint32_t i = 0; i < principal->grant_count && !allowed; i++) {
        const struct grant *grant = &principal->grants[i];
        if ((grant->actions & action) == 0 || grant->is_topic != is_topic)
            continue;
        struct buf pattern;
        buf_init(&pattern, LIMIT_TOPIC_BYTES);
        allowed = pattern_expand(span_from_text(grant->pattern), user, client_id, &pattern) &&
                  grant_allows(grant, buf_span(&pattern), address);
        buf_deinit(&pattern);
    }
    return allowed;
}

bool principal_has_use(const struct principal *principal)
{
    bool uses = false;
    for (uint32_t i = 0; i < principal->grant_count; i++)
        uses |= (principal->grants[i].actions & (ACTION_PUBLISH | ACTION_CONSUME)) != 0;
    return uses;
}
