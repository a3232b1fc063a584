/* SPDX-License-Identifier: Apache-2.0 */
/* The command line of the gateway, and the configuration that it gives. */
#ifndef GATEWAY_ARGUMENTS_H
#define GATEWAY_ARGUMENTS_H

#include "gateway/config.h"

/* Texts are borrowed from the command line. */
struct arguments {
    const char *file, *data;
    const char **settings;
    unsigned setting_count;
    bool check_only;
};

/* Ends the process where help or the version is all that is asked for, or nobody knows a word. */
void arguments_parse(struct arguments *arguments, int count, char **words);
void arguments_deinit(struct arguments *arguments);
/* Makes config, whatever the result is, from the file and what stands beside it. */
enum status arguments_read(const struct arguments *arguments, struct config *config,
                           struct err *err);

#endif
