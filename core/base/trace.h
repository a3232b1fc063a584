/* SPDX-License-Identifier: Apache-2.0 */
/* Diagnostics for people (the word "log" means the partitioned log): one line per event, text or
 * JSON, on standard error. Any thread. Never on a hot path. */
#ifndef CORE_BASE_TRACE_H
#define CORE_BASE_TRACE_H

#include "core/base/status.h"

enum trace_level { TRACE_DEBUG, TRACE_INFO, TRACE_WARN, TRACE_ERROR };

void trace_set_level(enum trace_level level);
bool trace_level_parse(const char *text, enum trace_level *level); /* debug info warn error */
void trace_set_json(bool json);
bool trace_enabled(enum trace_level level);
void trace(enum trace_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
