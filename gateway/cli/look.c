/* SPDX-License-Identifier: Apache-2.0 */
/* polylog peek, replay, explain: records as they lie in the queue; nothing is taken. */
#include <stdio.h>
#include <time.h>

#include "core/base/heap.h"
#include "gateway/cli/cli.h"

enum { PAGE = 500, PEEK_MAX = 10, PARTITIONS_MAX = 256 };

/* One partition: a page of it, and where the next one begins. */
struct source {
    json_t *records; /* of the page */
    size_t at;
    json_int_t next;
    json_int_t end; /* of the partition as it was at first; -1: not known yet */
};

struct walk {
    struct cli *cli;
    struct source sources[PARTITIONS_MAX];
    json_int_t first, count;    /* partitions */
    json_int_t offset, time_ms; /* -1: not given */
    json_int_t left;            /* to show */
};

/* ------------------------------------------------ pages */

static enum outcome fetch(struct walk *walk, json_int_t partition)
{
    struct source *source = &walk->sources[partition];
    char *path = cli_path("/v1/default/queues/%s/records", walk->cli->words[0]);
    path = cli_query_number(path, "partition", partition);
    path = cli_query_number(path, "limit", walk->left < PAGE ? walk->left : PAGE);
    if (source->end >= 0)
        path = cli_query_number(path, "offset", source->next);
    else if (walk->offset >= 0)
        path = cli_query_number(path, "offset", walk->offset);
    if (source->end < 0 && walk->time_ms >= 0)
        path = cli_query_number(path, "time", walk->time_ms);
    path = cli_query_filter(path, walk->cli);
    json_t *answer;
    enum outcome outcome = cli_call(walk->cli, "GET", path, NULL, &answer);
    heap_free(path);
    if (outcome == OUTCOME_OK) {
        json_decref(source->records);
        source->records = json_incref(json_object_get(answer, "records"));
        source->at = 0;
        source->next = json_integer_value(json_object_get(answer, "next"));
        if (source->end < 0)
            source->end = json_integer_value(json_object_get(answer, "end"));
    }
    json_decref(answer);
    return outcome;
}

/* Until there is a record, or no more. */
static enum outcome fill(struct walk *walk, json_int_t partition)
{
    struct source *source = &walk->sources[partition];
    enum outcome outcome = OUTCOME_OK;
    while (outcome == OUTCOME_OK && source->at == json_array_size(source->records) &&
           (source->end < 0 || source->next < source->end))
        outcome = fetch(walk, partition);
    return outcome;
}

/* The partition whose next record is the oldest; -1: there are no more. */
static json_int_t oldest(const struct walk *walk)
{
    json_int_t found = -1, found_ms = 0;
    for (json_int_t i = walk->first; i < walk->first + walk->count; i++) {
        const json_t *record = json_array_get(walk->sources[i].records, walk->sources[i].at);
        json_int_t time_ms = json_integer_value(json_object_get(record, "time"));
        if (record != NULL && (found < 0 || time_ms < found_ms)) {
            found = i;
            found_ms = time_ms;
        }
    }
    return found;
}

/* ------------------------------------------------ showing */

static void show_place(json_int_t partition, const json_t *record)
{
    json_int_t ms = json_integer_value(json_object_get(record, "time"));
    time_t seconds = (time_t)(ms / 1000);
    struct tm parts;
    char text[32];
    strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", gmtime_r(&seconds, &parts));
    printf("%lld-%lld %s.%03dZ ", (long long)partition,
           (long long)json_integer_value(json_object_get(record, "offset")), text,
           (int)(ms % 1000));
}

static void show_record(const struct walk *walk, json_int_t partition, json_t *record)
{
    if (walk->cli->json) {
        json_object_set_new(record, "partition", json_integer(partition));
        show_json(record);
        return;
    }
    if (cli_option(walk->cli, "offsets", 0) != NULL)
        show_place(partition, record);
    show_value(json_object_get(record, "body"));
}

static enum outcome walk_on(struct walk *walk)
{
    enum outcome outcome = OUTCOME_OK;
    for (json_int_t i = walk->first; outcome == OUTCOME_OK && i < walk->first + walk->count; i++)
        outcome = fill(walk, i);
    while (outcome == OUTCOME_OK && walk->left > 0) {
        json_int_t partition = oldest(walk);
        if (partition < 0)
            break;
        struct source *source = &walk->sources[partition];
        show_record(walk, partition, json_array_get(source->records, source->at++));
        walk->left--;
        if (walk->left > 0)
            outcome = fill(walk, partition);
    }
    return outcome;
}

/* ------------------------------------------------ commands */

/* The partition that was named, or all. */
static enum outcome choose_partitions(struct walk *walk)
{
    json_t *queue;
    char *path = cli_path("/v1/default/queues/%s", walk->cli->words[0]);
    enum outcome outcome = cli_call(walk->cli, "GET", path, NULL, &queue);
    heap_free(path);
    if (outcome != OUTCOME_OK)
        return outcome;
    walk->first = -1;
    walk->count = json_integer_value(json_object_get(queue, "partition_count"));
    json_decref(queue);
    if (walk->count < 1 || walk->count > PARTITIONS_MAX)
        return cli_say(OUTCOME_REFUSED, "the answer is not understood");
    outcome = cli_number(walk->cli, "partition", 0, walk->count - 1, &walk->first);
    if (outcome == OUTCOME_OK && walk->first < 0 && walk->offset >= 0 && walk->count > 1)
        outcome =
            cli_say(OUTCOME_USAGE, "the queue has %lld partitions: --offset wants --partition",
                    (long long)walk->count);
    if (walk->first >= 0)
        walk->count = 1;
    else
        walk->first = 0;
    return outcome;
}

static enum outcome look(struct cli *cli, json_int_t most)
{
    struct walk *walk = heap_new(sizeof *walk);
    walk->cli = cli;
    walk->left = most;
    walk->offset = walk->time_ms = -1;
    for (size_t i = 0; i < PARTITIONS_MAX; i++)
        walk->sources[i].end = -1;
    enum outcome outcome = cli_number(cli, "max", 1, INT64_MAX, &walk->left);
    if (outcome == OUTCOME_OK)
        outcome = cli_number(cli, "offset", 0, INT64_MAX, &walk->offset);
    if (outcome == OUTCOME_OK)
        outcome = cli_time(cli, "time", &walk->time_ms);
    if (outcome == OUTCOME_OK)
        outcome = choose_partitions(walk);
    if (outcome == OUTCOME_OK)
        outcome = walk_on(walk);
    for (size_t i = 0; i < PARTITIONS_MAX; i++)
        json_decref(walk->sources[i].records);
    heap_free(walk);
    return outcome;
}

static enum outcome peek(struct cli *cli)
{
    return look(cli, PEEK_MAX);
}

static enum outcome replay(struct cli *cli)
{
    return look(cli, INT64_MAX);
}

static enum outcome explain(struct cli *cli)
{
    char *path = cli_path("/v1/default/queues/%s/groups/%s/explain", cli->words[0], cli->words[1]);
    path = cli_query(path, "offset", cli->words[2]);
    if (cli_option(cli, "partition", 0) != NULL)
        path = cli_query(path, "partition", cli_option(cli, "partition", 0));
    return cli_show(cli, "GET", path, NULL);
}

/* ------------------------------------------------ table */

#define LOOK_OPTIONS                                                                               \
    {"partition", "N", "only this one; else all, by time"},                                        \
        {"offset", "N", "from this offset on"},                                                    \
        {"time", "WHEN",                                                                           \
         "from this time on: 2026-05-01T12:30Z, ms since 1970, or 10m ago as 10m"},                \
        {"offsets", NULL, "show partition, offset and time before each message"},                  \
        CLI_FILTER_OPTIONS

static const struct cli_option peek_options[] = {
    LOOK_OPTIONS,
    {"max", "N", "end after N messages (10)"},
    {NULL, NULL, NULL},
};

static const struct cli_option replay_options[] = {
    LOOK_OPTIONS,
    {"max", "N", "end after N messages"},
    {NULL, NULL, NULL},
};

static const struct cli_option explain_options[] = {
    {"partition", "N", "of a queue with several (0)"},
    {NULL, NULL, NULL},
};

/* clang-format off */
const struct cli_command look_commands[] = {
    {"peek", NULL, "QUEUE", 1, 1, "shows the first messages without taking them", peek_options, peek},
    {"replay", NULL, "QUEUE", 1, 1, "shows all messages there are now, from an offset or a time on", replay_options, replay},
    {"explain", NULL, "QUEUE GROUP OFFSET", 3, 3, "why the group gets a message, or does not", explain_options, explain},
    {0},
};
/* clang-format on */
