/* SPDX-License-Identifier: Apache-2.0 */
/* Every way an operation can end, from one table: name, text, and whether trying again can help. */
#ifndef CORE_BASE_STATUS_H
#define CORE_BASE_STATUS_H

#include <stdbool.h>

#define STATUS_MAP(X)                                                                              \
    X(OK, "success", false)                                                                        \
    X(CANCELED, "canceled", false)                                                                 \
    X(TIMED_OUT, "timed out", true)                                                                \
    X(CLOSED, "closed", false)                                                                     \
    X(NO_MEMORY, "out of memory", true)                                                            \
    X(TOO_LARGE, "too large", false)                                                               \
    X(MALFORMED, "malformed", false)                                                               \
    X(INVALID, "invalid value", false)                                                             \
    X(UNSUPPORTED, "not supported", false)                                                         \
    X(NOT_FOUND, "not found", false)                                                               \
    X(EXISTS, "exists already", false)                                                             \
    X(UNAUTHENTICATED, "not authenticated", false)                                                 \
    X(DENIED, "not allowed", false)                                                                \
    X(OVER_QUOTA, "over quota", true)                                                              \
    X(BUSY, "too much in flight", true)                                                            \
    X(STALE, "receipt is stale", false)                                                            \
    X(OUT_OF_RANGE, "outside of what is kept", false)                                              \
    X(CORRUPT, "stored data is corrupt", false)                                                    \
    X(STORAGE_FAILED, "storage refuses writes", false)                                             \
    X(NO_SPACE, "storage is full", true)                                                           \
    X(SHUTTING_DOWN, "shutting down", true)                                                        \
    X(INTERNAL, "internal error", false)

enum status {
#define X(name, text, retriable) STATUS_##name,
    STATUS_MAP(X)
#undef X
        STATUS_COUNT
};

const char *status_name(enum status status); /* "NOT_FOUND" */
const char *status_text(enum status status); /* "not found" */
bool status_is_retriable(enum status status);

/* A text for people, filled on control paths only (configuration, open, administration). */
struct err {
    char text[512];
};

/* Writes a formatted text into err (may be NULL) and returns status, so that a caller can return
 * it. */
enum status err_set(struct err *err, enum status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#endif
