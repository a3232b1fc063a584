/* SPDX-License-Identifier: Apache-2.0 */
/* What a worker counts at every record, in plain numbers of its own; added to the cells that all
 * workers share once per batch or turn. */
#include "core/broker/worker.h"

#include <ctype.h>
#include <stdio.h>

static struct metric *counter(const char *name, const char *help, const char *protocol)
{
    char labels[64];
    snprintf(labels, sizeof labels, "protocol=\"%.40s\"", protocol);
    return metric_counter(name, help, labels);
}

struct protocol_figures *figures_of(struct broker_worker *worker, const char *protocol)
{
    for (unsigned i = 0; i < worker->figure_count; i++)
        if (strcmp(worker->figures[i].protocol, protocol) == 0)
            return &worker->figures[i];
    CHECK(worker->figure_count < PROTOCOLS);
    struct protocol_figures *figures = &worker->figures[worker->figure_count++];
    figures->protocol = protocol;
    figures->received = counter("received_records_total", "Records taken from clients", protocol);
    figures->delivered =
        counter("delivered_records_total", "Records delivered to subscriptions", protocol);
    return figures;
}

static struct metric *refused(const struct protocol_figures *figures, const char *reason)
{
    char labels[96];
    snprintf(labels, sizeof labels, "protocol=\"%.40s\",reason=\"%.32s\"", figures->protocol,
             reason);
    return metric_counter("refused_total", "Refused calls", labels);
}

void figures_refused(struct protocol_figures *figures, enum status why)
{
    if (figures->refused[why] == NULL) {
        char reason[32];
        snprintf(reason, sizeof reason, "%s", status_name(why));
        for (char *at = reason; *at != '\0'; at++)
            *at = (char)tolower((unsigned char)*at);
        figures->refused[why] = refused(figures, reason);
    }
    metric_add(figures->refused[why], 1);
}

void figures_refused_entry(struct protocol_figures *figures)
{
    if (figures->refused_entry == NULL)
        figures->refused_entry = refused(figures, "connection_rate");
    metric_add(figures->refused_entry, 1);
}

static void flush(struct metric *metric, int64_t *count)
{
    if (*count != 0)
        metric_add(metric, *count);
    *count = 0;
}

void figures_flush(struct broker_worker *worker)
{
    struct broker_metrics *metrics = &worker->broker->metrics;
    for (unsigned i = 0; i < worker->figure_count; i++) {
        struct protocol_figures *figures = &worker->figures[i];
        flush(figures->received, &figures->received_now);
        flush(figures->delivered, &figures->delivered_now);
    }
    flush(metrics->stored_records, &worker->stored_now);
    flush(metrics->live_records, &worker->live_now);
    flush(metrics->dropped_slow, &worker->slow_now);
}
