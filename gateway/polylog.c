/* SPDX-License-Identifier: Apache-2.0 */
/* The command line client: finds the command, its words and options, and runs it. */
#include <curl/curl.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/heap.h"
#include "core/base/limits.h"
#include "gateway/cli/cli.h"

static const struct cli_command *const tables[] = {message_commands, look_commands, dead_commands,
                                                   queue_commands, user_commands};
enum { TABLES = sizeof tables / sizeof *tables };

static const struct cli_option global_options[] = {
    {"url", "URL", "of the gateway; else $POLYLOG_URL, else http://127.0.0.1:8080"},
    {"user", "NAME[:PASSWORD]", "else $POLYLOG_USER and $POLYLOG_PASSWORD"},
    {"token", "TOKEN", "in place of a user; else $POLYLOG_TOKEN"},
    {"ca", "FILE", "certificates to trust with https"},
    {"json", NULL, "answers as the gateway gave them"},
    {"help", NULL, "this text, or with a command that command's"},
    {"version", NULL, "the version"},
    {NULL, NULL, NULL},
};

enum outcome cli_say(enum outcome outcome, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fputs("polylog: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    return outcome;
}

const char *cli_option(const struct cli *cli, const char *name, unsigned n)
{
    for (unsigned i = 0; i < cli->option_count; i++)
        if (strcmp(cli->options[i].name, name) == 0 && n-- == 0)
            return cli->options[i].value;
    return NULL;
}

enum outcome cli_number(const struct cli *cli, const char *name, json_int_t lowest,
                        json_int_t highest, json_int_t *number)
{
    const char *given = cli_option(cli, name, 0);
    if (given == NULL)
        return OUTCOME_OK;
    errno = 0;
    char *rest;
    json_int_t value = strtoll(given, &rest, 10);
    if (errno != 0 || rest == given || *rest != '\0' || value < lowest || value > highest)
        return cli_say(OUTCOME_USAGE, "--%s is a number of %lld to %lld", name, (long long)lowest,
                       (long long)highest);
    *number = value;
    return OUTCOME_OK;
}

char *cli_read_input(size_t limit, size_t *size)
{
    size_t capacity = 64 * 1024;
    char *bytes = heap_new(capacity);
    *size = 0;
    ssize_t got;
    while ((got = read(STDIN_FILENO, bytes + *size, capacity - *size)) > 0) {
        *size += (size_t)got;
        if (*size > limit)
            break;
        if (*size == capacity)
            bytes = heap_resize(bytes, capacity *= 2);
    }
    if (got == 0)
        return bytes;
    heap_free(bytes);
    return NULL;
}

/* ------------------------------------------------ help */

static void show_options(const struct cli_option *options)
{
    for (; options != NULL && options->name != NULL; options++) {
        char left[64];
        snprintf(left, sizeof left, "--%s%s%s", options->name, options->value == NULL ? "" : " ",
                 options->value == NULL ? "" : options->value);
        printf("  %-26s %s\n", left, options->text);
    }
}

static void show_command(const struct cli_command *command)
{
    char left[64];
    snprintf(left, sizeof left, "%s%s%s%s%s", command->noun, command->verb == NULL ? "" : " ",
             command->verb == NULL ? "" : command->verb, *command->words == '\0' ? "" : " ",
             command->words);
    printf("  %-38s %s\n", left, command->text);
}

/* Of all commands, or of those with that noun. */
static void show_commands(const char *noun)
{
    for (unsigned t = 0; t < TABLES; t++)
        for (const struct cli_command *command = tables[t]; command->noun != NULL; command++)
            if (noun == NULL || strcmp(command->noun, noun) == 0)
                show_command(command);
}

static void show_help(const struct cli_command *command, const char *noun)
{
    if (command != NULL) {
        fputs("usage: polylog ", stdout);
        printf("%s%s%s %s\n\n", command->noun, command->verb == NULL ? "" : " ",
               command->verb == NULL ? "" : command->verb, command->words);
        printf("  %s\n\n", command->text);
        show_options(command->options);
    } else {
        puts("usage: polylog [OPTION]... COMMAND [ARGUMENT]...\n");
        show_commands(noun);
        putchar('\n');
    }
    show_options(global_options);
    puts("\nEnds with 0 when it is done, 1 when the gateway refused, 2 when the call was wrong.");
}

/* ------------------------------------------------ words and options */

static const struct cli_command *find_command(const char *noun, const char *verb)
{
    for (unsigned t = 0; t < TABLES; t++)
        for (const struct cli_command *command = tables[t]; command->noun != NULL; command++)
            if (noun != NULL && strcmp(command->noun, noun) == 0 &&
                (command->verb == NULL || (verb != NULL && strcmp(command->verb, verb) == 0)))
                return command;
    return NULL;
}

static bool is_noun(const char *word)
{
    for (unsigned t = 0; t < TABLES; t++)
        for (const struct cli_command *command = tables[t]; command->noun != NULL; command++)
            if (word != NULL && strcmp(command->noun, word) == 0)
                return true;
    return false;
}

static const struct cli_option *option_in(const struct cli_option *options, const char *name,
                                          size_t size)
{
    for (; options != NULL && options->name != NULL; options++)
        if (strlen(options->name) == size && strncmp(options->name, name, size) == 0)
            return options;
    return NULL;
}

/* Options may stand anywhere, so the command is looked for among the words that are none. What an
 * option of any command takes is the same everywhere. */
static const struct cli_option *option_anywhere(const char *name, size_t size)
{
    const struct cli_option *option = option_in(global_options, name, size);
    for (unsigned t = 0; option == NULL && t < TABLES; t++)
        for (const struct cli_command *command = tables[t]; option == NULL && command->noun != NULL;
             command++)
            option = option_in(command->options, name, size);
    return option;
}

/* Takes words[*at], an option, and its value. */
static enum outcome take_option(struct cli *cli, int count, char **words, int *at)
{
    const char *name = words[*at] + 2;
    const char *equals = strchrnul(name, '=');
    const struct cli_option *option = option_anywhere(name, (size_t)(equals - name));
    if (option == NULL)
        return cli_say(OUTCOME_USAGE, "--%s: no such option", name);
    const char *value = "";
    if (option->value == NULL && *equals == '=')
        return cli_say(OUTCOME_USAGE, "--%s takes no value", option->name);
    if (option->value != NULL) {
        if (*equals == '=')
            value = equals + 1;
        else if (*at + 1 < count)
            value = words[++*at];
        else
            return cli_say(OUTCOME_USAGE, "--%s wants a value", option->name);
    }
    if (cli->option_count == CLI_OPTIONS_MAX)
        return cli_say(OUTCOME_USAGE, "too many options");
    cli->options[cli->option_count++] = (struct cli_given){option->name, value};
    return OUTCOME_OK;
}

static enum outcome take_words(struct cli *cli, int count, char **words)
{
    bool options = true;
    for (int i = 1; i < count; i++) {
        if (options && strcmp(words[i], "--") == 0) {
            options = false;
        } else if (options && (strcmp(words[i], "-h") == 0 || strncmp(words[i], "--", 2) == 0)) {
            static char help[] = "--help";
            if (words[i][1] == 'h')
                words[i] = help;
            enum outcome outcome = take_option(cli, count, words, &i);
            if (outcome != OUTCOME_OK)
                return outcome;
        } else if (cli->word_count == CLI_WORDS_MAX) {
            return cli_say(OUTCOME_USAGE, "too many words");
        } else {
            cli->words[cli->word_count++] = words[i];
        }
    }
    return OUTCOME_OK;
}

static void drop_words(struct cli *cli, unsigned count)
{
    cli->word_count -= count;
    memmove(cli->words, cli->words + count, cli->word_count * sizeof *cli->words);
}

/* The command's own options and the global ones, no others. */
static enum outcome check_command(const struct cli *cli)
{
    const struct cli_command *command = cli->command;
    for (unsigned i = 0; i < cli->option_count; i++) {
        const char *name = cli->options[i].name;
        if (option_in(global_options, name, strlen(name)) == NULL &&
            option_in(command->options, name, strlen(name)) == NULL)
            return cli_say(OUTCOME_USAGE, "%s%s%s has no option --%s", command->noun,
                           command->verb == NULL ? "" : " ",
                           command->verb == NULL ? "" : command->verb, name);
    }
    if (cli->word_count >= command->words_min && cli->word_count <= command->words_max)
        return OUTCOME_OK;
    return cli_say(OUTCOME_USAGE, "usage: polylog %s%s%s %s", command->noun,
                   command->verb == NULL ? "" : " ", command->verb == NULL ? "" : command->verb,
                   command->words);
}

/* ------------------------------------------------ who and where */

/* What was given wins over the environment. NAME:PASSWORD is split in a copy that lives as long as
 * the process. */
static enum outcome set_user(struct cli *cli)
{
    const char *given = cli_option(cli, "user", 0);
    cli->token = cli_option(cli, "token", 0);
    if (cli->token != NULL && given != NULL)
        return cli_say(OUTCOME_USAGE, "--user and --token exclude each other");
    if (cli->token == NULL && given == NULL)
        cli->token = getenv("POLYLOG_TOKEN");
    if (cli->token != NULL && *cli->token != '\0')
        return OUTCOME_OK;
    cli->token = NULL;
    if (given == NULL)
        given = getenv("POLYLOG_USER");
    if (given == NULL || *given == '\0')
        return OUTCOME_OK;
    const char *colon = strchr(given, ':');
    cli->password = colon != NULL ? colon + 1 : getenv("POLYLOG_PASSWORD");
    if (cli->password == NULL)
        return cli_say(OUTCOME_USAGE,
                       "--user %s: a password is wanted, behind ':' or in "
                       "$POLYLOG_PASSWORD",
                       given);
    static char name[LIMIT_USER_NAME + 1];
    size_t size = colon != NULL ? (size_t)(colon - given) : strlen(given);
    if (size >= sizeof name)
        return cli_say(OUTCOME_USAGE, "--user: the name is too long");
    memcpy(name, given, size);
    cli->user = name;
    return OUTCOME_OK;
}

static enum outcome set_up(struct cli *cli)
{
    const char *url = getenv("POLYLOG_URL");
    cli->url = cli_option(cli, "url", 0);
    if (cli->url == NULL)
        cli->url = url != NULL && *url != '\0' ? url : "http://127.0.0.1:8080";
    cli->ca_file = cli_option(cli, "ca", 0);
    cli->json = cli_option(cli, "json", 0) != NULL;
    return set_user(cli);
}

int main(int count, char **words)
{
    static struct cli cli;
    enum outcome outcome = take_words(&cli, count, words);
    if (outcome != OUTCOME_OK)
        return (int)outcome;
    if (cli_option(&cli, "version", 0) != NULL) {
        puts("polylog " POLYLOG_VERSION);
        return OUTCOME_OK;
    }
    const char *noun = cli.word_count > 0 ? cli.words[0] : NULL;
    cli.command = find_command(noun, cli.word_count > 1 ? cli.words[1] : NULL);
    if (cli_option(&cli, "help", 0) != NULL) {
        show_help(cli.command, is_noun(noun) ? noun : NULL);
        return OUTCOME_OK;
    }
    if (cli.command == NULL) {
        if (noun != NULL && !is_noun(noun))
            return (int)cli_say(OUTCOME_USAGE, "%s: no such command; polylog --help shows them",
                                noun);
        show_help(NULL, noun);
        return OUTCOME_USAGE;
    }
    drop_words(&cli, cli.command->verb == NULL ? 1 : 2);
    outcome = check_command(&cli);
    if (outcome == OUTCOME_OK)
        outcome = set_up(&cli);
    if (outcome != OUTCOME_OK)
        return (int)outcome;
    curl_global_init(CURL_GLOBAL_DEFAULT);
    outcome = cli.command->run(&cli);
    curl_global_cleanup();
    return (int)outcome;
}
