/* SPDX-License-Identifier: Apache-2.0 */
/* polylog deadletter, redrive: what a group could not work off, and back with it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/heap.h"
#include "gateway/cli/cli.h"

enum { PAGE = 500, PROGRESS_US = 300 * 1000 };

/* ------------------------------------------------ list */

static const struct cli_column dead_columns[] = {
    {"OFFSET", "offset"},
    {"FATE", "fate"},
    {"REASON", "dead-letter-reason"},
    {"FAILURES", "dead-letter-count"},
    {"SOURCE", "dead-letter-offset"},
    {"BODY", "body"},
    {NULL, NULL},
};

/* A table has no levels. What the gateway says of a record is its own, whatever properties its
 * publisher gave it; of the dead letter it stands behind those of the same name. */
static void flatten(json_t *records)
{
    size_t index;
    json_t *record;
    json_array_foreach(records, index, record)
    {
        const json_t *attributes = json_object_get(record, "attributes");
        for (const struct cli_column *column = dead_columns; column->title != NULL; column++) {
            json_t *said = json_object_get(attributes, column->field);
            if (json_is_array(said))
                said = json_array_get(said, json_array_size(said) - 1);
            if (json_object_get(record, column->field) == NULL)
                json_object_set(record, column->field, said);
        }
    }
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

/* ------------------------------------------------ redrive */

/* NULL: the call was wrong. */
static json_t *redrive_body(const struct cli *cli)
{
    const char *label = cli_option(cli, "label", 0), *id;
    bool all = cli_option(cli, "all", 0) != NULL;
    json_t *ids = json_array();
    for (unsigned i = 0; (id = cli_option(cli, "id", i)) != NULL; i++) {
        if (*id == '\0' || id[strspn(id, "0123456789")] != '\0') {
            json_decref(ids);
            cli_say(OUTCOME_USAGE, "--id is the offset of a dead letter");
            return NULL;
        }
        json_array_append_new(ids, json_integer(strtoll(id, NULL, 10)));
    }
    bool some = json_array_size(ids) > 0;
    if (all + some + (label != NULL) != 1) {
        json_decref(ids);
        cli_say(OUTCOME_USAGE, "redrive wants one of --all, --id and --label");
        return NULL;
    }
    json_t *body = all    ? json_pack("{s:b}", "all", 1)
                   : some ? json_pack("{s:O}", "ids", ids)
                          : json_pack("{s:s}", "label", label);
    json_decref(ids);
    return body;
}

static json_int_t progress_number(const json_t *progress, const char *name)
{
    return json_integer_value(json_object_get(progress, name));
}

/* On the terminal one line that changes, else nothing until the end. */
static void show_progress(const json_t *progress, bool last)
{
    bool lively = isatty(STDERR_FILENO);
    if (!last && !lively)
        return;
    fprintf(last ? stdout : stderr, "%s%lld of %lld moved", lively ? "\r" : "",
            (long long)progress_number(progress, "moved"),
            (long long)progress_number(progress, "total"));
    if (progress_number(progress, "failed") > 0)
        fprintf(last ? stdout : stderr, ", %lld failed",
                (long long)progress_number(progress, "failed"));
    if (last)
        putchar('\n');
}

static enum outcome redrive(struct cli *cli)
{
    json_t *body = redrive_body(cli), *progress;
    if (body == NULL)
        return OUTCOME_USAGE;
    char *path = cli_path("/v1/default/queues/%s/groups/%s/redrive", cli->words[0], cli->words[1]);
    enum outcome outcome = cli_call(cli, "POST", path, body, &progress);
    bool waits = cli_option(cli, "no-wait", 0) == NULL;
    while (outcome == OUTCOME_OK && waits && json_is_true(json_object_get(progress, "running"))) {
        show_progress(progress, false);
        json_decref(progress);
        usleep(PROGRESS_US);
        outcome = cli_call(cli, "GET", path, NULL, &progress);
    }
    heap_free(path);
    if (outcome == OUTCOME_OK && cli->json)
        show_json(progress);
    else if (outcome == OUTCOME_OK && waits)
        show_progress(progress, true);
    if (outcome == OUTCOME_OK && progress_number(progress, "failed") > 0)
        outcome = OUTCOME_REFUSED;
    json_decref(progress);
    return outcome;
}

/* ------------------------------------------------ table */

static const struct cli_option redrive_options[] = {
    {"all", NULL, "all dead letters of the group"},
    {"id", "OFFSET", "this one; may be given again"},
    {"label", "LABEL", "those with this label"},
    {"no-wait", NULL, "do not wait until it is through"},
    {NULL, NULL, NULL},
};

static const struct cli_option list_options[] = {
    {"max", "N", "at most so many (100)"},
    CLI_FILTER_OPTIONS,
    {NULL, NULL, NULL},
};

/* clang-format off */
const struct cli_command dead_commands[] = {
    {"deadletter", "list", "QUEUE GROUP", 2, 2, "dead letters of the group", list_options, dead_list},
    {"deadletter", "show", "QUEUE GROUP OFFSET", 3, 3, "one of them, with all its attributes", NULL, dead_show},
    {"redrive", NULL, "QUEUE GROUP", 2, 2, "dead letters go back to the queue; shows how far it is", redrive_options, redrive},
    {0},
};
/* clang-format on */
