/* SPDX-License-Identifier: Apache-2.0 */
/* The three columns of STATUS_MAP. */
#include "core/base/status.h"

#include <stdarg.h>
#include <stdio.h>

#include "core/base/check.h"

struct status_row {
    const char *name;
    const char *text;
    bool retriable;
};

static const struct status_row rows[STATUS_COUNT] = {
#define X(name, text, retriable) {#name, text, retriable},
    STATUS_MAP(X)
#undef X
};

static const struct status_row *status_row(enum status status)
{
    CHECK((unsigned)status < STATUS_COUNT);
    return &rows[status];
}

const char *status_name(enum status status)
{
    return status_row(status)->name;
}

const char *status_text(enum status status)
{
    return status_row(status)->text;
}

bool status_is_retriable(enum status status)
{
    return status_row(status)->retriable;
}

enum status err_set(struct err *err, enum status status, const char *format, ...)
{
    if (err != NULL) {
        va_list arguments;
        va_start(arguments, format);
        vsnprintf(err->text, sizeof err->text, format, arguments);
        va_end(arguments);
    }
    return status;
}
