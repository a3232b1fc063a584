/* SPDX-License-Identifier: Apache-2.0 */
/* One write(2) per line, so that lines of several threads do not mix. */
#include "core/base/trace.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "core/base/clock.h"
#include "core/base/utf8.h"

enum { MESSAGE_MAX = 1024, LINE_MAX_BYTES = 6 * MESSAGE_MAX + 128 };

static _Atomic enum trace_level trace_minimum = TRACE_INFO;
static atomic_bool trace_json;

static const char *const level_names[] = {"debug", "info", "warn", "error"};

void trace_set_level(enum trace_level level)
{
    atomic_store(&trace_minimum, level);
}

bool trace_level_parse(const char *text, enum trace_level *level)
{
    for (unsigned i = 0; i < sizeof level_names / sizeof *level_names; i++) {
        if (strcmp(text, level_names[i]) == 0) {
            *level = (enum trace_level)i;
            return true;
        }
    }
    return false;
}

void trace_set_json(bool json)
{
    atomic_store(&trace_json, json);
}

bool trace_enabled(enum trace_level level)
{
    return level >= atomic_load_explicit(&trace_minimum, memory_order_relaxed);
}

/* A message may quote a peer: nothing in it may end the line, leave the JSON string or reach a
 * terminal as a command. Bytes that are not UTF-8 are shown one by one. */
static size_t escape(char *to, const char *message, bool json)
{
    static const char digits[] = "0123456789abcdef";
    char *at = to;
    bool valid = utf8_is_valid(span_from_text(message));
    for (const char *from = message; *from != '\0'; from++) {
        unsigned char byte = (unsigned char)*from;
        if (byte < 0x20 || byte == 0x7f || (byte >= 0x80 && !valid)) {
            memcpy(at, "\\u00", 4);
            at[4] = digits[byte >> 4];
            at[5] = digits[byte & 15];
            at += 6;
            continue;
        }
        if (json && (byte == '"' || byte == '\\'))
            *at++ = '\\';
        *at++ = (char)byte;
    }
    return (size_t)(at - to);
}

static size_t format_time(char *to, size_t size)
{
    int64_t now_ms = clock_wall_ms();
    time_t seconds = (time_t)(now_ms / 1000);
    struct tm parts;
    gmtime_r(&seconds, &parts);
    size_t length = strftime(to, size, "%Y-%m-%dT%H:%M:%S", &parts);
    return length + (size_t)snprintf(to + length, size - length, ".%03dZ", (int)(now_ms % 1000));
}

void trace(enum trace_level level, const char *format, ...)
{
    if (!trace_enabled(level))
        return;
    char message[MESSAGE_MAX];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);

    bool json = atomic_load_explicit(&trace_json, memory_order_relaxed);
    char when[48];
    format_time(when, sizeof when);
    char line[LINE_MAX_BYTES];
    int begun = snprintf(line, sizeof line,
                         json ? "{\"time\":\"%s\",\"level\":\"%s\",\"message\":\"" : "%s %-5s ",
                         when, level_names[level]);
    size_t size = (size_t)begun;
    size += escape(line + size, message, json);
    if (json) {
        line[size++] = '"';
        line[size++] = '}';
    }
    line[size++] = '\n';
    ssize_t written = write(STDERR_FILENO, line, size);
    (void)written; /* there is nowhere to say that standard error is gone */
}
