/* SPDX-License-Identifier: Apache-2.0 */
/* polylog queue, group, route: what administration makes. */
#include "core/base/heap.h"
#include "gateway/cli/cli.h"

enum { HOUR_MS = 60 * 60 * 1000 };

/* ------------------------------------------------ queues */

static const struct cli_column queue_columns[] = {
    {"NAME", "name"},
    {"TYPE", "type"},
    {"DURABILITY", "durability"},
    {"PARTITIONS", "partition_count"},
    {"RECORDS", "records"},
    {"BYTES", "bytes"},
    {"GROUPS", "group_count"},
    {NULL, NULL},
};

static enum outcome queue_list(struct cli *cli)
{
    return cli_list(cli, cli_path("/v1/default/queues"), "queues", queue_columns);
}

static enum outcome queue_show(struct cli *cli)
{
    return cli_show(cli, "GET", cli_path("/v1/default/queues/%s", cli->words[0]), NULL);
}

/* An option from 1 to highest goes into the field, times unit. */
static enum outcome add_number(const struct cli *cli, json_t *body, const char *option,
                               const char *field, json_int_t unit, json_int_t highest)
{
    json_int_t number = 0;
    enum outcome outcome = cli_number(cli, option, 1, highest, &number);
    if (outcome == OUTCOME_OK && number != 0)
        json_object_set_new(body, field, json_integer(number * unit));
    return outcome;
}

static enum outcome queue_create(struct cli *cli)
{
    static const char *const texts[] = {"type", "durability", "description"};
    json_t *body = json_pack("{s:s}", "name", cli->words[0]);
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        const char *given = cli_option(cli, texts[i], 0);
        if (given != NULL)
            json_object_set_new(body, texts[i], json_string(given));
    }
    enum outcome outcome = add_number(cli, body, "partitions", "partitions", 1, 256);
    if (outcome == OUTCOME_OK)
        outcome = add_number(cli, body, "retention-hours", "retention_ms", HOUR_MS, 24 * 3650);
    if (outcome == OUTCOME_OK)
        outcome = add_number(cli, body, "retention-bytes", "retention_bytes", 1, INT64_MAX / 2);
    if (outcome == OUTCOME_OK)
        return cli_change(cli, "POST", cli_path("/v1/default/queues"), body);
    json_decref(body);
    return outcome;
}

static enum outcome queue_delete(struct cli *cli)
{
    return cli_change(cli, "DELETE", cli_path("/v1/default/queues/%s", cli->words[0]), NULL);
}

/* ------------------------------------------------ groups */

static const struct cli_column group_columns[] = {
    {"NAME", "name"},
    {"AVAILABLE", "available_messages"},
    {"CONSUMED", "consumed_messages"},
    {"PRODUCED", "produced_messages"},
    {"ID", "id"},
    {NULL, NULL},
};

static enum outcome group_list(struct cli *cli)
{
    return cli_list(cli, cli_path("/v1/default/queues/%s/groups", cli->words[0]), "groups",
                    group_columns);
}

static enum outcome group_create(struct cli *cli)
{
    return cli_change(cli, "POST", cli_path("/v1/default/queues/%s/groups", cli->words[0]),
                      json_pack("{s:[{s:s}]}", "groups", "name", cli->words[1]));
}

static enum outcome group_delete(struct cli *cli)
{
    return cli_change(cli, "DELETE",
                      cli_path("/v1/default/queues/%s/groups/%s", cli->words[0], cli->words[1]),
                      NULL);
}

/* ------------------------------------------------ routes */

static const struct cli_column route_columns[] = {
    {"FILTER", "filter"},
    {"QUEUE", "queue"},
    {NULL, NULL},
};

static enum outcome route_list(struct cli *cli)
{
    return cli_list(cli, cli_path("/v1/default/routes"), "routes", route_columns);
}

static enum outcome route_show(struct cli *cli)
{
    return cli_show(cli, "GET", cli_path("/v1/default/routes/%s", cli->words[0]), NULL);
}

static enum outcome route_set(struct cli *cli)
{
    return cli_change(cli, "PUT", cli_path("/v1/default/routes/%s", cli->words[0]),
                      json_pack("{s:s}", "queue", cli->words[1]));
}

static enum outcome route_delete(struct cli *cli)
{
    return cli_change(cli, "DELETE", cli_path("/v1/default/routes/%s", cli->words[0]), NULL);
}

/* ------------------------------------------------ table */

static const struct cli_option create_options[] = {
    {"type", "TYPE", "standard (default), fifo or stream"},
    {"durability", "HOW", "sync (default) or interval"},
    {"partitions", "N", "fixed for ever (standard 1, stream 4)"},
    {"retention-hours", "N", "how long records are kept"},
    {"retention-bytes", "N", "how much is kept"},
    {"description", "TEXT", "for people"},
    {NULL, NULL, NULL},
};

/* clang-format off */
const struct cli_command queue_commands[] = {
    {"queue", "list", "", 0, 0, "all queues", NULL, queue_list},
    {"queue", "show", "QUEUE", 1, 1, "one queue", NULL, queue_show},
    {"queue", "create", "NAME", 1, 1, "a new queue", create_options, queue_create},
    {"queue", "delete", "QUEUE", 1, 1, "the queue, its records and groups", NULL, queue_delete},
    {"group", "list", "QUEUE", 1, 1, "the groups of a queue", NULL, group_list},
    {"group", "create", "QUEUE NAME", 2, 2, "a group that starts at the earliest record", NULL, group_create},
    {"group", "delete", "QUEUE GROUP", 2, 2, "the group and its positions", NULL, group_delete},
    {"route", "list", "", 0, 0, "which topics go to which queue", NULL, route_list},
    {"route", "show", "FILTER", 1, 1, "one route", NULL, route_show},
    {"route", "set", "FILTER QUEUE", 2, 2, "sends topics that match to the queue", NULL, route_set},
    {"route", "delete", "FILTER", 1, 1, "the route; its topics go where the next best one says", NULL, route_delete},
    {0},
};
/* clang-format on */
