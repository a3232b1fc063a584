/* SPDX-License-Identifier: Apache-2.0 */
/* JSON written straight into a buf. Reading is jansson's. A buf that reaches its limit stays there;
 * whoever sends it looks at that once. */
#ifndef ADAPTERS_HTTP_JSON_H
#define ADAPTERS_HTTP_JSON_H

#include <jansson.h>

#include "core/base/buf.h"

void json_put(struct buf *to, const char *text);      /* as it is: brackets, names, literals */
void json_put_text(struct buf *to, struct span text); /* a string; text is valid UTF-8 */
void json_put_number(struct buf *to, int64_t number);
static inline void json_put_bool(struct buf *to, bool value)
{
    json_put(to, value ? "true" : "false");
}
/* text, or null when it is NULL. */
void json_put_text_or_null(struct buf *to, const char *text);

/* Is this one complete JSON value (in valid UTF-8)? */
bool json_is_value(struct span text);

static inline struct span json_span(const json_t *string)
{
    return span_of(json_string_value(string), json_string_length(string));
}

#endif
