/* SPDX-License-Identifier: Apache-2.0 */
/* polylog user, grant, key, token, connection: who may come in, what they may do, who is there. The
 * first user can be made on the store of a stopped gateway. */
#include <stdio.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

#include "core/base/heap.h"
#include "core/base/limits.h"
#include "core/base/trace.h"
#include "gateway/cli/cli.h"
#include "gateway/users.h"
#include "storage/rocksdb/rocksdb.h"

/* ------------------------------------------------ passwords */

/* The first line of standard input; asked for when that is a terminal. NULL: there is none. */
static char *read_password(void)
{
    struct termios before, quiet;
    bool asked = isatty(STDIN_FILENO) && tcgetattr(STDIN_FILENO, &before) == 0;
    if (asked) {
        quiet = before;
        quiet.c_lflag &= ~(tcflag_t)ECHO;
        tcsetattr(STDIN_FILENO, TCSAFLUSH, &quiet);
        fputs("password: ", stderr);
    }
    char line[LIMIT_PASSWORD + 2];
    bool got = fgets(line, sizeof line, stdin) != NULL;
    if (asked) {
        tcsetattr(STDIN_FILENO, TCSAFLUSH, &before);
        fputc('\n', stderr);
    }
    size_t size = got ? strcspn(line, "\r\n") : 0;
    char *password = got && size > 0 && size <= LIMIT_PASSWORD ? heap_text(line, size) : NULL;
    explicit_bzero(line, sizeof line);
    return password;
}

static void forget(char *password)
{
    explicit_bzero(password, strlen(password));
    heap_free(password);
}

/* ------------------------------------------------ on a stopped gateway's store */

struct store {
    struct crew crew;
    struct storage *storage;
    struct broker *broker;
};

static struct broker *broker_of(struct errand *errand)
{
    return container_of(errand->crew, struct store, crew)->broker;
}

static void wait_until_ready(struct errand *errand)
{
    broker_when_ready(broker_of(errand), &errand->request);
}

static void shut_down(struct errand *errand)
{
    broker_shut_down(broker_of(errand), &errand->request);
}

static enum status run_errand(struct store *store, void (*run)(struct errand *))
{
    struct errand errand;
    errand_init(&errand, &store->crew, 0, run);
    return errand_do(&errand, true);
}

static enum status store_open(struct store *store, const char *directory, struct err *err)
{
    *store = (struct store){0};
    enum status status = crew_open(&store->crew, 1, false, err);
    if (status != STATUS_OK)
        return status;
    struct storage_options storage = {.directory = directory};
    status = rocksdb_storage_ops.open(&storage, &store->storage, err);
    if (status != STATUS_OK)
        return status;
    offload_open();
    struct broker_options options = {.storage = store->storage,
                                     .workers = 1,
                                     .loops = store->crew.loops,
                                     .built_in_queue = "mqtt"};
    store->broker = broker_open(&options, err);
    if (store->broker == NULL)
        return STATUS_INVALID;
    crew_start(&store->crew);
    status = run_errand(store, wait_until_ready);
    return status == STATUS_OK ? status : err_set(err, status, "%s", status_text(status));
}

static void store_close(struct store *store)
{
    if (store->broker != NULL)
        run_errand(store, shut_down);
    crew_stop(&store->crew);
    offload_close();
    broker_free(store->broker);
    if (store->storage != NULL)
        store->storage->ops->close(store->storage);
    crew_close(&store->crew);
}

static enum outcome add_to_store(const char *directory, const char *name, const char *password)
{
    struct store store;
    struct err err = {0};
    struct new_user user = {.name = span_from_text(name), .password = span_from_text(password)};
    trace_set_level(TRACE_WARN);
    enum status status = store_open(&store, directory, &err);
    if (status == STATUS_OK)
        status = user_make(&store.crew, store.broker, &user, &err);
    store_close(&store);
    return status == STATUS_OK ? OUTCOME_OK : cli_say(OUTCOME_REFUSED, "%s", err.text);
}

/* ------------------------------------------------ users */

static const struct cli_column user_columns[] = {
    {"NAME", "name"}, {"GRANTS", "grants"}, {NULL, NULL}};

static enum outcome user_list(struct cli *cli)
{
    return cli_list(cli, cli_path("/v1/default/users"), "users", user_columns);
}

static enum outcome user_show(struct cli *cli)
{
    return cli_show(cli, "GET", cli_path("/v1/default/users/%s", cli->words[0]), NULL);
}

static enum outcome user_add(struct cli *cli)
{
    const char *directory = cli_option(cli, "data", 0);
    char *password = read_password();
    if (password == NULL)
        return cli_say(OUTCOME_USAGE, "a password of 1 to %u bytes is wanted on standard input",
                       LIMIT_PASSWORD);
    enum outcome outcome;
    if (directory != NULL) {
        outcome = add_to_store(directory, cli->words[0], password);
    } else {
        json_t *body = json_pack("{s:s, s:s}", "name", cli->words[0], "password", password);
        outcome = body == NULL ? cli_say(OUTCOME_USAGE, "name and password are UTF-8 text")
                               : cli_change(cli, "POST", cli_path("/v1/default/users"), body);
    }
    forget(password);
    return outcome;
}

static enum outcome user_set(struct cli *cli)
{
    char *password = read_password();
    if (password == NULL)
        return cli_say(OUTCOME_USAGE, "a password of 1 to %u bytes is wanted on standard input",
                       LIMIT_PASSWORD);
    json_t *body = json_pack("{s:s}", "password", password);
    forget(password);
    return cli_change(cli, "PUT", cli_path("/v1/default/users/%s", cli->words[0]), body);
}

static enum outcome user_delete(struct cli *cli)
{
    return cli_change(cli, "DELETE", cli_path("/v1/default/users/%s", cli->words[0]), NULL);
}

/* ------------------------------------------------ grants */

static enum outcome grants_get(struct cli *cli, json_t **grants)
{
    json_t *answer;
    char *path = cli_path("/v1/default/users/%s/grants", cli->words[0]);
    enum outcome outcome = cli_call(cli, "GET", path, NULL, &answer);
    heap_free(path);
    *grants = json_incref(json_object_get(answer, "grants"));
    json_decref(answer);
    return outcome;
}

static enum outcome grants_put(struct cli *cli, json_t *grants)
{
    return cli_change(cli, "PUT", cli_path("/v1/default/users/%s/grants", cli->words[0]),
                      json_pack("{s:o}", "grants", grants));
}

static enum outcome grant_list(struct cli *cli)
{
    json_t *grants;
    enum outcome outcome = grants_get(cli, &grants);
    size_t index;
    json_t *grant;
    if (outcome == OUTCOME_OK && cli->json)
        show_json(grants);
    else
        json_array_foreach(grants, index, grant) show_value(grant);
    json_decref(grants);
    return outcome;
}

static char *grant_text(const struct cli *cli)
{
    size_t actions = strlen(cli->words[1]), pattern = strlen(cli->words[2]);
    char *text = heap_new(actions + pattern + 2);
    memcpy(text, cli->words[1], actions);
    text[actions] = ' ';
    memcpy(text + actions + 1, cli->words[2], pattern);
    return text;
}

static enum outcome grant_add(struct cli *cli)
{
    json_t *grants;
    enum outcome outcome = grants_get(cli, &grants);
    if (outcome != OUTCOME_OK)
        return outcome;
    char *text = grant_text(cli);
    json_array_append_new(grants, json_string(text));
    heap_free(text);
    return grants_put(cli, grants);
}

/* All at once: ACTIONS PATTERN pairs in place of what there was. */
static enum outcome grant_set(struct cli *cli)
{
    if (cli->word_count % 2 != 1)
        return cli_say(OUTCOME_USAGE, "grants are pairs of ACTIONS and PATTERN");
    json_t *grants = json_array();
    for (unsigned i = 1; i + 1 < cli->word_count; i += 2)
        json_array_append_new(grants, json_sprintf("%s %s", cli->words[i], cli->words[i + 1]));
    return grants_put(cli, grants);
}

static enum outcome grant_delete(struct cli *cli)
{
    json_t *grants;
    enum outcome outcome = grants_get(cli, &grants);
    if (outcome != OUTCOME_OK)
        return outcome;
    char *text = grant_text(cli);
    size_t before = json_array_size(grants);
    for (size_t i = before; i-- > 0;)
        if (strcmp(json_string_value(json_array_get(grants, i)), text) == 0)
            json_array_remove(grants, i);
    if (json_array_size(grants) == before) {
        outcome = cli_say(OUTCOME_REFUSED, "%s has no grant \"%s\"", cli->words[0], text);
        json_decref(grants);
    } else {
        outcome = grants_put(cli, grants);
    }
    heap_free(text);
    return outcome;
}

/* ------------------------------------------------ access keys */

static const struct cli_column key_columns[] = {{"ID", "id"}, {NULL, NULL}};

static enum outcome key_list(struct cli *cli)
{
    return cli_list(cli, cli_path("/v1/default/users/%s/keys", cli->words[0]), "keys", key_columns);
}

static enum outcome key_create(struct cli *cli)
{
    return cli_show(cli, "POST", cli_path("/v1/default/users/%s/keys", cli->words[0]), NULL);
}

static enum outcome key_delete(struct cli *cli)
{
    return cli_change(cli, "DELETE",
                      cli_path("/v1/default/users/%s/keys/%s", cli->words[0], cli->words[1]), NULL);
}

/* ------------------------------------------------ tokens */

static const struct cli_option token_options[] = {
    {"expires", "DURATION", "at most 1d; 1h when not given"},
    {NULL, NULL, NULL},
};

static enum outcome token_create(struct cli *cli)
{
    json_int_t ms = 3600 * 1000;
    enum outcome outcome = cli_duration(cli, "expires", 24 * 3600 * 1000, &ms);
    if (outcome != OUTCOME_OK)
        return outcome;
    return cli_show(cli, "POST", cli_path("/v1/default/tokens"),
                    json_pack("{s:I}", "expires_in", ms / 1000));
}

/* ------------------------------------------------ connections */

static const struct cli_column connection_columns[] = {{"ID", "id"},
                                                       {"PROTOCOL", "protocol"},
                                                       {"ADDRESS", "address"},
                                                       {"USER", "user"},
                                                       {"CLIENT", "client_id"},
                                                       {"CONNECTED", "connected"},
                                                       {"QUEUED", "queued_bytes"},
                                                       {NULL, NULL}};

static enum outcome connection_list(struct cli *cli)
{
    json_int_t limit = 1000, after = 0;
    enum outcome outcome = cli_number(cli, "limit", 1, 1000, &limit);
    if (outcome == OUTCOME_OK)
        outcome = cli_number(cli, "after", 0, INT64_MAX, &after);
    if (outcome != OUTCOME_OK)
        return outcome;
    char *path = cli_query_number(cli_path("/v1/default/connections"), "limit", limit);
    path = cli_query_number(path, "after", after);
    const char *user = cli_option(cli, "of", 0), *client = cli_option(cli, "client", 0);
    if (user != NULL)
        path = cli_query(path, "user", user);
    if (client != NULL)
        path = cli_query(path, "client_id", client);
    return cli_list(cli, path, "connections", connection_columns);
}

static enum outcome connection_show(struct cli *cli)
{
    return cli_show(cli, "GET", cli_path("/v1/default/connections/%s", cli->words[0]), NULL);
}

static enum outcome connection_delete(struct cli *cli)
{
    return cli_change(cli, "DELETE", cli_path("/v1/default/connections/%s", cli->words[0]), NULL);
}

/* ------------------------------------------------ table */

static const struct cli_option connection_options[] = {
    {"of", "USER", "only those of this user"},
    {"client", "ID", "only those with this client id"},
    {"limit", "N", "at most so many, 1000 when not given"},
    {"after", "ID", "those behind this one"},
    {NULL, NULL, NULL},
};

static const struct cli_option add_options[] = {
    {"data", "DIR", "make it in the store of a stopped gateway"},
    {NULL, NULL, NULL},
};

/* clang-format off */
const struct cli_command user_commands[] = {
    {"user", "list", "", 0, 0, "all users", NULL, user_list},
    {"user", "show", "NAME", 1, 1, "one user", NULL, user_show},
    {"user", "add", "NAME", 1, 1, "a new user; the password comes from standard input", add_options, user_add},
    {"user", "set", "NAME", 1, 1, "a new password, from standard input", NULL, user_set},
    {"user", "delete", "NAME", 1, 1, "the user", NULL, user_delete},
    {"grant", "list", "USER", 1, 1, "what the user may do", NULL, grant_list},
    {"grant", "create", "USER ACTIONS PATTERN", 3, 3, "one more, such as: publish,consume topic:plant/#", NULL, grant_add},
    {"grant", "set", "USER [ACTIONS PATTERN]...", 1, CLI_WORDS_MAX, "these in place of all", NULL, grant_set},
    {"grant", "delete", "USER ACTIONS PATTERN", 3, 3, "this one", NULL, grant_delete},
    {"key", "list", "USER", 1, 1, "access keys of the user", NULL, key_list},
    {"key", "create", "USER", 1, 1, "a new access key; its secret is shown once", NULL, key_create},
    {"key", "delete", "USER ID", 2, 2, "the access key", NULL, key_delete},
    {"token", "create", "", 0, 0, "stands for the calling user for a while, without the password", token_options, token_create},
    {"connection", "list", "", 0, 0, "who is connected", connection_options, connection_list},
    {"connection", "show", "ID", 1, 1, "one connection", NULL, connection_show},
    {"connection", "delete", "ID", 1, 1, "ends it", NULL, connection_delete},
    {0},
};
/* clang-format on */
