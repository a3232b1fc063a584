/* SPDX-License-Identifier: Apache-2.0 */
/* The command line client: commands are a table, each a few REST calls and a way to show the
 * answer. */
#ifndef GATEWAY_CLI_CLI_H
#define GATEWAY_CLI_CLI_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What the process ends with. */
enum outcome { OUTCOME_OK = 0, OUTCOME_REFUSED = 1, OUTCOME_USAGE = 2 };

enum { CLI_WORDS_MAX = 64, CLI_OPTIONS_MAX = 64 };

struct cli_option {
    const char *name;
    const char *value; /* what stands for it in the help; NULL: the option takes none */
    const char *text;
};

struct cli_given {
    const char *name, *value;
};

struct cli {
    const char *url, *ca_file;
    const char *user, *password; /* NULL: none */
    const char *token;           /* in place of both; NULL: none */
    bool json;
    const struct cli_command *command;
    const char *words[CLI_WORDS_MAX]; /* of the command, without its own name */
    unsigned word_count;
    struct cli_given options[CLI_OPTIONS_MAX];
    unsigned option_count;
};

struct cli_command {
    const char *noun, *verb; /* verb NULL: the command is one word */
    const char *words;       /* its arguments, for the help */
    unsigned words_min, words_max;
    const char *text;
    const struct cli_option *options; /* closed by an empty one; may be NULL */
    enum outcome (*run)(struct cli *cli);
};

/* Tables, closed by an empty command. */
extern const struct cli_command queue_commands[], user_commands[], message_commands[],
    look_commands[], dead_commands[];

/* The value of the n-th option of that name, "" for one that takes none; NULL: not given. */
const char *cli_option(const struct cli *cli, const char *name, unsigned n);
/* Says "polylog: TEXT" on standard error and returns outcome. */
enum outcome cli_say(enum outcome outcome, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* A whole number of lowest to highest into *number, which stays when the option is not given. */
enum outcome cli_number(const struct cli *cli, const char *name, json_int_t lowest,
                        json_int_t highest, json_int_t *number);
/* The same for a duration, and for a time (when.c). */
enum outcome cli_duration(const struct cli *cli, const char *name, json_int_t highest_ms,
                          json_int_t *ms);
enum outcome cli_time(const struct cli *cli, const char *name, json_int_t *ms);
/* All of standard input, at most limit bytes; NULL when it is longer or cannot be read. Free it. */
char *cli_read_input(size_t limit, size_t *size);

/* ---------------------------------------------------------------- calls (call.c) */

/* One level of a path, percent-encoded; free it. */
char *cli_encode(const char *text);
/* method path, with body (taken; may be NULL). path begins behind the URL's host. A refusal of the
 * server is said on standard error. answer may be NULL; else it is what came back, NULL when that
 * was empty. */
enum outcome cli_call(struct cli *cli, const char *method, const char *path, json_t *body,
                      json_t **answer);
/* The same of an answer that is plain text; free it. */
enum outcome cli_call_text(struct cli *cli, const char *path, char **answer);
struct cli_column {
    const char *title, *field;
};
/* The common shapes of a command; path is taken. List: the array called field of the answer as a
 * table. Show: the answer, an object, line by line. Change: nothing to say when it is done. */
enum outcome cli_list(struct cli *cli, char *path, const char *field,
                      const struct cli_column *columns);
enum outcome cli_show(struct cli *cli, const char *method, char *path, json_t *body);
enum outcome cli_change(struct cli *cli, const char *method, char *path, json_t *body);
/* Builds a path of "%s" pieces, each encoded as one level. */
char *cli_path(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Each takes path and gives back the one with a parameter more, encoded (query.c). */
char *cli_query(char *path, const char *name, const char *value);
char *cli_query_number(char *path, const char *name, json_int_t number);
/* What the options below say. */
char *cli_query_filter(char *path, const struct cli *cli);
/* For tables of options. */
#define CLI_FILTER_OPTIONS                                                                         \
    {"label", "LABEL", "only with this label; of several, any is enough"},                         \
        {"all-labels", NULL, "only with all of them"},                                             \
    {                                                                                              \
        "selector", "EXPRESSION", "only where it is true, such as: colour = 'red' AND n > 5"       \
    }

/* ---------------------------------------------------------------- showing (show.c) */

/* An array of objects as a table of those columns (closed by an empty one). */
void show_table(const json_t *rows, const struct cli_column *columns);
/* Name and value, a line each. */
void show_object(const json_t *object);
void show_json(const json_t *value);
/* A value as people read it: text without quotes. */
void show_value(const json_t *value);

#endif
