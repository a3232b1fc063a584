/* SPDX-License-Identifier: Apache-2.0 */
/* What a session has not been shown yet: first what was in flight, then what the rows of its
 * filters name, in commit order. Who has no credit stops in the middle and goes on from there. */
#include "core/broker/session.h"
#include "core/broker/share.h"

#include "core/base/heap.h"
#include "core/base/pack.h"
#include "core/base/reader.h"

enum {
    REEL_ROWS = 512, /* of one filter in one scan, and of many filters together */
    REEL_ROWS_MIN = 16,
    PASSING_MAX = 256,
    PASSING_BYTES = 1024 * 1024,
    READ_BYTES_MIN = 4096,
    READ_BYTES_MAX = 256 * 1024,
    SOON_MS = 2, /* a record whose commit is on its way */
    RETRY_MS = 500
};

/* The rows of one filter, a page at a time. */
struct reel {
    struct storage_scan scan;
    struct session_round *round;
    uint64_t id;
    uint64_t after; /* commit sequence of the last row read */
    struct blob *rows;
    size_t at;
    struct filter_row head;
    bool has_head, more;
    uint8_t first[FILTER_INDEX_KEY], end[FILTER_INDEX_KEY];
};

/* A record that was committed while the round ran. */
struct passing {
    struct batch *batch;
    uint32_t index;
};

struct session_round {
    struct session *session; /* NULL: it has gone; the last scan frees the round */
    struct broker_worker *worker;
    uint32_t scans;
    bool failed;
    struct passing *passing;
    uint32_t passing_count;
    size_t passing_bytes;
    bool missed; /* too much passed: another round */
    uint32_t count;
    struct reel reels[];
};

/* ------------------------------------------------ what passes by */

static void passing_clear(struct session_round *round)
{
    for (uint32_t i = 0; i < round->passing_count; i++)
        batch_unref(round->passing[i].batch);
    round->passing_count = 0;
    round->passing_bytes = 0;
}

void session_note(struct session *session, struct batch *batch, uint32_t index)
{
    struct session_round *round = session->round;
    if (round == NULL || round->missed)
        return;
    struct passing *last =
        round->passing_count == 0 ? NULL : &round->passing[round->passing_count - 1];
    bool same = last != NULL && last->batch == batch;
    if (same && last->index == index)
        return;
    size_t bytes = same ? 0 : batch_charge(batch);
    if (round->passing_count == PASSING_MAX || round->passing_bytes + bytes > PASSING_BYTES) {
        passing_clear(round);
        round->missed = true;
        return;
    }
    if (round->passing == NULL)
        round->passing = heap_array(PASSING_MAX, sizeof *round->passing);
    round->passing_bytes += bytes;
    round->passing[round->passing_count++] =
        (struct passing){.batch = batch_ref(batch), .index = index};
}

/* ------------------------------------------------ batches */

static void batches_drop(struct session *session)
{
    for (uint32_t i = 0; i < session->batch_count; i++)
        batch_unref(session->batches[i]);
    session->batch_count = 0;
}

static void batches_free(struct session *session)
{
    batches_drop(session);
    heap_free(session->batches);
    session->batches = NULL;
}

/* Room for what a read brings; what the one before brought goes. */
static struct batch **batches_room(struct session *session)
{
    batches_drop(session);
    if (session->batches == NULL)
        session->batches = heap_array(LOG_READ_MAX, sizeof(struct batch *));
    return session->batches;
}

static void read_done(struct request *request, enum status status);

/* A read outlives the session's interest in it. */
struct session_fetch {
    struct log_read read;
    struct session *session;
};

static void fetch(struct session *session, uint64_t partition, uint64_t offset)
{
    struct session_fetch *fetch = heap_new(sizeof *fetch);
    fetch->session = session;
    fetch->read.partition = partition;
    fetch->read.offset = offset;
    fetch->read.max_bytes = session->read_bytes;
    fetch->read.shared = true;
    request_init(&fetch->read.request, session->worker->loop, read_done);
    session->reading = true;
    session->calls++;
    session->worker->calls++;
    log_read(session->worker->log, &fetch->read);
}

/* The batch that holds the record; NULL: it is being read, or is lost. Reads grow as long as what
 * they bring along is wanted too. */
static struct batch *batch_at(struct session *session, uint64_t partition, uint64_t offset)
{
    for (uint32_t i = 0; i < session->batch_count; i++) {
        struct batch *batch = session->batches[i];
        if (batch->partition == partition && batch->base_offset <= offset &&
            offset < batch_end(batch)) {
            if (i > 0 && session->read_bytes < READ_BYTES_MAX)
                session->read_bytes *= 2;
            return batch;
        }
    }
    if (session->reading || session->lost)
        return NULL;
    struct batch *kept = log_kept(session->worker->log, partition, offset);
    if (kept == NULL) {
        fetch(session, partition, offset);
        return NULL;
    }
    batches_room(session)[0] = kept;
    session->batch_count = 1;
    return kept;
}

static void retry_in(struct session *session, uint64_t delay_ms)
{
    if (!loop_timer_is_running(&session->retry_timer))
        loop_timer_start(session->worker->loop, &session->retry_timer, delay_ms);
}

void session_retry(struct session *session, uint64_t delay_ms)
{
    retry_in(session, delay_ms);
}

void session_hold(struct session *session, struct batch *batch)
{
    batches_room(session)[0] = batch;
    session->batch_count = 1;
}

static void take_batches(struct session *session, struct log_read *read)
{
    if (session->batch_count > 1 && session->read_bytes > READ_BYTES_MIN)
        session->read_bytes /= 2;
    memcpy(batches_room(session), read->batches, read->count * sizeof(struct batch *));
    session->batch_count = read->count;
    read->count = 0;
    /* In a legal gap, or behind one that was lost: what was wanted is not there. */
    session->lost = session->batches[0]->base_offset > read->offset;
}

static void read_done(struct request *request, enum status status)
{
    struct session_fetch *fetch = container_of(request, struct session_fetch, read.request);
    struct session *session = fetch->session;
    struct log_read *read = &fetch->read;
    session->reading = false;
    bool alive = session_back(session);
    if (alive && status == STATUS_OK && read->count > 0)
        take_batches(session, read);
    else if (alive && status == STATUS_OK)
        retry_in(session, SOON_MS); /* not committed here yet */
    else if (alive && (status == STATUS_NOT_FOUND || status == STATUS_OUT_OF_RANGE ||
                       status == STATUS_CORRUPT))
        session->lost = true;
    else if (alive)
        retry_in(session, RETRY_MS);
    bool go_on = alive && (session->lost || session->batch_count > 0);
    for (uint32_t i = 0; i < read->count; i++)
        batch_unref(read->batches[i]);
    heap_free(fetch);
    if (go_on && !loop_timer_is_running(&session->retry_timer))
        session_go_on(session);
}

static void retry(struct loop_timer *timer)
{
    session_go_on(container_of(timer, struct session, retry_timer));
}

/* ------------------------------------------------ what was in flight */

static bool has_room(const struct session *session)
{
    const struct client *client = session->client;
    return client->credit > 0 && !selection_waits(client) &&
           client->ops->queued(session->client) < LIMIT_CLIENT_OUT_BYTES;
}

/* The client's right to it may have gone while it was away. */
static bool may_have(const struct session *session, const struct record *record)
{
    struct span topic;
    return record_find(record, HEADER_TOPIC, &topic) && topic.size > 0 &&
           broker_check(session->client, ACTION_CONSUME, true, topic) == STATUS_OK;
}

/* What cannot be sent again is over; an exactly-once number is taken back from the client in order.
 */
static void give_up(struct session *session, struct flight *flight)
{
    if (flight->at.guarantee != GUARANTEE_EXACTLY_ONCE) {
        session_flight_end(session, flight);
        return;
    }
    flight->at.state = FLIGHT_RELEASED;
    session->client->credit--;
    session->client->ops->release(session->client, flight->at.number);
}

static void send_again(struct session *session, struct flight *flight, struct batch *batch)
{
    struct client *client = session->client;
    struct record record;
    batch_record(batch, batch_find(batch, flight->at.offset), &record);
    if (flight->at.retained.size > 0)
        record.attributes |= RECORD_RECALLED;
    if (record.offset != flight->at.offset || !may_have(session, &record)) {
        give_up(session, flight);
        return;
    }
    struct subscription as = {
        .client = client,
        .guarantee = (enum guarantee)flight->at.guarantee,
        .identifier = flight->at.identifier,
        .retain_as_published = flight->at.retain_as_published,
        .failures = flight->at.failures,
    };
    struct blob *frame = client->ops->encode(client->ops->variant(client, &as, &record), &record);
    client->credit--;
    if (frame == NULL || !session_deliver(session, flight, frame, true)) {
        client->credit++;
        give_up(session, flight);
    }
    client->figures->delivered_now++;
    blob_unref(frame);
}

static void resend(struct session *session)
{
    struct client *client = session->client;
    for (uint32_t i = session->in_flight == 0 ? 0 : session->flights[0].next, next; i != 0;
         i = next) {
        struct flight *flight = &session->flights[i];
        next = flight->next;
        if (!flight->again)
            continue;
        if (!has_room(session))
            return;
        if (flight->at.state == FLIGHT_RELEASED) {
            client->credit--;
            client->ops->release(client, i);
        } else {
            struct batch *batch = batch_at(session, flight->at.partition, flight->at.offset);
            if (batch == NULL && !session->lost)
                return;
            session->lost = false;
            if (batch == NULL && flight->at.retained.size > 0) {
                session_row_fetch(session, flight);
                return;
            }
            if (batch == NULL)
                give_up(session, flight);
            else
                send_again(session, flight, batch);
        }
        flight->again = false;
    }
    session->phase = SESSION_BEHIND;
    session_walks_start(session);
    session_limit_start(session);
}

/* ------------------------------------------------ rounds */

static void round_free(struct session_round *round)
{
    passing_clear(round);
    heap_free(round->passing);
    for (uint32_t i = 0; i < round->count; i++)
        blob_unref(round->reels[i].rows);
    heap_free(round);
}

static void round_end(struct session *session)
{
    struct session_round *round = session->round;
    session->round = NULL;
    if (round == NULL)
        return;
    round->session = NULL;
    if (round->scans == 0)
        round_free(round);
}

void session_read_anew(struct session *session)
{
    round_end(session);
    session_go_on(session);
}

void session_read_end(struct session *session)
{
    round_end(session);
    batches_free(session);
    loop_timer_stop(session->worker->loop, &session->retry_timer);
}

static void reel_advance(struct reel *reel)
{
    struct span key, value;
    reel->has_head = false;
    while (reel->rows != NULL && !reel->has_head) {
        if (!storage_scan_next(&reel->scan, &reel->at, &key, &value)) {
            blob_unref(reel->rows);
            reel->rows = NULL;
            return;
        }
        reel->has_head = filter_row_decode(key, value, &reel->head);
        reel->after = load_u64(key.data + FILTER_INDEX_KEY - 8);
    }
}

static void scanned(struct request *request, enum status status)
{
    struct reel *reel = container_of(request, struct reel, scan.request);
    struct session_round *round = reel->round;
    struct broker_worker *worker = round->worker;
    worker->calls--;
    round->scans--;
    if (status == STATUS_OK) {
        reel->rows = reel->scan.rows;
        reel->at = 0;
        reel->more = reel->scan.more;
        reel_advance(reel);
    } else {
        round->failed = true;
    }
    struct session *session = round->session;
    if (round->scans > 0)
        return;
    if (session == NULL) {
        round_free(round);
    } else if (round->failed) {
        round->failed = false;
        retry_in(session, RETRY_MS);
    } else {
        session_go_on(session);
    }
}

static void reel_scan(struct session_round *round, struct reel *reel)
{
    uint32_t share = REEL_ROWS / round->count;
    filter_index_key(reel->id, reel->after + 1, reel->first);
    filter_index_key(reel->id, UINT64_MAX, reel->end);
    reel->scan = (struct storage_scan){
        .first = span_of(reel->first, sizeof reel->first),
        .end = span_of(reel->end, sizeof reel->end),
        .limit = share > REEL_ROWS_MIN ? share : REEL_ROWS_MIN,
    };
    request_init(&reel->scan.request, round->worker->loop, scanned);
    round->scans++;
    round->worker->calls++;
    log_rows_scan(round->worker->broker->log, &reel->scan);
}

/* True: rows are being read. */
static bool fill(struct session_round *round)
{
    for (uint32_t i = 0; i < round->count; i++) {
        struct reel *reel = &round->reels[i];
        if (!reel->has_head && reel->more)
            reel_scan(round, reel);
    }
    return round->scans > 0;
}

static void round_begin(struct session *session)
{
    struct client *client = session->client;
    struct session_round *round =
        heap_new(sizeof *round + client->subscription_count * sizeof round->reels[0]);
    round->session = session;
    round->worker = session->worker;
    session->round = round;
    list_each(link, &client->subscriptions)
    {
        const struct subscription *subscription =
            container_of(link, struct subscription, of_client);
        if (subscription->index == 0)
            continue;
        uint32_t i = 0;
        while (i < round->count && round->reels[i].id != subscription->index)
            i++;
        struct reel *reel = &round->reels[i];
        uint64_t after =
            subscription->since > session->position ? subscription->since : session->position;
        if (i == round->count || after < reel->after)
            reel->after = after;
        reel->id = subscription->index;
        reel->round = round;
        reel->more = true;
        round->count += i == round->count;
    }
}

/* The reel with the lowest commit sequence. */
static struct reel *lowest(struct session_round *round)
{
    struct reel *first = NULL;
    for (uint32_t i = 0; i < round->count; i++) {
        struct reel *reel = &round->reels[i];
        if (reel->has_head && (first == NULL || reel->head.commit < first->head.commit))
            first = reel;
    }
    return first;
}

/* Marks the records that a row names. */
static void mark_runs(struct span runs, uint64_t *wanted, uint32_t count)
{
    struct reader reader = reader_of(runs);
    uint64_t at = 0;
    while (reader_left(&reader) > 0 && !reader.failed) {
        uint64_t skipped = reader_uvarint(&reader), size = reader_uvarint(&reader);
        if (skipped > count || size > count)
            return;
        at += skipped;
        for (uint64_t end = at + size; at < end && at < count; at++)
            wanted[at / 64] |= 1ULL << at % 64;
    }
}

/* All records of one append; false: the client is full. */
static bool show_rows(struct session *session, struct batch *batch, uint64_t commit)
{
    struct session_round *round = session->round;
    uint64_t few[LIMIT_BATCH_RECORDS / 64] = {0};
    size_t words = (batch->record_count + 63) / 64;
    uint64_t *wanted = words <= sizeof few / sizeof few[0] ? few : heap_array(words, sizeof *few);
    for (uint32_t i = 0; i < round->count; i++)
        if (round->reels[i].has_head && round->reels[i].head.commit == commit)
            mark_runs(round->reels[i].head.runs, wanted, batch->record_count);
    bool fits = true;
    session->worker->shown = batch;
    session->worker->shown_stored = true;
    for (size_t word = 0; word < words && fits; word++) {
        while (wanted[word] != 0 && fits) {
            uint32_t index = (uint32_t)(word * 64) + (uint32_t)__builtin_ctzll(wanted[word]);
            struct record record;
            struct frame_cache frames = {0};
            wanted[word] &= wanted[word] - 1;
            batch_record(batch, index, &record);
            fits =
                session_show(session, batch->partition, commit, &record, &frames) != DELIVER_FULL;
            frame_cache_clear(&frames);
        }
    }
    if (wanted != few)
        heap_free(wanted);
    return fits;
}

static void pass_on(struct session_round *round, uint64_t commit)
{
    for (uint32_t i = 0; i < round->count; i++)
        while (round->reels[i].has_head && round->reels[i].head.commit == commit)
            reel_advance(&round->reels[i]);
}

static void lose_rows(struct session *session, uint64_t commit)
{
    const struct session_round *round = session->round;
    metric_add(session->worker->broker->metrics.dropped_retention, 1);
    for (uint32_t i = 0; i < round->count; i++)
        if (round->reels[i].has_head && round->reels[i].head.commit == commit)
            session_lost(session, &round->reels[i].head);
}

/* True: nothing is left in the index. */
static bool show_round(struct session *session)
{
    struct session_round *round = session->round;
    while (has_room(session)) {
        if (fill(round))
            return false;
        const struct reel *reel = lowest(round);
        if (reel == NULL)
            return true;
        struct filter_row row = reel->head;
        struct batch *batch = batch_at(session, row.partition, row.base);
        if (batch == NULL && !session->lost)
            return false;
        if (batch != NULL && batch->base_offset == row.base) {
            if (!show_rows(session, batch, row.commit))
                return false;
        } else { /* retention was faster, or its queue has gone */
            lose_rows(session, row.commit);
        }
        session->lost = false;
        pass_on(round, row.commit);
        session->position = row.commit;
        session_touch(session);
    }
    return false;
}

/* What was committed during the round; false: the client is full. */
static bool show_passing(struct session *session)
{
    const struct session_round *round = session->round;
    for (uint32_t i = 0; i < round->passing_count; i++) {
        struct batch *batch = round->passing[i].batch;
        struct record record;
        struct frame_cache frames = {0};
        session->worker->shown = batch;
        session->worker->shown_stored = true;
        batch_record(batch, round->passing[i].index, &record);
        enum deliver_result result =
            session_show(session, batch->partition, batch->commit, &record, &frames);
        frame_cache_clear(&frames);
        if (result == DELIVER_FULL)
            return false;
    }
    return true;
}

static void catch_up(struct session *session)
{
    while (has_room(session)) {
        if (session->round == NULL)
            round_begin(session);
        if (!show_round(session))
            return;
        if (!session->round->missed) {
            if (show_passing(session)) {
                session->phase = SESSION_LIVE;
                session_limit_end(session);
                batches_free(session);
                client_caught_up(session->client);
            }
            round_end(session);
            return;
        }
        round_end(session); /* the next one is shorter */
    }
}

void session_go_on(struct session *session)
{
    struct broker_worker *worker = session->worker;
    session->retry_timer.fired = retry;
    if (session->client == NULL || session->reading || worker->ending || worker->delivering ||
        (session->round != NULL && session->round->scans > 0) ||
        !list_is_empty(&session->subscribing) || !has_room(session))
        return;
    /* Whoever is called from here must not change the client's subscriptions. */
    bool took = session_takes(session);
    worker->delivering = true;
    session_pay(session);
    if (session->phase == SESSION_RESENDING)
        resend(session);
    if (session->phase == SESSION_BEHIND && !session->reading && !session->counting)
        catch_up(session);
    worker->delivering = false;
    figures_flush(worker);
    if (session_refund(session) || took || !session_takes(session))
        return;
    share_seats_go_on(session->client); /* what it shares waited for that, and what is retained */
    retained_go_on(session->client);
}
