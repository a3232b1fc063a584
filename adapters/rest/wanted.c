/* SPDX-License-Identifier: Apache-2.0 */
/* Reading filters. */
#include "adapters/rest/wanted.h"

#include "core/base/check.h"

enum { CODE_NAME = 10240004, CODE_QUERY = 10540014, CODE_TYPE = 10550035 };

/* All parameters of that name. They outlive the exchange, in the arena. */
static bool read_labels(struct wanted *wanted, struct call *call, const char *name)
{
    const struct http_head *head = &call->exchange->head;
    for (uint32_t i = 0; i < head->query_count; i++) {
        struct span label = head->query[i].value;
        if (!span_is(head->query[i].name, name) || label.size == 0)
            continue;
        if (wanted->labels.count == LABELS_MAX) {
            call_refuse(call, 400, CODE_QUERY, "At most %d times %s.", LABELS_MAX, name);
            return false;
        }
        if (!label_is_valid(label)) {
            call_refuse(call, 400, CODE_NAME, "A %s is 1 to %d letters, digits, - and _.", name,
                        LABEL_SIZE_MAX);
            return false;
        }
        char *text = arena_text(&call->arena, label.data, label.size);
        CHECK(text != NULL);
        wanted->labels.labels[wanted->labels.count++] = span_of(text, label.size);
    }
    return true;
}

/* any or all in the words of the call; missing: any. */
static bool read_mode(struct wanted *wanted, struct call *call, const char *name, const char *any,
                      const char *all)
{
    struct span mode;
    if (!http_query(call->exchange, name, &mode) || mode.size == 0 || span_is(mode, any))
        return true;
    wanted->labels.all = span_is(mode, all);
    return wanted->labels.all;
}

bool wanted_read_tags(struct wanted *wanted, struct call *call)
{
    if (!read_labels(wanted, call, "tag"))
        return false;
    if (read_mode(wanted, call, "tag_type", "or", "and"))
        return true;
    /* The service's own status for that. */
    call_refuse(call, 500, CODE_TYPE, "tag_type must be either or or and.");
    return false;
}

bool wanted_read(struct wanted *wanted, struct call *call)
{
    struct span text;
    struct err err;
    if (!read_labels(wanted, call, "label"))
        return false;
    if (!read_mode(wanted, call, "label_mode", "any", "all")) {
        call_refuse(call, 400, CODE_QUERY, "label_mode must be any or all.");
        return false;
    }
    if (!http_query(call->exchange, "selector", &text) || text.size == 0 ||
        selector_compile(text, &wanted->selector, &err) == STATUS_OK)
        return true;
    call_refuse(call, 400, CODE_QUERY, "That is no selector: %s", err.text);
    return false;
}

void wanted_deinit(struct wanted *wanted)
{
    selector_unref(wanted->selector);
}
