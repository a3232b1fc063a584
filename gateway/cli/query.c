/* SPDX-License-Identifier: Apache-2.0 */
/* Paths with a query. */
#include <stdio.h>
#include <string.h>

#include "core/base/heap.h"
#include "gateway/cli/cli.h"

/* Takes path, gives back the longer one. */
static char *append(char *path, const char *text)
{
    size_t size = strlen(path), more = strlen(text) + 1;
    path = heap_resize(path, size + more);
    memcpy(path + size, text, more);
    return path;
}

char *cli_query(char *path, const char *name, const char *value)
{
    char *encoded = cli_encode(value);
    path = append(path, strchr(path, '?') == NULL ? "?" : "&");
    path = append(path, name);
    path = append(path, "=");
    path = append(path, encoded);
    heap_free(encoded);
    return path;
}

char *cli_query_number(char *path, const char *name, json_int_t number)
{
    char text[24];
    snprintf(text, sizeof text, "%lld", (long long)number);
    return cli_query(path, name, text);
}

char *cli_query_filter(char *path, const struct cli *cli)
{
    const char *given;
    for (unsigned i = 0; (given = cli_option(cli, "label", i)) != NULL; i++)
        path = cli_query(path, "label", given);
    if (cli_option(cli, "all-labels", 0) != NULL)
        path = cli_query(path, "label_mode", "all");
    given = cli_option(cli, "selector", 0);
    return given == NULL ? path : cli_query(path, "selector", given);
}
