/* SPDX-License-Identifier: Apache-2.0 */
/* What keeps a topic's subscription that several links share. To the broker it is a session that
 * takes part in the share and takes no record; its note says in which share. The links take part as
 * clients that nothing is kept of, so that what one has not settled goes to others when it leaves.
 *
 *   a link comes: attach --no note--> note --> into the share --> the link too
 *                        --as wanted--> into the share --> the link too
 *                        --otherwise--> into that share --alone there--> given up --> again
 *                                                       --else--> refused
 *   a source says nothing: into the share --alone there--> closing the link gives it up
 *                                         --else--> refused
 *
 * A link that has the name for itself, and is there, is not disturbed: the attach is refused.
 * Two that come at a time take the session from each other: who lost it tries again, each time
 * later, so that one of them has the time it needs however slow storage is. */
#include "adapters/amqp/connection.h"
#include "adapters/amqp/subscriber.h"
#include "core/base/blob.h"
#include "core/base/heap.h"
#include "core/base/limits.h"
#include "core/base/rng.h"
#include "core/queue/selector.h"

enum { AGAIN_MS = 5, AGAIN_SPREAD_MS = 32, AGAIN_SPREAD_MAX_MS = 2048 };

struct amqp_claim {
    struct client client; /* first: the broker gives it back */
    struct amqp_connection *connection;
    struct amqp_subscriber *subscriber; /* NULL: it has gone */
    struct broker_attach attach;
    struct broker_note note;
    struct broker_subscribe subscribe;
    struct subscribe_item item; /* of what is kept */
    struct loop_timer again;
    uint32_t again_spread_ms;
    bool pending; /* a request is under way */
    bool anew;    /* what was kept is given up */
    bool is_kept; /* the note is there */
    bool made;    /* by us: there was none */
    bool alone;   /* found by who looks for it, and nobody receives */
    char *share;  /* its name */
    char *noted;  /* filter, a zero byte, selector */
};

static const char note_key[] = "share";

static void lost(struct client *client, enum status why)
{
    struct amqp_claim *claim = (struct amqp_claim *)client;
    struct amqp_subscriber *subscriber = claim->subscriber;
    if (why != STATUS_STALE || claim->pending || subscriber == NULL)
        return; /* who waits is told by the request that fails */
    subscriber->stolen = claim->connection->stolen = true;
    amqp_wake(claim->connection);
}

static size_t queued(struct client *client)
{
    (void)client;
    return 0;
}

/* Under its name there may be a subscription of one link, which is attached with it until that is
 * known, and refused. What is shown to it meanwhile is shown to nobody: at most once it is over,
 * and what is kept stays for the next link. */
static uint32_t variant(struct client *client, const struct subscription *subscription,
                        const struct record *record)
{
    (void)client;
    (void)subscription;
    (void)record;
    return 0;
}

static struct blob *encode(uint32_t same, const struct record *record)
{
    (void)same;
    (void)record;
    return blob_copy(span_of("", 0));
}

static bool deliver(struct client *client, struct subscription *subscription, struct blob *frame,
                    uint32_t same, const struct record *record)
{
    (void)client;
    (void)subscription;
    (void)frame;
    (void)same;
    (void)record;
    return true;
}

static bool deliver_kept(struct client *client, struct blob *frame,
                         const struct kept_delivery *kept)
{
    (void)client;
    (void)frame;
    (void)kept;
    return true;
}

static void release(struct client *client, uint32_t number)
{
    (void)client;
    (void)number;
}

static const struct client_ops claim_ops = {
    .protocol = "amqp",
    .variant = variant,
    .encode = encode,
    .deliver = deliver,
    .deliver_kept = deliver_kept,
    .release = release,
    .queued = queued,
    .end = lost,
};

static void claim_free(struct amqp_claim *claim)
{
    loop_timer_stop(amqp_loop(claim->connection), &claim->again);
    client_close(&claim->client);
    if (claim->pending)
        return; /* its request comes back first */
    selector_unref(claim->item.selector);
    heap_free(claim->share);
    heap_free(claim->noted);
    connection_release(claim->connection);
    heap_free(claim);
}

void amqp_claim_end(struct amqp_subscriber *subscriber)
{
    struct amqp_claim *claim = subscriber->claim;
    subscriber->claim = NULL;
    if (claim == NULL)
        return;
    claim->subscriber = NULL;
    claim_free(claim);
}

struct client *amqp_claim_own(const struct amqp_subscriber *subscriber)
{
    struct amqp_claim *claim = subscriber->claim;
    return claim->made || claim->alone ? &claim->client : NULL;
}

static void refuse(struct amqp_claim *claim, enum status status, const char *text)
{
    amqp_subscriber_refuse(claim->subscriber, amqp_condition_of(status), text, status);
}

/* Another one that came has it: perhaps it wants the same, or soon wants it no more. */
static void try_again(struct amqp_claim *claim)
{
    client_close(&claim->client);
    loop_timer_start(amqp_loop(claim->connection), &claim->again,
                     AGAIN_MS + rng_u64() % claim->again_spread_ms);
    if (claim->again_spread_ms < AGAIN_SPREAD_MAX_MS)
        claim->again_spread_ms *= 2;
}

/* A request is back. False: nothing is to be done any more, or not now. */
static bool is_back(struct amqp_claim *claim, enum status status)
{
    claim->pending = false;
    if (claim->subscriber == NULL) {
        claim_free(claim);
        return false;
    }
    if (status == STATUS_CANCELED)
        try_again(claim);
    else if (status != STATUS_OK)
        refuse(claim, status, status_text(status));
    return status == STATUS_OK;
}

/* ------------------------------------------------ the share */

static bool is_as_wanted(const struct amqp_claim *claim)
{
    const struct subscribe_item *wanted = &claim->subscriber->item;
    return claim->subscriber->looks || (span_equal(claim->item.filter, wanted->filter) &&
                                        selector_equal(claim->item.selector, wanted->selector));
}

static void begin(struct amqp_claim *claim);

/* In the share, with or without others. */
static void go_on(struct amqp_claim *claim)
{
    struct amqp_subscriber *subscriber = claim->subscriber;
    bool alone = claim->item.members <= 1;
    broker_session_begin(&claim->client);
    if (subscriber->looks && !alone) {
        refuse(claim, STATUS_EXISTS, "the subscription has receivers");
    } else if (subscriber->looks) {
        claim->alone = true;
        amqp_kept_found(subscriber, claim->item.filter, claim->attach.granted_s);
        amqp_subscriber_ready(subscriber);
    } else if (is_as_wanted(claim)) {
        amqp_kept_granted(subscriber, claim->attach.granted_s);
        subscriber->hold = broker_session_hold(&claim->client);
        amqp_claim_end(subscriber);
        subscriber->kept = false; /* the link itself is as one that lasts no longer */
        amqp_subscriber_subscribe(subscriber);
    } else if (!alone) {
        refuse(claim, STATUS_EXISTS, "others receive of another topic or by another selector");
    } else {
        broker_session_expiry(&claim->client, 0);
        client_close(&claim->client);
        claim->anew = true;
        begin(claim);
    }
}

static void subscribed(struct request *request, enum status status)
{
    struct amqp_claim *claim = container_of(request, struct amqp_claim, subscribe.request);
    if (status == STATUS_OK)
        status = claim->item.status;
    if (status == STATUS_DENIED && claim->is_kept && claim->subscriber != NULL &&
        claim->subscriber->looks)
        status = STATUS_OK; /* what may not be read any more may be given up */
    if (status != STATUS_OK && status != STATUS_CANCELED && !claim->is_kept)
        broker_session_expiry(&claim->client, 0);
    if (is_back(claim, status))
        go_on(claim);
}

static void subscribe(struct amqp_claim *claim)
{
    if (!broker_session_is_kept(&claim->client)) { /* taken while the note was stored */
        try_again(claim);                          /* without it the share would keep nothing */
        return;
    }
    claim->subscribe =
        (struct broker_subscribe){.client = &claim->client, .items = &claim->item, .count = 1};
    request_init(&claim->subscribe.request, amqp_loop(claim->connection), subscribed);
    claim->item.members = 0;
    claim->pending = true;
    broker_subscribe(&claim->subscribe);
}

/* ------------------------------------------------ the session and its note */

static void noted(struct request *request, enum status status)
{
    struct amqp_claim *claim = container_of(request, struct amqp_claim, note.request);
    if (is_back(claim, status))
        subscribe(claim);
}

/* What is wanted is what is kept from now on. */
static void note(struct amqp_claim *claim)
{
    const struct subscribe_item *wanted = &claim->subscriber->item;
    struct span selector =
        wanted->selector == NULL ? span_of("", 0) : selector_text(wanted->selector);
    size_t size = wanted->filter.size + 1 + selector.size;
    if (sizeof note_key - 1 + size > LIMIT_NOTE_BYTES) {
        broker_session_expiry(&claim->client, 0);
        refuse(claim, STATUS_INVALID, "topic and selector are too long");
        return;
    }
    claim->noted = heap_resize(claim->noted, size);
    memcpy(claim->noted, wanted->filter.data, wanted->filter.size);
    claim->noted[wanted->filter.size] = '\0';
    if (selector.size > 0)
        memcpy(claim->noted + wanted->filter.size + 1, selector.data, selector.size);
    selector_unref(claim->item.selector);
    claim->item.selector = wanted->selector == NULL ? NULL : selector_ref(wanted->selector);
    claim->item.filter = span_of(claim->noted, wanted->filter.size);
    claim->note = (struct broker_note){.client = &claim->client,
                                       .key = span_of(note_key, sizeof note_key - 1),
                                       .value = span_of(claim->noted, size)};
    request_init(&claim->note.request, amqp_loop(claim->connection), noted);
    claim->pending = true;
    broker_note(&claim->note);
}

/* False: it cannot be read. */
static bool read_note(struct amqp_claim *claim, struct span value)
{
    struct err err;
    const uint8_t *zero = value.size == 0 ? NULL : memchr(value.data, 0, value.size);
    if (zero == NULL)
        return false;
    size_t filter = (size_t)(zero - value.data);
    selector_unref(claim->item.selector);
    claim->item.selector = NULL;
    heap_free(claim->noted);
    claim->noted = heap_text((const char *)value.data, value.size);
    claim->item.filter = span_of(claim->noted, filter);
    return filter + 1 == value.size || selector_compile(span_of(zero + 1, value.size - filter - 1),
                                                        &claim->item.selector, &err) == STATUS_OK;
}

/* The name is ours. */
static void have(struct amqp_claim *claim, struct span notes)
{
    struct span key, value, filter;
    struct amqp_subscriber *subscriber = claim->subscriber;
    claim->is_kept = broker_note_next(&notes, &key, &value);
    if (claim->is_kept && !read_note(claim, value)) {
        refuse(claim, STATUS_CORRUPT, status_text(STATUS_CORRUPT));
        return;
    }
    if (!claim->is_kept && subscriber->looks) {
        refuse(claim, STATUS_NOT_FOUND, "there is no such subscription");
        return;
    }
    if (broker_subscription(&claim->client, &filter) != NULL) {
        broker_session_expiry(&claim->client, claim->attach.earlier_s);
        refuse(claim, STATUS_EXISTS, "a subscription of one link has this name");
        return;
    }
    claim->made = !claim->is_kept;
    if (claim->is_kept)
        subscribe(claim);
    else
        note(claim);
}

static void attached(struct request *request, enum status status)
{
    struct amqp_claim *claim = container_of(request, struct amqp_claim, attach.request);
    struct buf notes = claim->attach.notes;
    heap_free(claim->attach.received);
    if (is_back(claim, status))
        have(claim, buf_span(&notes));
    buf_deinit(&notes);
}

static void begin(struct amqp_claim *claim)
{
    const struct amqp_subscriber *subscriber = claim->subscriber;
    claim->made = false;
    client_fork(&claim->client, &claim_ops, &claim->connection->client, 0);
    claim->attach = (struct broker_attach){
        .client = &claim->client,
        .name = subscriber->name,
        .clean = claim->anew,
        .only_present = subscriber->looks,
        .yields = true,
        .expiry_s = UINT32_MAX,
    };
    request_init(&claim->attach.request, amqp_loop(claim->connection), attached);
    claim->pending = true;
    broker_attach(&claim->attach);
}

static void again(struct loop_timer *timer)
{
    begin(container_of(timer, struct amqp_claim, again));
}

void amqp_claim(struct amqp_subscriber *subscriber)
{
    struct amqp_claim *claim = heap_new(sizeof *claim);
    struct span share = subscriber->item.share;
    claim->connection = subscriber->connection;
    claim->subscriber = subscriber;
    claim->again.fired = again;
    claim->again_spread_ms = AGAIN_SPREAD_MS;
    claim->share = heap_text((const char *)share.data, share.size);
    claim->item = (struct subscribe_item){.share = span_of(claim->share, share.size),
                                          .guarantee = GUARANTEE_AT_LEAST_ONCE,
                                          .retained = RETAINED_NEVER};
    connection_hold(claim->connection);
    subscriber->claim = claim;
    begin(claim);
}
