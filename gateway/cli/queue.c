/* SPDX-License-Identifier: Apache-2.0 */
/* polylog queue, group, route: what administration makes. */
#include "core/base/heap.h"
#include "core/base/limits.h"
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

/* The options of create and set, as fields of the body. For create 0 is no value. */
static enum outcome add_fields(const struct cli *cli, json_t *body, json_int_t lowest)
{
    static const char *const texts[][2] = {{"type", "type"},
                                           {"durability", "durability"},
                                           {"description", "description"},
                                           {"overflow", "overflow"},
                                           {"deadletters", "redrive_policy"}};
    static const struct {
        const char *option, *field;
        json_int_t unit, highest;
    } numbers[] = {
        {"partitions", "partitions", 1, 256},
        {"retention-hours", "retention_ms", HOUR_MS, 24 * 3650},
        {"retention-bytes", "retention_bytes", 1, INT64_MAX / 2},
        {"max-records", "max_records", 1, INT64_MAX / 2},
        {"protect-bytes", "protect_bytes", 1, INT64_MAX / 2},
        {"max-failures", "max_consume_count", 1, 100},
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        const char *given = cli_option(cli, texts[i][0], 0);
        if (given != NULL)
            json_object_set_new(body, texts[i][1], json_string(given));
    }
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        json_int_t number = -1;
        enum outcome outcome =
            cli_number(cli, numbers[i].option, lowest, numbers[i].highest, &number);
        if (outcome != OUTCOME_OK)
            return outcome;
        if (number >= 0)
            json_object_set_new(body, numbers[i].field, json_integer(number * numbers[i].unit));
    }
    json_int_t window_ms = -1;
    enum outcome outcome = cli_duration(cli, "dedup", LIMIT_DEDUP_MS, &window_ms);
    if (outcome != OUTCOME_OK)
        return outcome;
    if (window_ms >= 0)
        json_object_set_new(body, "dedup_ms", json_integer(window_ms));
    json_int_t lease_ms = -1;
    outcome = cli_duration(cli, "lease", LIMIT_LEASE_MS, &lease_ms);
    if (outcome != OUTCOME_OK)
        return outcome;
    if (lease_ms >= 0)
        json_object_set_new(body, "lease_ms", json_integer(lease_ms));
    /* A number of failures alone says that there are dead letters. */
    if (cli_option(cli, "max-failures", 0) != NULL && cli_option(cli, "deadletters", 0) == NULL)
        json_object_set_new(body, "redrive_policy", json_string("enable"));
    return OUTCOME_OK;
}

static enum outcome queue_create(struct cli *cli)
{
    json_t *body = json_pack("{s:s}", "name", cli->words[0]);
    enum outcome outcome = add_fields(cli, body, 1);
    if (outcome == OUTCOME_OK)
        return cli_change(cli, "POST", cli_path("/v1/default/queues"), body);
    json_decref(body);
    return outcome;
}

static enum outcome queue_set(struct cli *cli)
{
    json_t *body = json_object();
    enum outcome outcome = add_fields(cli, body, 0);
    if (outcome == OUTCOME_OK && json_object_size(body) == 0)
        outcome = cli_say(OUTCOME_USAGE, "nothing is to be changed: polylog queue set --help");
    if (outcome == OUTCOME_OK)
        return cli_change(cli, "PATCH", cli_path("/v1/default/queues/%s", cli->words[0]), body);
    json_decref(body);
    return outcome;
}

static enum outcome queue_purge(struct cli *cli)
{
    return cli_show(cli, "POST", cli_path("/v1/default/queues/%s/purge", cli->words[0]), NULL);
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
    {"IN-FLIGHT", "in_flight"},
    {"DEADLETTERS", "available_deadletters"},
    {"PRODUCED", "produced_messages"},
    {"SELECTOR", "selector"},
    {"ID", "id"},
    {NULL, NULL},
};

static enum outcome group_list(struct cli *cli)
{
    char *path = cli_path("/v1/default/queues/%s/groups", cli->words[0]);
    return cli_list(cli, cli_query(path, "include_deadletter", "true"), "groups", group_columns);
}

/* The options that create and set share. */
static enum outcome add_group_fields(const struct cli *cli, json_t *body)
{
    const char *selector = cli_option(cli, "selector", 0);
    json_int_t idle_ms = -1;
    enum outcome outcome = cli_duration(cli, "consumer-idle", LIMIT_CONSUMER_IDLE_MS, &idle_ms);
    if (selector != NULL)
        json_object_set_new(body, "selector", json_string(selector));
    if (idle_ms >= 0)
        json_object_set_new(body, "consumer_idle_ms", json_integer(idle_ms));
    return outcome;
}

static enum outcome group_create(struct cli *cli)
{
    const char *start = cli_option(cli, "start", 0);
    bool broadcast = cli_option(cli, "broadcast", 0) != NULL;
    json_t *group =
        json_pack("{s:s, s:s, s:s}", "name", cli->words[1], "start",
                  start != NULL ? start : "earliest", "mode", broadcast ? "broadcast" : "shared");
    enum outcome outcome = add_group_fields(cli, group);
    if (outcome == OUTCOME_OK)
        return cli_change(cli, "POST", cli_path("/v1/default/queues/%s/groups", cli->words[0]),
                          json_pack("{s:[o]}", "groups", group));
    json_decref(group);
    return outcome;
}

static enum outcome group_set(struct cli *cli)
{
    json_t *body = json_object();
    enum outcome outcome = add_group_fields(cli, body);
    if (outcome == OUTCOME_OK && json_object_size(body) == 0)
        outcome = cli_say(OUTCOME_USAGE, "nothing is to be changed: polylog group set --help");
    if (outcome == OUTCOME_OK)
        return cli_change(cli, "PATCH",
                          cli_path("/v1/default/queues/%s/groups/%s", cli->words[0], cli->words[1]),
                          body);
    json_decref(body);
    return outcome;
}

static enum outcome seek_body(const struct cli *cli, json_t *body)
{
    json_int_t offset = -1, partition = -1, time_ms = -1;
    enum outcome outcome = cli_number(cli, "offset", 0, INT64_MAX, &offset);
    if (outcome == OUTCOME_OK)
        outcome = cli_number(cli, "partition", 0, 255, &partition);
    if (outcome == OUTCOME_OK)
        outcome = cli_time(cli, "time", &time_ms);
    bool earliest = cli_option(cli, "earliest", 0) != NULL;
    bool latest = cli_option(cli, "latest", 0) != NULL;
    if (outcome == OUTCOME_OK && (offset >= 0) + (time_ms >= 0) + earliest + latest != 1)
        outcome = cli_say(OUTCOME_USAGE, "one of --offset, --time, --earliest and --latest");
    if (offset >= 0)
        json_object_set_new(body, "offset", json_integer(offset));
    if (partition >= 0)
        json_object_set_new(body, "partition", json_integer(partition));
    if (time_ms >= 0)
        json_object_set_new(body, "time", json_integer(time_ms));
    if (earliest || latest)
        json_object_set_new(body, "to", json_string(earliest ? "earliest" : "latest"));
    return outcome;
}

static enum outcome group_seek(struct cli *cli)
{
    json_t *body = json_object();
    enum outcome outcome = seek_body(cli, body);
    if (outcome == OUTCOME_OK)
        return cli_change(
            cli, "POST",
            cli_path("/v1/default/queues/%s/groups/%s/seek", cli->words[0], cli->words[1]), body);
    json_decref(body);
    return outcome;
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

#define LIMIT_OPTIONS                                                                              \
    {"description", "TEXT", "for people"}, {"retention-hours", "N", "how long records are kept"},  \
        {"retention-bytes", "N", "how much is kept"}, {"max-records", "N", "how many are kept"},   \
        {"overflow", "HOW", "of a full queue: drop_oldest (default) or refuse"},                   \
        {"protect-bytes", "N", "so much is kept for groups that have not done it"},                \
        {"max-failures", "N", "so many failures make a dead letter"},                              \
        {"dedup", "DURATION", "how long a message's id is remembered (10m)"},                      \
        {"lease", "DURATION", "how long a consumer may keep what it has not settled (30s)"},       \
    {                                                                                              \
        "deadletters", "HOW", "enable or disable"                                                  \
    }

static const struct cli_option create_options[] = {
    {"type", "TYPE", "standard (default), fifo or stream"},
    {"durability", "HOW", "sync (default) or interval"},
    {"partitions", "N", "fixed for ever (standard 1, stream 4)"},
    LIMIT_OPTIONS,
    {NULL, NULL, NULL},
};

static const struct cli_option set_options[] = {
    LIMIT_OPTIONS,
    {NULL, NULL, NULL},
};

static const struct cli_option group_options[] = {
    {"start", "WHERE", "earliest (default) or latest"},
    {"broadcast", NULL, "every consumer gets every message: consume --consumer NAME"},
    {"selector", "EXPR", "only what matches is the group's; the rest is done for it"},
    {"consumer-idle", "DURATION",
     "of broadcast: consumers that retention has overtaken go then (7d)"},
    {NULL, NULL, NULL},
};

static const struct cli_option group_set_options[] = {
    {"selector", "EXPR", "only what matches is the group's from now on; empty: everything"},
    {"consumer-idle", "DURATION",
     "of broadcast: consumers that retention has overtaken go then (7d)"},
    {NULL, NULL, NULL},
};

static const struct cli_option seek_options[] = {
    {"earliest", NULL, "to the first message there is"},
    {"latest", NULL, "behind the last"},
    {"time", "WHEN",
     "to the first message from then on: 2026-05-01T12:30Z, ms since 1970, or 10m ago as 10m"},
    {"offset", "N", "to this message"},
    {"partition", "N", "that --offset belongs to"},
    {NULL, NULL, NULL},
};

/* clang-format off */
const struct cli_command queue_commands[] = {
    {"queue", "list", "", 0, 0, "all queues", NULL, queue_list},
    {"queue", "show", "QUEUE", 1, 1, "one queue", NULL, queue_show},
    {"queue", "create", "NAME", 1, 1, "a new queue", create_options, queue_create},
    {"queue", "set", "QUEUE", 1, 1, "changes it; 0: no limit", set_options, queue_set},
    {"queue", "delete", "QUEUE", 1, 1, "the queue, its records and groups", NULL, queue_delete},
    {"group", "list", "QUEUE", 1, 1, "the groups of a queue", NULL, group_list},
    {"group", "create", "QUEUE NAME", 2, 2, "a new group", group_options, group_create},
    {"group", "set", "QUEUE GROUP", 2, 2, "changes it", group_set_options, group_set},
    {"group", "seek", "QUEUE GROUP", 2, 2, "moves its position: what lies before is done, the rest comes (again)", seek_options, group_seek},
    {"group", "delete", "QUEUE GROUP", 2, 2, "the group and its positions", NULL, group_delete},
    {"purge", NULL, "QUEUE", 1, 1, "removes all the queue holds; shows how much that was", NULL, queue_purge},
    {"route", "list", "", 0, 0, "which topics go to which queue", NULL, route_list},
    {"route", "show", "FILTER", 1, 1, "one route", NULL, route_show},
    {"route", "set", "FILTER QUEUE", 2, 2, "sends topics that match to the queue", NULL, route_set},
    {"route", "delete", "FILTER", 1, 1, "the route; its topics go where the next best one says", NULL, route_delete},
    {0},
};
/* clang-format on */
