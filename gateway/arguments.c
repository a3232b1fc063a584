/* SPDX-License-Identifier: Apache-2.0 */
/* The command line of the gateway. */
#include "gateway/arguments.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/base/heap.h"

enum { EXIT_USAGE = 2 };

static void show_key(const char *name, const char *value, const char *text)
{
    printf("  %-22s %-10s %s\n", name, value, text);
}

static void show_help(void)
{
    puts("usage: polylogd [-c FILE] [--data DIR] [--set KEY=VALUE]...\n"
         "\n"
         "  -c, --config FILE   read lines KEY = VALUE; # begins a comment\n"
         "      --data DIR      directory of the store\n"
         "      --set KEY=VALUE set a key; later ones win, all win over the file\n"
         "      --check-config  say whether it could start with this, and end\n"
         "      --version       print the version and end\n"
         "      --help          print this and end\n"
         "\n"
         "Keys, with their defaults:\n");
    config_describe(show_key);
}

void arguments_parse(struct arguments *arguments, int count, char **words)
{
    enum { DATA = 256, SET, CHECK_CONFIG, VERSION, HELP };
    static const struct option options[] = {
        {"config", required_argument, NULL, 'c'},
        {"data", required_argument, NULL, DATA},
        {"set", required_argument, NULL, SET},
        {"check-config", no_argument, NULL, CHECK_CONFIG},
        {"version", no_argument, NULL, VERSION},
        {"help", no_argument, NULL, HELP},
        {NULL, 0, NULL, 0},
    };
    *arguments = (struct arguments){.settings = heap_array((size_t)count, sizeof(char *))};
    int option;
    while ((option = getopt_long(count, words, "c:h", options, NULL)) != -1) {
        switch (option) {
        case 'c':
            arguments->file = optarg;
            break;
        case DATA:
            arguments->data = optarg;
            break;
        case SET:
            arguments->settings[arguments->setting_count++] = optarg;
            break;
        case CHECK_CONFIG:
            arguments->check_only = true;
            break;
        case VERSION:
            puts("polylogd " POLYLOG_VERSION);
            exit(EXIT_SUCCESS);
        case HELP:
        case 'h':
            show_help();
            exit(EXIT_SUCCESS);
        default:
            fputs("polylogd --help shows how it is called\n", stderr);
            exit(EXIT_USAGE);
        }
    }
    if (optind < count) {
        fprintf(stderr, "polylogd: %s: no argument is expected here\n", words[optind]);
        exit(EXIT_USAGE);
    }
}

void arguments_deinit(struct arguments *arguments)
{
    heap_free(arguments->settings);
}

enum status arguments_read(const struct arguments *arguments, struct config *config,
                           struct err *err)
{
    config_init(config);
    enum status status =
        arguments->file == NULL ? STATUS_OK : config_read_file(config, arguments->file, err);
    for (unsigned i = 0; status == STATUS_OK && i < arguments->setting_count; i++)
        status = config_set_argument(config, arguments->settings[i], err);
    if (status == STATUS_OK && arguments->data != NULL)
        status = config_set(config, "data", arguments->data, err);
    return status == STATUS_OK ? config_finish(config, err) : status;
}
