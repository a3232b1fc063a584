/* SPDX-License-Identifier: Apache-2.0 */
/* polylog deadletter: what a group could not work off. */
#include <stdio.h>
#include <string.h>

#include "core/base/heap.h"
#include "gateway/cli/cli.h"

enum { PAGE = 500 };

/* ------------------------------------------------ list */

static const struct cli_column dead_columns[] = {
    {"OFFSET", "offset"},
    {"REASON", "dead-letter-reason"},
    {"FAILURES", "dead-letter-count"},
    {"SOURCE", "dead-letter-offset"},
    {"BODY", "body"},
    {NULL, NULL},
};

/* A table has no levels. */
static void flatten(json_t *records)
{
    size_t index;
    json_t *record;
    json_array_foreach(records, index, record)
        json_object_update(record, json_object_get(record, "attributes"));
}

/* One page from *offset on (-1: the first); false when it was the last, or refused. */
static bool fetch(struct cli *cli, json_int_t *offset, json_int_t most, json_t *records,
                  enum outcome *outcome)
{
    char *path =
        cli_path("/v1/default/queues/%s/groups/%s/deadletters", cli->words[0], cli->words[1]);
    path = cli_query_number(path, "limit", most < PAGE ? most : PAGE);
    if (*offset >= 0)
        path = cli_query_number(path, "offset", *offset);
    path = cli_query_filter(path, cli);
    json_t *answer;
    *outcome = cli_call(cli, "GET", path, NULL, &answer);
    heap_free(path);
    json_array_extend(records, json_object_get(answer, "records"));
    *offset = json_integer_value(json_object_get(answer, "next"));
    bool more = *offset < json_integer_value(json_object_get(answer, "end"));
    json_decref(answer);
    return *outcome == OUTCOME_OK && more;
}

static enum outcome dead_list(struct cli *cli)
{
    json_int_t most = 100, offset = -1;
    enum outcome outcome = cli_number(cli, "max", 1, INT64_MAX, &most);
    if (outcome != OUTCOME_OK)
        return outcome;
    json_t *records = json_array();
    while ((json_int_t)json_array_size(records) < most &&
           fetch(cli, &offset, most - (json_int_t)json_array_size(records), records, &outcome))
        ;
    if (outcome == OUTCOME_OK && cli->json) {
        show_json(records);
    } else if (outcome == OUTCOME_OK) {
        flatten(records);
        show_table(records, dead_columns);
    }
    json_decref(records);
    return outcome;
}

static enum outcome dead_show(struct cli *cli)
{
    char *path =
        cli_path("/v1/default/queues/%s/groups/%s/deadletters", cli->words[0], cli->words[1]);
    path = cli_query_number(cli_query(path, "offset", cli->words[2]), "limit", 1);
    json_t *answer;
    enum outcome outcome = cli_call(cli, "GET", path, NULL, &answer);
    heap_free(path);
    const json_t *record = json_array_get(json_object_get(answer, "records"), 0);
    char offset[24];
    snprintf(offset, sizeof offset, "%lld",
             (long long)json_integer_value(json_object_get(record, "offset")));
    if (outcome == OUTCOME_OK && (record == NULL || strcmp(offset, cli->words[2]) != 0))
        outcome = cli_say(OUTCOME_REFUSED, "there is no dead letter %s", cli->words[2]);
    else if (outcome == OUTCOME_OK && cli->json)
        show_json(record);
    else if (outcome == OUTCOME_OK)
        show_object(record);
    json_decref(answer);
    return outcome;
}

/* ------------------------------------------------ table */

static const struct cli_option list_options[] = {
    {"max", "N", "at most so many (100)"},
    CLI_FILTER_OPTIONS,
    {NULL, NULL, NULL},
};

/* clang-format off */
const struct cli_command dead_commands[] = {
    {"deadletter", "list", "QUEUE GROUP", 2, 2, "dead letters of the group", list_options, dead_list},
    {"deadletter", "show", "QUEUE GROUP OFFSET", 3, 3, "one of them, with all its attributes", NULL, dead_show},
    {0},
};
/* clang-format on */
