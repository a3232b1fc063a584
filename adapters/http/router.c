/* SPDX-License-Identifier: Apache-2.0 */
/* Routes by pattern. There are some dozens of them: a linear walk that fails at the first differing
 * level costs less than a tree would. */
#include "adapters/http/router.h"

#include "core/base/check.h"
#include "core/base/heap.h"

static bool is_parameter(struct span level)
{
    return level.size > 1 && level.data[0] == '{';
}

static void entry_init(struct router_entry *entry, const struct http_route *route, void *context)
{
    *entry = (struct router_entry){.route = route, .context = context};
    struct span pattern = span_from_text(route->pattern);
    CHECK(pattern.size > 0 && pattern.data[0] == '/');
    uint32_t parameters = 0;
    for (size_t at = 1; at <= pattern.size;) {
        size_t end = at;
        while (end < pattern.size && pattern.data[end] != '/')
            end++;
        CHECK(entry->level_count < ROUTER_LEVELS_MAX);
        struct span level = span_of(pattern.data + at, end - at);
        if (is_parameter(level)) {
            CHECK(++parameters <= HTTP_PARAMETERS_MAX);
            entry->open_ended = level.data[level.size - 2] == '*';
        } else {
            entry->literals |= 1u << (31 - entry->level_count);
        }
        entry->levels[entry->level_count++] = level;
        at = end + 1;
    }
}

void router_add(struct router *router, const struct http_route *routes, size_t count, void *context)
{
    router->entries =
        heap_resize(router->entries, (router->count + count) * sizeof *router->entries);
    for (size_t i = 0; i < count; i++)
        entry_init(&router->entries[router->count++], &routes[i], context);
}

void router_deinit(struct router *router)
{
    heap_free(router->entries);
    *router = (struct router){0};
}

/* path begins with '/'. */
static bool matches(const struct router_entry *entry, struct span path,
                    struct span parameters[HTTP_PARAMETERS_MAX])
{
    size_t at = 1, parameter = 0;
    for (uint32_t i = 0; i < entry->level_count; i++) {
        struct span pattern = entry->levels[i];
        if (at > path.size)
            return false;
        if (entry->open_ended && i + 1 == entry->level_count) {
            parameters[parameter] = span_from(path, at);
            return at < path.size;
        }
        const uint8_t *slash = at == path.size ? NULL : memchr(path.data + at, '/', path.size - at);
        size_t end = slash == NULL ? path.size : (size_t)(slash - path.data);
        struct span level = span_of(path.data + at, end - at);
        if (is_parameter(pattern)) {
            if (level.size == 0)
                return false;
            parameters[parameter++] = level;
        } else if (!span_equal(level, pattern)) {
            return false;
        }
        at = end + 1;
    }
    return at == path.size + 1;
}

const struct router_entry *router_find(const struct router *router, enum http_method method,
                                       struct span path,
                                       struct span parameters[HTTP_PARAMETERS_MAX],
                                       unsigned *methods)
{
    const struct router_entry *best = NULL;
    *methods = 0;
    if (path.size == 0 || path.data[0] != '/')
        return NULL;
    if (method == HTTP_HEAD)
        method = HTTP_GET;
    for (uint32_t i = 0; i < router->count; i++) {
        const struct router_entry *entry = &router->entries[i];
        struct span found[HTTP_PARAMETERS_MAX] = {{0}};
        if (best != NULL && (entry->route->method != method || entry->literals <= best->literals))
            continue;
        if (!matches(entry, path, found))
            continue;
        *methods |= 1u << entry->route->method;
        if (entry->route->method != method)
            continue;
        best = entry;
        memcpy(parameters, found, sizeof found);
    }
    return best;
}
