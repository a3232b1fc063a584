/* SPDX-License-Identifier: Apache-2.0 */
/* Users made by whoever owns the store, without a connection: the first user of all, and the users
 * of a file. */
#ifndef GATEWAY_USERS_H
#define GATEWAY_USERS_H

#include "core/broker/broker.h"
#include "gateway/crew.h"

struct new_user {
    struct span name, password;
    const struct grant *grants;
    uint32_t grant_count; /* 0: the first user may do all, the others nothing yet */
};

/* Main thread, with the crew running and the broker ready. EXISTS when the name is taken. */
enum status user_make(struct crew *crew, struct broker *broker, const struct new_user *user,
                      struct err *err);

/* Makes the users of a file that are missing. A line is NAME PASSWORD [ACTIONS PATTERN]..., for
 * example plant secret publish topic:plant/# consume queue:orders separated by blanks; empty lines
 * and lines that begin with # say nothing. err names file and line. */
enum status users_make_from_file(struct crew *crew, struct broker *broker, const char *path,
                                 struct err *err);

#endif
