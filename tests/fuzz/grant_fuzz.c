/* SPDX-License-Identifier: Apache-2.0 */
/* Lines of text: actions, pattern, user, client id, address. What parses formats to what parses
 * again; and a client id full of wildcards is never allowed more than one without. */
#include "core/base/check.h"
#include "core/base/heap.h"
#include "core/broker/auth.h"
#include "core/broker/topic.h"
#include "tests/fuzz/fuzz.h"

static struct span line_next(struct span *rest)
{
    const uint8_t *end = rest->size == 0 ? NULL : memchr(rest->data, '\n', rest->size);
    size_t size = end == NULL ? rest->size : (size_t)(end - rest->data);
    struct span line = span_of(rest->data, size);
    *rest = span_from(*rest, size + 1);
    return line;
}

static void check_format(const struct grant *grant)
{
    struct buf text;
    buf_init(&text, 1u << 20);
    grant_format(grant, &text);
    const uint8_t *blank = memchr(text.data, ' ', text.size);
    CHECK(blank != NULL);
    size_t at = (size_t)(blank - text.data);
    struct grant again;
    CHECK(grant_parse(span_of(text.data, at), span_from(buf_span(&text), at + 1), &again, NULL) ==
          STATUS_OK);
    CHECK(again.actions == grant->actions && again.is_topic == grant->is_topic);
    CHECK(strcmp(again.pattern, grant->pattern) == 0);
    grant_deinit(&again);
    buf_deinit(&text);
}

static bool is_hostile(struct span text)
{
    for (size_t i = 0; i < text.size; i++) {
        if (memchr("+#/*", text.data[i], 4) != NULL)
            return true;
    }
    return text.size == 0;
}

static void check_rights(struct grant *grant, struct span user, struct span client_id,
                         struct span address)
{
    struct principal principal = {
        .name = heap_text((const char *)user.data, user.size), .grants = grant, .grant_count = 1};
    bool uses_client_id = strstr(grant->pattern, "%c") != NULL;
    for (unsigned action = ACTION_PUBLISH; action <= ACTION_MANAGE; action *= 2) {
        bool may =
            principal_may(&principal, (enum action)action, grant->is_topic, address, client_id);
        CHECK(!may || (grant->actions & action) != 0);
        CHECK(!may || !uses_client_id || !is_hostile(client_id));
        CHECK(
            !principal_may(&principal, (enum action)action, !grant->is_topic, address, client_id));
    }
    heap_free(principal.name);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct span rest = span_of(data, size);
    struct span actions = line_next(&rest), pattern = line_next(&rest);
    struct span user = line_next(&rest), client_id = line_next(&rest);
    struct grant grant;
    struct err err;
    if (grant_parse(actions, pattern, &grant, &err) != STATUS_OK)
        return 0;
    check_format(&grant);
    check_rights(&grant, user, client_id, rest);
    grant_deinit(&grant);
    return 0;
}
