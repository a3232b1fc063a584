/* SPDX-License-Identifier: Apache-2.0 */
/* What a session that comes back gets of what was kept for it: how fast, and how much. Nothing is
 * counted while it is away: the rows of its filters say how many records they name. */
#include "core/broker/session.h"

#include "core/base/heap.h"
#include "core/base/pack.h"

enum { BURST_US = 50000, SECOND_US = 1000000, COUNT_ROWS = 1000 };

/* ------------------------------------------------ how fast */

static uint64_t now_us(const struct session *session)
{
    return loop_now_ms(session->worker->loop) * 1000;
}

bool session_is_paced(struct session *session)
{
    uint64_t now = now_us(session);
    if (session->paced_us <= now + BURST_US)
        return true;
    session_retry(session, (session->paced_us - now - BURST_US) / 1000 + 1);
    return false;
}

void session_pace(struct session *session)
{
    uint32_t rate = session->worker->broker->options.resume_rate;
    uint64_t now = now_us(session);
    if (rate > 0)
        session->paced_us = (session->paced_us > now ? session->paced_us : now) + SECOND_US / rate;
}

/* ------------------------------------------------ how much */

/* One filter after the other, a page of its rows at a time; outlives the client. */
struct counting {
    struct storage_scan scan;
    struct session *session;
    uint64_t records, bytes;
    uint32_t filter_count, at;
    uint8_t first[FILTER_INDEX_KEY], end[FILTER_INDEX_KEY];
    struct kept_filter {
        uint64_t id, after;
    } filters[];
};

static void count_on(struct counting *counting);

static uint64_t above(uint64_t total, uint64_t limit)
{
    return limit > 0 && total > limit ? total - limit : 0;
}

static void count_end(struct counting *counting)
{
    struct session *session = counting->session;
    const struct broker_options *options = &session->worker->broker->options;
    session->counting = false;
    session->excess = above(counting->records, options->session_records);
    session->excess_bytes = above(counting->bytes, options->session_bytes);
    heap_free(counting);
    session_go_on(session);
}

static void counted(struct request *request, enum status status)
{
    struct counting *counting = container_of(request, struct counting, scan.request);
    struct kept_filter *filter = &counting->filters[counting->at];
    struct session *session = counting->session;
    struct span key, value;
    struct filter_row row;
    for (size_t at = 0;
         status == STATUS_OK && storage_scan_next(&counting->scan, &at, &key, &value);) {
        filter->after = load_u64(key.data + FILTER_INDEX_KEY - 8); /* also of one we cannot read */
        if (!filter_row_decode(key, value, &row))
            continue;
        uint64_t records, bytes;
        filter_row_sums(&row, &records, &bytes);
        counting->records += records;
        counting->bytes += bytes;
    }
    if (status == STATUS_OK)
        blob_unref(counting->scan.rows);
    if (!session_back(session)) {
        heap_free(counting);
        return;
    }
    /* What cannot be read now is not dropped either. */
    if (status != STATUS_OK || !counting->scan.more)
        counting->at++;
    count_on(counting);
}

static void count_on(struct counting *counting)
{
    struct session *session = counting->session;
    if (counting->at == counting->filter_count) {
        count_end(counting);
        return;
    }
    const struct kept_filter *filter = &counting->filters[counting->at];
    filter_index_key(filter->id, filter->after + 1, counting->first);
    filter_index_key(filter->id, UINT64_MAX, counting->end);
    counting->scan = (struct storage_scan){
        .first = span_of(counting->first, sizeof counting->first),
        .end = span_of(counting->end, sizeof counting->end),
        .limit = COUNT_ROWS,
    };
    request_init(&counting->scan.request, session->worker->loop, counted);
    session_call(session);
    log_rows_scan(session->worker->broker->log, &counting->scan);
}

void session_limit_start(struct session *session)
{
    const struct client *client = session->client;
    const struct broker_options *options = &session->worker->broker->options;
    if ((options->session_records == 0 && options->session_bytes == 0) || !session->returning ||
        session->counting)
        return;
    struct counting *counting =
        heap_new(sizeof *counting + client->subscription_count * sizeof counting->filters[0]);
    counting->session = session;
    session->counting = true;
    list_each(link, &client->subscriptions)
    {
        const struct subscription *subscription =
            container_of(link, struct subscription, of_client);
        /* What is found under a broader filter is others' too, and only a reader knows which. */
        if (subscription->index == 0 ||
            !filter_index_is_own(
                session->worker->broker, client->tenant,
                span_of(subscription->entry->filter, subscription->entry->filter_size),
                subscription->index))
            continue;
        uint64_t after =
            subscription->since > session->position ? subscription->since : session->position;
        uint32_t i = 0;
        while (i < counting->filter_count && counting->filters[i].id != subscription->index)
            i++;
        if (i == counting->filter_count || after < counting->filters[i].after)
            counting->filters[i] = (struct kept_filter){subscription->index, after};
        counting->filter_count += i == counting->filter_count;
    }
    count_on(counting);
}

static void less(uint64_t *excess, uint64_t by)
{
    *excess -= by < *excess ? by : *excess;
}

bool session_drops(struct session *session, const struct record *record, uint32_t count)
{
    const struct broker_metrics *metrics = &session->worker->broker->metrics;
    if (session->excess == 0 && session->excess_bytes == 0)
        return false;
    metric_add(session->excess > 0 ? metrics->dropped_session : metrics->dropped_bytes, count);
    uint32_t weight = count > 0 ? count : 1; /* its rows were counted, whatever has become of it */
    less(&session->excess, weight);
    less(&session->excess_bytes, (uint64_t)weight * record_bytes(record));
    return true;
}

void session_lost(struct session *session, const struct filter_row *row)
{
    uint64_t records, bytes;
    filter_row_sums(row, &records, &bytes);
    less(&session->excess, records);
    less(&session->excess_bytes, bytes);
}

void session_limit_end(struct session *session)
{
    session->returning = false;
    session->excess = session->excess_bytes = 0;
}
