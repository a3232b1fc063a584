/* SPDX-License-Identifier: Apache-2.0 */
/* polylog publish, consume, backup, status: records in and out, and how the gateway is. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/heap.h"
#include "core/base/limits.h"
#include "core/base/utf8.h"
#include "gateway/cli/cli.h"

enum { BODY_MAX = 10 * 1024 * 1024, TAKE_MAX = 100, WAIT_SECONDS_MAX = 60 };

/* ------------------------------------------------ publish */

static char *base64(const uint8_t *bytes, size_t size)
{
    static const char letters[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    char *text = heap_new((size + 2) / 3 * 4 + 1);
    char *at = text;
    for (size_t i = 0; i < size; i += 3) {
        uint32_t three = (uint32_t)bytes[i] << 16;
        three |= i + 1 < size ? (uint32_t)bytes[i + 1] << 8 : 0;
        three |= i + 2 < size ? bytes[i + 2] : 0;
        *at++ = letters[three >> 18 & 63];
        *at++ = letters[three >> 12 & 63];
        *at++ = i + 1 < size ? letters[three >> 6 & 63] : '=';
        *at++ = i + 2 < size ? letters[three & 63] : '=';
    }
    return text;
}

/* Text goes as text, everything else as base64. */
static json_t *message_new(const char *bytes, size_t size)
{
    if (memchr(bytes, '\0', size) == NULL && utf8_is_valid(span_of(bytes, size)))
        return json_pack("{s:s%}", "body", bytes, size);
    char *text = base64((const uint8_t *)bytes, size);
    json_t *message = json_pack("{s:s, s:s}", "body", text, "body_encoding", "base64");
    heap_free(text);
    return message;
}

static enum outcome add_attributes(const struct cli *cli, json_t *message)
{
    json_t *attributes = json_object();
    const char *given;
    for (unsigned i = 0; (given = cli_option(cli, "attribute", i)) != NULL; i++) {
        const char *equals = strchr(given, '=');
        if (equals == NULL || equals == given) {
            json_decref(attributes);
            return cli_say(OUTCOME_USAGE, "--attribute %s: a name, '=' and a value are wanted",
                           given);
        }
        char *name = heap_text(given, (size_t)(equals - given));
        json_object_set_new(attributes, name, json_string(equals + 1));
        heap_free(name);
    }
    if (json_object_size(attributes) > 0)
        json_object_set(message, "attributes", attributes);
    json_decref(attributes);
    return OUTCOME_OK;
}

/* What stands beside attributes. */
static enum outcome add_fields(const struct cli *cli, json_t *message)
{
    static const struct {
        const char *option, *field;
    } texts[] = {{"key", "key"}, {"group", "group_id"}, {"id", "dedup_id"}};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        const char *given = cli_option(cli, texts[i].option, 0);
        if (given != NULL)
            json_object_set_new(message, texts[i].field, json_string(given));
    }
    const char *label;
    json_t *labels = json_array();
    for (unsigned i = 0; (label = cli_option(cli, "label", i)) != NULL; i++)
        json_array_append_new(labels, json_string(label));
    json_object_set_new(message, "labels", labels);
    json_int_t priority = -1, expiry_ms = -1, delay_ms = -1;
    enum outcome outcome = cli_number(cli, "priority", 0, 9, &priority);
    if (outcome == OUTCOME_OK)
        outcome = cli_duration(cli, "expiry", INT64_MAX / 4, &expiry_ms);
    if (outcome == OUTCOME_OK)
        outcome = cli_duration(cli, "delay", LIMIT_DELAY_MS, &delay_ms);
    if (delay_ms >= 0)
        json_object_set_new(message, "delay_ms", json_integer(delay_ms));
    if (priority >= 0)
        json_object_set_new(message, "priority", json_integer(priority));
    if (expiry_ms >= 0)
        json_object_set_new(message, "expiry_ms", json_integer(expiry_ms));
    return outcome;
}

static enum outcome publish_bytes(struct cli *cli, const char *bytes, size_t size)
{
    const char *topic = cli_option(cli, "topic", 0);
    json_t *message = message_new(bytes, size);
    enum outcome outcome = add_attributes(cli, message);
    if (outcome == OUTCOME_OK)
        outcome = add_fields(cli, message);
    if (outcome != OUTCOME_OK) {
        json_decref(message);
        return outcome;
    }
    json_t *body =
        json_pack("{s:s, s:[o]}", topic != NULL ? "topic" : "queue",
                  topic != NULL ? topic : cli_option(cli, "queue", 0), "messages", message);
    if (cli_option(cli, "retain", 0) != NULL)
        json_object_set_new(body, "retain", json_true());
    json_t *answer;
    outcome = cli_call(cli, "POST", "/v1/default/publish", body, &answer);
    if (outcome != OUTCOME_OK)
        return outcome;
    const json_t *first = json_array_get(json_object_get(answer, "messages"), 0);
    const char *refused = json_string_value(json_object_get(first, "error"));
    if (cli->json)
        show_json(answer);
    else if (cli_option(cli, "delay", 0) != NULL) /* what cancels it */
        show_value(json_object_get(first, "id"));
    if (refused != NULL)
        outcome = cli_say(OUTCOME_REFUSED, "%s", refused);
    json_decref(answer);
    return outcome;
}

static enum outcome publish(struct cli *cli)
{
    if ((cli_option(cli, "topic", 0) == NULL) == (cli_option(cli, "queue", 0) == NULL))
        return cli_say(OUTCOME_USAGE, "publish goes to one --topic or one --queue");
    if (cli->word_count > 0)
        return publish_bytes(cli, cli->words[0], strlen(cli->words[0]));
    size_t size;
    char *bytes = cli_read_input(BODY_MAX, &size);
    if (bytes == NULL)
        return cli_say(OUTCOME_REFUSED, "standard input is longer than %d bytes, or unreadable",
                       BODY_MAX);
    enum outcome outcome = publish_bytes(cli, bytes, size);
    heap_free(bytes);
    return outcome;
}

/* ------------------------------------------------ consume */

static void show_messages(const struct cli *cli, const json_t *messages)
{
    size_t index;
    json_t *item;
    json_array_foreach(messages, index, item)
    {
        const json_t *message = json_object_get(item, "message");
        const json_t *topic = json_object_get(json_object_get(message, "attributes"), "topic");
        if (cli->json) {
            show_json(message);
            continue;
        }
        if (cli_option(cli, "topics", 0) != NULL)
            printf("%s ", json_is_string(topic) ? json_string_value(topic) : "-");
        show_value(json_object_get(message, "body"));
    }
    fflush(stdout);
}

/* What was shown is done; a record whose acknowledgement fails comes again. */
static enum outcome acknowledge(struct cli *cli, const json_t *messages)
{
    json_t *receipts = json_array();
    size_t index;
    json_t *item;
    json_array_foreach(messages, index, item)
        json_array_append(receipts, json_object_get(item, "handler"));
    json_t *answer;
    char *path = cli_path("/v1/default/queues/%s/groups/%s/ack", cli->words[0], cli->words[1]);
    enum outcome outcome =
        cli_call(cli, "POST", path, json_pack("{s:o}", "receipts", receipts), &answer);
    heap_free(path);
    json_int_t failed = json_integer_value(json_object_get(answer, "fail"));
    json_decref(answer);
    if (failed > 0)
        return cli_say(OUTCOME_REFUSED, "%lld of %zu could not be acknowledged and come again",
                       (long long)failed, json_array_size(messages));
    return outcome;
}

static enum outcome consume_once(struct cli *cli, json_int_t most, json_int_t wait, size_t *count)
{
    char *path = cli_path("/v1/default/queues/%s/groups/%s/messages", cli->words[0], cli->words[1]);
    path = cli_query_number(path, "max_msgs", most);
    path = cli_query_number(path, "time_wait", wait);
    if (cli_option(cli, "dead", 0) != NULL)
        path = cli_query(path, "dead", "true");
    if (cli_option(cli, "consumer", 0) != NULL)
        path = cli_query(path, "consumer", cli_option(cli, "consumer", 0));
    path = cli_query_filter(path, cli);
    json_t *messages;
    enum outcome outcome = cli_call(cli, "GET", path, NULL, &messages);
    heap_free(path);
    *count = json_array_size(messages);
    if (outcome == OUTCOME_OK && *count > 0) {
        show_messages(cli, messages);
        if (cli_option(cli, "no-ack", 0) == NULL)
            outcome = acknowledge(cli, messages);
    }
    json_decref(messages);
    return outcome;
}

static enum outcome consume(struct cli *cli)
{
    json_int_t wait = 3, max = 0;
    enum outcome outcome = cli_number(cli, "wait", 0, WAIT_SECONDS_MAX, &wait);
    if (outcome == OUTCOME_OK)
        outcome = cli_number(cli, "max", 1, INT64_MAX, &max);
    bool follow = cli_option(cli, "follow", 0) != NULL;
    for (json_int_t taken = 0; outcome == OUTCOME_OK && (max == 0 || taken < max);) {
        json_int_t most = max == 0 || max - taken > TAKE_MAX ? TAKE_MAX : max - taken;
        size_t count;
        outcome = consume_once(cli, most, wait, &count);
        taken += (json_int_t)count;
        if (count == 0 && !follow)
            break;
    }
    return outcome;
}

static enum outcome delayed_delete(struct cli *cli)
{
    return cli_change(cli, "DELETE",
                      cli_path("/v1/default/queues/%s/delayed/%s", cli->words[0], cli->words[1]),
                      NULL);
}

/* ------------------------------------------------ status */

static enum outcome backup(struct cli *cli)
{
    return cli_change(cli, "POST", cli_path("/v1/default/backup"),
                      json_pack("{s:s}", "directory", cli->words[0]));
}

static const char *const figures[] = {
    "polylog_connections",   "polylog_received_records_total", "polylog_delivered_records_total",
    "polylog_refused_total", "polylog_dropped_total",          "polylog_queue_records",
    "polylog_queue_bytes",   "polylog_group_backlog",          "polylog_memory_bytes",
    "polylog_build_info",
};

/* "polylog_connections{protocol=\"x\"} 5" is one of the figures for people. */
static bool is_figure(const char *line, size_t size)
{
    for (size_t i = 0; i < sizeof figures / sizeof *figures; i++) {
        size_t length = strlen(figures[i]);
        if (size > length && strncmp(line, figures[i], length) == 0 &&
            (line[length] == '{' || line[length] == ' '))
            return true;
    }
    return false;
}

static enum outcome status(struct cli *cli)
{
    char *text;
    enum outcome ready = cli_call_text(cli, "/readyz", &text);
    heap_free(text);
    if (ready != OUTCOME_OK)
        return ready;
    enum outcome outcome = cli_call_text(cli, "/metrics", &text);
    if (outcome != OUTCOME_OK)
        return outcome;
    json_t *rows = json_array();
    for (char *line = text, *end; *line != '\0'; line = *end == '\0' ? end : end + 1) {
        end = strchrnul(line, '\n');
        const char *space = memrchr(line, ' ', (size_t)(end - line));
        if (*line == '#' || space == NULL || !is_figure(line, (size_t)(end - line)))
            continue;
        if (strtod(space, NULL) == 0 && !cli->json)
            continue;
        size_t prefix = strlen("polylog_");
        json_array_append_new(rows, json_pack("{s:s%, s:f}", "name", line + prefix,
                                              (size_t)(space - line) - prefix, "value",
                                              strtod(space, NULL)));
    }
    heap_free(text);
    if (cli->json) {
        json_t *all = json_pack("{s:b, s:O}", "ready", 1, "figures", rows);
        show_json(all);
        json_decref(all);
    } else {
        puts("ready");
        size_t index;
        json_t *row;
        json_array_foreach(rows, index, row)
            printf("%-60s %.0f\n", json_string_value(json_object_get(row, "name")),
                   json_real_value(json_object_get(row, "value")));
    }
    json_decref(rows);
    return OUTCOME_OK;
}

/* ------------------------------------------------ table */

static const struct cli_option publish_options[] = {
    {"topic", "TOPIC", "to whoever subscribed, and to the topic's home queue"},
    {"queue", "QUEUE", "to the queue by name"},
    {"key", "KEY", "records of one key stay in order"},
    {"attribute", "NAME=VALUE", "more about the message; may be given again"},
    {"group", "NAME", "message group: a fifo queue keeps its order"},
    {"label", "LABEL", "for filters; up to three"},
    {"id", "ID", "the same one again, within the queue's window, is not stored again"},
    {"priority", "N", "0 to 9"},
    {"delay", "DURATION", "not delivered before, such as 30s; prints the id that cancels it"},
    {"expiry", "DURATION", "not delivered after, such as 10m"},
    {"retain", NULL, "kept as the topic's last message"},
    {NULL, NULL, NULL},
};

static const struct cli_option consume_options[] = {
    {"max", "N", "end after N messages"},
    {"wait", "SECONDS", "how long to wait for one (3)"},
    {"follow", NULL, "do not end when there is none"},
    {"no-ack", NULL, "leave them to come again when their lease runs out"},
    {"topics", NULL, "show the topic before each message"},
    {"dead", NULL, "the group's dead letters"},
    {"consumer", "NAME", "who asks, of a broadcast group"},
    CLI_FILTER_OPTIONS,
    {NULL, NULL, NULL},
};

/* clang-format off */
const struct cli_command message_commands[] = {
    {"publish", NULL, "[MESSAGE]", 0, 1, "one message, from the argument or standard input", publish_options, publish},
    {"consume", NULL, "QUEUE GROUP", 2, 2, "takes, shows and acknowledges messages", consume_options, consume},
    {"delayed", "delete", "QUEUE ID", 2, 2, "a delayed message is not delivered", NULL, delayed_delete},
    {"backup", NULL, "DIRECTORY", 1, 1, "copies everything there is into a directory of the gateway's machine", NULL, backup},
    {"status", NULL, "", 0, 0, "whether the gateway is ready, and its main figures", NULL, status},
    {0},
};
/* clang-format on */
