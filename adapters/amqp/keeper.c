/* SPDX-License-Identifier: Apache-2.0 */
/* Sessions that keep what has come on links: notes in a ring, each {u64 number, u64 hash of the
 * bytes, u64 from, tag} at the place that its number has. Its sender had settled what has a number
 * below `from`: so the last note says which of the others are over, and nothing is written when a
 * delivery is settled. */
#include "adapters/amqp/keeper.h"

#include <stdlib.h>

#include "adapters/amqp/connection.h"
#include "adapters/amqp/link.h"
#include "adapters/amqp/unsettled.h"
#include "core/base/heap.h"
#include "core/base/limits.h"
#include "core/base/pack.h"
#include "core/base/reader.h"

enum { PLACE = sizeof(uint16_t), NUMBERS = 3 * sizeof(uint64_t) };

struct amqp_keeper {
    struct client client; /* first: the broker gives it back */
    struct amqp_link *link;
    void (*ready)(struct amqp_link *link, enum status status);
    struct broker_attach attach;
    struct broker_give_up give_up;
    bool attaching;
    bool is_there;   /* attached */
    bool gives_up;   /* the link was closed meanwhile, and that is not answered */
    bool lost;       /* another link has the name */
    uint64_t number; /* of the next delivery */
    uint8_t place[PLACE];
    uint8_t value[NUMBERS + AMQP_TAG_MAX];
};
_Static_assert(PLACE + NUMBERS + AMQP_TAG_MAX <= PUBLISH_NOTE_BYTES, "a note of a publish");
_Static_assert(LIMIT_RESUME_LINK_TAGS <= UINT16_MAX, "a place");

static struct amqp_keeper *keeper_of(struct client *client)
{
    return (struct amqp_keeper *)client;
}

static size_t queued(struct client *client)
{
    return amqp_queued(keeper_of(client)->link->connection);
}

/* The connection's own client hears of any other end. */
static void end(struct client *client, enum status why)
{
    keeper_of(client)->lost |= why == STATUS_STALE;
}

static const struct client_ops keeper_ops = {.protocol = "amqp", .queued = queued, .end = end};

static void given_up(struct request *request, enum status status)
{
    amqp_link_given_up(container_of(request, struct amqp_keeper, give_up.request)->link, status);
}

static void give_up(struct amqp_keeper *keeper)
{
    keeper->give_up.client = &keeper->client;
    request_init(&keeper->give_up.request, amqp_loop(keeper->link->connection), given_up);
    broker_give_up(&keeper->give_up);
    client_close(&keeper->client);
}

static void attached(struct request *request, enum status status)
{
    struct amqp_keeper *keeper = container_of(request, struct amqp_keeper, attach.request);
    struct amqp_link *link = keeper->link;
    keeper->attaching = false;
    keeper->is_there = status == STATUS_OK && !keeper->lost;
    if (keeper->is_there && !keeper->gives_up)
        broker_session_begin(&keeper->client);
    if (keeper->is_there && keeper->gives_up)
        give_up(keeper);
    else if (keeper->gives_up)
        amqp_link_given_up(link, status == STATUS_CANCELED ? STATUS_OK : status);
    else if (link->pn != NULL)
        keeper->ready(link, status);
    heap_free(keeper->attach.received);
    buf_deinit(&keeper->attach.notes);
    amqp_link_unref(link);
}

/* No name of a client, and none of what is received, begins so (durable.c). */
static enum status name_it(const struct amqp_link *link, struct buf *name)
{
    const struct client *client = &link->connection->client;
    struct pack pack = pack_into(name);
    pack_bytes(&pack, span_of("\0sent", 6)); /* with the zero behind it */
    pack_bytes(&pack, span_of(client->publisher, client->publisher_size)); /* "user/container" */
    pack_u8(&pack, 0);
    pack_bytes(&pack, span_from_text(pn_link_name(link->pn)));
    return pack.status;
}

struct amqp_keeper *amqp_keeper_new(struct amqp_link *link, bool anew, uint32_t expiry_s,
                                    void (*ready)(struct amqp_link *link, enum status status))
{
    struct buf name;
    buf_init(&name, LIMIT_CLIENT_ID_BYTES);
    if (name_it(link, &name) != STATUS_OK) {
        buf_deinit(&name);
        return NULL;
    }
    struct amqp_keeper *keeper = heap_new(sizeof *keeper);
    client_fork(&keeper->client, &keeper_ops, &link->connection->client, 0);
    keeper->link = link;
    keeper->ready = ready;
    keeper->attach = (struct broker_attach){
        .client = &keeper->client,
        .name = buf_span(&name),
        .clean = anew,
        .expiry_s = expiry_s,
    };
    request_init(&keeper->attach.request, amqp_loop(link->connection), attached);
    link->refs++;
    keeper->attaching = true;
    broker_attach(&keeper->attach);
    buf_deinit(&name);
    return keeper;
}

void amqp_keeper_give_up(struct amqp_keeper *keeper)
{
    if (keeper->lost || (!keeper->is_there && !keeper->attaching))
        return;
    keeper->link->refs++;
    keeper->link->closes_later = true;
    keeper->gives_up = true;
    if (keeper->is_there)
        give_up(keeper);
}

void amqp_keeper_free(struct amqp_keeper *keeper)
{
    if (keeper == NULL)
        return;
    client_close(&keeper->client);
    heap_free(keeper);
}

uint32_t amqp_keeper_expiry_s(const struct amqp_keeper *keeper)
{
    return keeper->attach.granted_s;
}

bool amqp_keeper_is_lost(const struct amqp_keeper *keeper)
{
    return keeper->lost;
}

struct kept {
    uint64_t number, payload, from;
    struct span tag;
};

static int by_number(const void *a, const void *b)
{
    const struct kept *one = a, *other = b;
    return one->number < other->number ? -1 : one->number > other->number;
}

void amqp_keeper_recall(struct amqp_keeper *keeper, struct amqp_attachment *attachment)
{
    struct span notes = buf_span(&keeper->attach.notes), key, value;
    struct kept *all = heap_array(LIMIT_RESUME_LINK_TAGS, sizeof *all);
    uint32_t count = 0;
    while (count < LIMIT_RESUME_LINK_TAGS && broker_note_next(&notes, &key, &value)) {
        struct reader reader = reader_of(value);
        struct kept *kept = &all[count];
        kept->number = reader_u64(&reader);
        kept->payload = reader_u64(&reader);
        kept->from = reader_u64(&reader);
        kept->tag = reader_bytes(&reader, reader_left(&reader));
        count += !reader.failed;
    }
    qsort(all, count, sizeof *all, by_number);
    const struct kept *last = count == 0 ? NULL : &all[count - 1];
    for (uint32_t i = 0; i < count; i++) {
        /* Nothing is written for some numbers, so a note may stay in its place for longer. */
        bool is_old = all[i].number + LIMIT_RESUME_LINK_TAGS <= last->number;
        if (all[i].number >= last->from && !is_old)
            amqp_attachment_recall(attachment, all[i].tag, all[i].payload, all[i].number);
    }
    keeper->number = last == NULL ? 1 : last->number + 1;
    heap_free(all);
}

uint64_t amqp_keeper_number(const struct amqp_keeper *keeper)
{
    return keeper->number;
}

void amqp_keeper_note(struct amqp_keeper *keeper, struct span tag, uint64_t payload, uint64_t from,
                      struct publish *publish)
{
    if (tag.size > AMQP_TAG_MAX)
        return;
    store_u16(keeper->place, (uint16_t)(keeper->number % LIMIT_RESUME_LINK_TAGS));
    store_u64(keeper->value, keeper->number++);
    store_u64(keeper->value + sizeof(uint64_t), payload);
    store_u64(keeper->value + 2 * sizeof(uint64_t), from);
    if (tag.size > 0)
        memcpy(keeper->value + NUMBERS, tag.data, tag.size);
    publish->keeper = &keeper->client;
    publish->note_key = span_of(keeper->place, PLACE);
    publish->note_value = span_of(keeper->value, NUMBERS + tag.size);
}
