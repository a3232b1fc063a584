/* SPDX-License-Identifier: Apache-2.0 */
/* Finds the route of a method and path. Patterns are split once; a path is compared level by level.
 */
#ifndef ADAPTERS_HTTP_ROUTER_H
#define ADAPTERS_HTTP_ROUTER_H

#include "adapters/http/http.h"

enum { ROUTER_LEVELS_MAX = 12 };

struct router_entry {
    const struct http_route *route;
    void *context;
    struct span levels[ROUTER_LEVELS_MAX];
    uint32_t level_count;
    uint32_t literals; /* bit 31 - n: level n is literal */
    bool open_ended;   /* the last level takes all that follows */
};

struct router {
    struct router_entry *entries;
    uint32_t count;
};

void router_add(struct router *router, const struct http_route *routes, size_t count,
                void *context);
void router_deinit(struct router *router);
/* The best route; NULL with *methods set to a bit per method that has a route of this path (0:
 * none). Fills parameters. */
const struct router_entry *router_find(const struct router *router, enum http_method method,
                                       struct span path,
                                       struct span parameters[HTTP_PARAMETERS_MAX],
                                       unsigned *methods);

#endif
