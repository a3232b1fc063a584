/* SPDX-License-Identifier: Apache-2.0 */
/* Counters and histograms in Prometheus text form. A counter is one cache line per worker, added up
 * on reading; protocols and reasons are registered labels, so core needs no protocol word. */
#ifndef CORE_BROKER_METRICS_H
#define CORE_BROKER_METRICS_H

#include <stdatomic.h>

#include "core/base/buf.h"

/* A labelled counter or gauge cell. Made once (registration is idempotent by name and labels),
 * lives for ever, bounded in number: past the bound all share one cell with label "other". Any
 * thread. */
struct metric {
    _Atomic int64_t value;
    char padding[56];
};

/* labels: "protocol=\"x\",reason=\"y\"" or "". name without the polylog_ prefix; help and type go
 * out once per name. */
struct metric *metric_counter(const char *name, const char *help, const char *labels);
struct metric *metric_gauge(const char *name, const char *help, const char *labels);
static inline void metric_add(struct metric *metric, int64_t by)
{
    atomic_fetch_add_explicit(&metric->value, by, memory_order_relaxed);
}

/* A histogram over powers of two of a unit. observe from any thread. */
struct metric_histogram;
struct metric_histogram *metric_histogram(const char *name, const char *help, double first_bound,
                                          unsigned bounds);
void metric_observe(struct metric_histogram *histogram, double value);

/* Everything registered. */
enum status metrics_write(struct buf *to);
/* Escapes a label value into to (backslash, quote, newline), bounded. */
void metric_label(char *to, size_t size, struct span value);

#endif
