/* SPDX-License-Identifier: Apache-2.0 */
/* Borrowed bytes: a span owns nothing and is valid only as long as its lender says. */
#ifndef CORE_BASE_SPAN_H
#define CORE_BASE_SPAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct span {
    const uint8_t *data;
    size_t size;
};

static inline struct span span_of(const void *data, size_t size)
{
    return (struct span){.data = data, .size = size};
}

static inline struct span span_from_text(const char *text)
{
    return (struct span){.data = (const uint8_t *)text, .size = strlen(text)};
}

static inline bool span_equal(struct span a, struct span b)
{
    return a.size == b.size && (a.size == 0 || memcmp(a.data, b.data, a.size) == 0);
}

static inline bool span_is(struct span a, const char *text)
{
    return span_equal(a, span_from_text(text));
}

static inline bool span_begins(struct span a, struct span with)
{
    return a.size >= with.size && (with.size == 0 || memcmp(a.data, with.data, with.size) == 0);
}

/* The part of a from position on; empty when position is behind the end. */
static inline struct span span_from(struct span a, size_t position)
{
    return position >= a.size ? (struct span){0} : span_of(a.data + position, a.size - position);
}

#endif
