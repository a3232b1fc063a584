/* SPDX-License-Identifier: Apache-2.0 */
/* Topics and filters are compared level by level in place; nothing is copied or split beforehand.
 */
#include "core/broker/topic.h"

#include "core/base/limits.h"
#include "core/base/utf8.h"

/* The level at *position, which moves behind it; past text.size when that was the last level.
 * An empty level is a level: "a/" has two. */
static struct span level_next(struct span text, size_t *position)
{
    const uint8_t *start = text.data + *position;
    size_t left = text.size - *position;
    const uint8_t *slash = memchr(start, '/', left);
    size_t size = slash == NULL ? left : (size_t)(slash - start);
    *position += size + 1;
    return span_of(start, size);
}

static bool level_is(struct span level, char wildcard)
{
    return level.size == 1 && level.data[0] == (uint8_t)wildcard;
}

/* What names and filters have in common. */
static bool text_is_valid(struct span text)
{
    return text.size != 0 && text.size <= LIMIT_TOPIC_BYTES && utf8_is_valid_no_nul(text);
}

bool topic_name_is_valid(struct span topic)
{
    if (!text_is_valid(topic))
        return false;
    unsigned levels = 1;
    for (size_t i = 0; i < topic.size; i++) {
        if (topic.data[i] == '+' || topic.data[i] == '#')
            return false;
        levels += topic.data[i] == '/';
    }
    return levels <= LIMIT_TOPIC_LEVELS;
}

bool topic_filter_is_valid(struct span filter)
{
    if (!text_is_valid(filter))
        return false;
    unsigned levels = 0;
    for (size_t position = 0; position <= filter.size;) {
        struct span level = level_next(filter, &position);
        if (++levels > LIMIT_TOPIC_LEVELS)
            return false;
        if (level_is(level, '+'))
            continue;
        if (level_is(level, '#'))
            return position > filter.size;
        if (topic_filter_has_wildcard(level))
            return false;
    }
    return true;
}

uint32_t topic_levels(struct span text)
{
    uint32_t levels = 1;
    for (size_t i = 0; i < text.size; i++)
        levels += text.data[i] == '/';
    return levels;
}

bool topic_filter_has_wildcard(struct span filter)
{
    for (size_t i = 0; i < filter.size; i++) {
        if (filter.data[i] == '+' || filter.data[i] == '#')
            return true;
    }
    return false;
}

bool topic_matches(struct span filter, struct span topic)
{
    /* A topic is a filter that only itself matches, and many filters are topics. */
    return span_equal(filter, topic) || topic_filter_covers(filter, topic);
}

/* A leading wildcard does not reach names that begin with '$'. */
static bool dollar_hides(struct span outer, struct span inner)
{
    return inner.data[0] == '$' && (outer.data[0] == '+' || outer.data[0] == '#');
}

bool topic_filter_covers(struct span outer, struct span inner)
{
    if (dollar_hides(outer, inner))
        return false;
    size_t at = 0, inner_at = 0;
    while (at <= outer.size) {
        struct span level = level_next(outer, &at);
        if (level_is(level, '#'))
            return true;
        if (inner_at > inner.size)
            return false;
        struct span inner_level = level_next(inner, &inner_at);
        /* '#' also stands for no level at all, which neither a literal nor '+' does. But there is
         * no empty topic: after nothing, or after one empty level, at least one level must follow.
         */
        if (level_is(inner_level, '#'))
            return inner.size <= 2 && level_is(level, '+') && span_is(span_from(outer, at), "#");
        if (!level_is(level, '+') && !span_equal(level, inner_level))
            return false;
    }
    return inner_at > inner.size;
}

/* How much a level narrows: the end of a filter narrows more than '#', which also allows the end,
 * and less than any level. */
enum { RANK_REST, RANK_END, RANK_ANY, RANK_LITERAL };

static int rank_next(struct span filter, size_t *position)
{
    if (*position > filter.size)
        return RANK_END;
    struct span level = level_next(filter, position);
    return level_is(level, '#') ? RANK_REST : level_is(level, '+') ? RANK_ANY : RANK_LITERAL;
}

/* The first level whose ranks differ decides. Of two different filters that match the same topic
 * one is always more specific: with equal ranks everywhere their literals would have to be equal,
 * too. */
int topic_filter_compare(struct span a, struct span b)
{
    size_t a_at = 0, b_at = 0;
    while (a_at <= a.size || b_at <= b.size) {
        int difference = rank_next(a, &a_at) - rank_next(b, &b_at);
        if (difference != 0)
            return difference;
    }
    return 0;
}
