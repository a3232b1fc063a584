/* SPDX-License-Identifier: Apache-2.0 */
/* Links to targets that their senders may resume (part 2, 2.6.13), and answers to an ATTACH that
 * say what Proton cannot write. What has been sent on such a link is remembered (unsettled.h) when
 * the sender says in some way that it may come back for it:
 *
 *   its map of what is unsettled is there, if only empty: null says that nothing is (2.7.3)
 *   the receiver is to settle second: then it knows what its sender has settled
 *   source or target outlive their session, or their state is durable (part 3, 3.5.3)
 *
 * The attach is answered when of all in its map that has come the outcome is known, and what is
 * kept beyond the process has been read, where the target is to do that. */
#include "adapters/amqp/resume.h"
#include "adapters/amqp/connection.h"
#include "adapters/amqp/keeper.h"
#include "adapters/amqp/link.h"
#include "adapters/amqp/unsettled.h"
#include "core/base/check.h"
#include "core/base/hash.h"
#include "core/base/heap.h"
#include "core/base/limits.h"
#include "core/base/pack.h"
#include "core/broker/auth.h"

enum { AGAIN_MS = 5, OWED_MS = 10000, MAP_SPARE = 128 };
enum { FRAME_PLAIN = AMQP_FRAME_HEADER + 3 }; /* with the descriptor, as Proton writes it */

struct amqp_resumption {
    struct amqp_link *link;
    struct amqp_attachment *attachment; /* NULL: the attach has not come so far */
    struct amqp_keeper *keeper;         /* NULL: nothing outlives the process */
    struct buf attach;                  /* with the map */
    struct amqp_unsettled_map map;
    bool incomplete; /* ours was: only what is resumed may come (2.7.3) */
    uint32_t waited_ms;
    struct loop_timer again;
};

static uint64_t now_ms(const struct amqp_link *link)
{
    return loop_now_ms(amqp_loop(link->connection));
}

static void stolen(struct amqp_link *link)
{
    amqp_link_refuse(link, "amqp:link:stolen", "another link of this client has its name");
}

/* ------------------------------------------------ attach */

static void again(struct loop_timer *timer)
{
    struct amqp_resumption *resumption = container_of(timer, struct amqp_resumption, again);
    struct amqp_link *link = resumption->link;
    if (link->pn != NULL)
        amqp_link_accept(link);
    amqp_link_unref(link);
}

void amqp_resumption_read(struct amqp_link *link, struct span attach)
{
    pn_link_t *pn = link->pn;
    struct amqp_unsettled_map map = amqp_unsettled_read(attach);
    link->settles_second = pn_link_remote_rcv_settle_mode(pn) == PN_RCV_SECOND;
    bool asked = map.is_there || link->settles_second ||
                 amqp_is_lasting(pn_link_remote_source(pn)) ||
                 amqp_is_lasting(pn_link_remote_target(pn));
    if (!asked || link->connection->client.id.size == 0)
        return;
    struct amqp_resumption *resumption = heap_new(sizeof *resumption);
    resumption->link = link;
    resumption->again.fired = again;
    buf_init(&resumption->attach, attach.size);
    if (map.is_there && buf_append(&resumption->attach, attach.data, attach.size) == STATUS_OK)
        resumption->map = amqp_unsettled_read(buf_span(&resumption->attach));
    link->resumption = resumption;
}

/* Not what was asked for: whatever the link goes with, its time runs from then on. */
static void say_how_long(pn_terminus_t *target, uint32_t expiry_s)
{
    bool ends = expiry_s != UINT32_MAX;
    pn_terminus_set_expiry_policy(target, ends ? PN_EXPIRE_WITH_LINK : PN_EXPIRE_NEVER);
    pn_terminus_set_timeout(target, ends ? expiry_s : 0);
}

static uint32_t expiry_of(pn_terminus_t *target)
{
    uint32_t timeout_s = pn_terminus_get_timeout(target);
    if (pn_terminus_get_expiry_policy(target) == PN_EXPIRE_NEVER)
        return UINT32_MAX;
    return timeout_s <= LIMIT_RESUME_MS / 1000 ? LIMIT_RESUME_MS / 1000
           : timeout_s == UINT32_MAX           ? UINT32_MAX - 1
                                               : timeout_s;
}

static void is_kept(struct amqp_link *link, enum status status)
{
    struct amqp_resumption *resumption = link->resumption;
    pn_terminus_t *target = pn_link_target(link->pn);
    if (status == STATUS_CANCELED ||
        (status == STATUS_OK && amqp_keeper_is_lost(resumption->keeper))) {
        stolen(link);
    } else if (status != STATUS_OK) {
        amqp_link_refuse_status(link, status);
    } else {
        pn_terminus_set_durability(target, PN_DELIVERIES);
        say_how_long(target, amqp_keeper_expiry_s(resumption->keeper));
        amqp_keeper_recall(resumption->keeper, resumption->attachment);
        amqp_attachment_resume(resumption->attachment, &resumption->map);
        amqp_link_accept(link);
    }
}

/* False: it is refused, and may be no more, or is_kept() comes. */
static bool take_name(struct amqp_resumption *resumption)
{
    struct amqp_link *link = resumption->link;
    const struct client *client = &link->connection->client;
    const char *principal = client->principal == NULL ? "" : client->principal->name;
    struct span name = span_from_text(pn_link_name(link->pn));
    struct buf user, key;
    bool late = false;
    buf_init(&user, LIMIT_RESUME_NAME);
    buf_init(&key, LIMIT_RESUME_NAME);
    /* A container id holds no zero byte, as Proton's texts end there. */
    if (buf_append(&user, &client->tenant, sizeof client->tenant) == STATUS_OK &&
        buf_append(&user, principal, strlen(principal)) == STATUS_OK &&
        buf_append(&key, client->id.data, client->id.size) == STATUS_OK &&
        buf_append(&key, "", 1) == STATUS_OK && buf_append(&key, name.data, name.size) == STATUS_OK)
        resumption->attachment =
            amqp_attachment_new(buf_span(&user), buf_span(&key), link->settles_second,
                                link->connection->turn, now_ms(link), &late);
    buf_deinit(&user);
    buf_deinit(&key);
    if (late)
        stolen(link);
    if (late || resumption->attachment == NULL)
        return !late;
    pn_terminus_t *target = pn_link_remote_target(link->pn);
    if (pn_terminus_get_durability(target) == PN_DELIVERIES)
        resumption->keeper =
            amqp_keeper_new(link, !resumption->map.is_there, expiry_of(target), is_kept);
    if (resumption->keeper != NULL)
        return false;
    say_how_long(pn_link_target(link->pn), LIMIT_RESUME_MS / 1000);
    amqp_attachment_resume(resumption->attachment, &resumption->map);
    return true;
}

bool amqp_resumption_is_ready(struct amqp_link *link)
{
    struct amqp_resumption *resumption = link->resumption;
    uint32_t owed = 0;
    if (resumption == NULL)
        return true;
    bool sends = link->kind == AMQP_TO_QUEUE || link->kind == AMQP_TO_TOPIC ||
                 link->kind == AMQP_TO_ANYWHERE;
    if (sends && resumption->attachment == NULL && !take_name(resumption))
        return false;
    if (resumption->attachment == NULL)
        return true;
    if (!amqp_attachment_owed(resumption->attachment, &owed)) {
        stolen(link);
        return false;
    }
    if (owed == 0)
        return true;
    if (resumption->waited_ms >= OWED_MS) {
        amqp_link_refuse_status(link, STATUS_BUSY);
        return false;
    }
    resumption->waited_ms += AGAIN_MS;
    link->refs++;
    loop_timer_start(amqp_loop(link->connection), &resumption->again, AGAIN_MS);
    return false;
}

void amqp_resumption_leave(struct amqp_link *link)
{
    struct amqp_resumption *resumption = link->resumption;
    if (resumption != NULL && resumption->attachment != NULL)
        amqp_attachment_leave(resumption->attachment, link->leaving == AMQP_LEAVES_FOR_GOOD,
                              now_ms(link));
    if (resumption != NULL && resumption->keeper != NULL && link->leaving == AMQP_LEAVES_FOR_GOOD)
        amqp_keeper_give_up(resumption->keeper);
}

void amqp_resumption_free(struct amqp_link *link)
{
    struct amqp_resumption *resumption = link->resumption;
    if (resumption == NULL)
        return;
    amqp_keeper_free(resumption->keeper);
    amqp_attachment_free(resumption->attachment, now_ms(link));
    buf_deinit(&resumption->attach);
    heap_free(resumption);
    link->resumption = NULL;
}

/* ------------------------------------------------ the answer */

/* What is said here does not wait until the peer reads. One that never does, and attaches and
 * detaches, may not fill memory with it. */
static bool is_read(struct amqp_connection *connection)
{
    if (stream_queued(connection->stream) <= 2 * LIMIT_CLIENT_OUT_BYTES)
        return true;
    if (connection->state >= AMQP_CLOSING)
        return false;
    amqp_count_refusal(STATUS_OVER_QUOTA);
    amqp_break_off(connection, "amqp:resource-limit-exceeded", "answers are not read");
    return false;
}

/* Everything that Proton has to say by now: so what it says next begins with a frame. to: NULL: to
 * the peer. */
static void say(struct amqp_connection *connection, struct buf *to)
{
    pn_bytes_t bytes;
    while ((bytes = pn_connection_driver_write_buffer(&connection->driver)).size > 0) {
        if (to == NULL)
            stream_write(connection->stream, span_of(bytes.start, bytes.size));
        else
            CHECK(buf_append(to, bytes.start, bytes.size) == STATUS_OK);
        amqp_said_pass(&connection->told, span_of(bytes.start, bytes.size));
        connection->said = true;
        pn_connection_driver_write_done(&connection->driver, bytes.size);
    }
}

/* The first frame is an ATTACH, which is written with what more it says; false: without, as it does
 * not fit. */
static bool say_with(struct amqp_connection *connection, struct span frames, uint32_t size_max,
                     const struct amqp_attach_more *more)
{
    struct buf rewritten;
    size_t size = load_u32(frames.data);
    buf_init(&rewritten, 2 * (size_t)size_max);
    bool said = size <= frames.size &&
                amqp_attach_rewrite(span_of(frames.data, size), more, size_max, &rewritten);
    if (said) {
        stream_write(connection->stream, buf_span(&rewritten));
        frames = span_from(frames, size);
    }
    stream_write(connection->stream, frames);
    buf_deinit(&rewritten);
    return said;
}

/* What of the map fits into a frame beside what is there; without a name it is empty. */
static bool map_write(struct amqp_link *link, size_t room, struct buf *map)
{
    static const uint8_t nothing[] = {AMQP_MAP_SMALL, 1, 0};
    struct amqp_attachment *attachment = link->resumption->attachment;
    if (attachment == NULL)
        return buf_append(map, nothing, sizeof nothing) == STATUS_OK;
    return amqp_attachment_map(attachment, amqp_condition_of, room, map);
}

/* How the answer, the first of the frames, names the link. */
static void read_name(struct amqp_link *link, struct span frames)
{
    size_t offset = frames.size < AMQP_FRAME_HEADER ? 0 : 4 * (size_t)frames.data[4];
    if (offset < AMQP_FRAME_HEADER || offset > frames.size ||
        !amqp_attach_handle(span_from(frames, offset), &link->handle))
        return;
    link->channel = load_u16(frames.data + 6);
    link->is_answered = true;
}

void amqp_attach_answer(struct amqp_link *link)
{
    struct amqp_connection *connection = link->connection;
    struct amqp_attach_more more = {.incomplete = false};
    uint8_t outcome[AMQP_DEFAULT_MAX];
    struct amqp_writer writer = {.at = outcome};
    struct buf map, frames;
    bool resumes = link->resumption != NULL && link->resumption->map.is_there;
    bool says_more = resumes || link->unnamed.outcome != AMQP_OUTCOME_NONE;
    if (!is_read(connection)) {
        pn_link_open(link->pn);
        return;
    }
    uint32_t max = pn_transport_get_remote_max_frame(connection->driver.transport);
    if (max == 0 || max > AMQP_FRAME_MAX)
        max = AMQP_FRAME_MAX;
    buf_init(&map, 2 * AMQP_FRAME_MAX);
    buf_init(&frames, SIZE_MAX / 2);
    say(connection, NULL);
    pn_link_open(link->pn);
    say(connection, &frames);
    read_name(link, buf_span(&frames));
    if (link->unnamed.outcome != AMQP_OUTCOME_NONE) {
        amqp_default_write(&writer, &link->unnamed);
        more.default_outcome = span_of(outcome, (size_t)(writer.at - outcome));
    }
    if (resumes) {
        size_t taken = frames.size + MAP_SPARE;
        more.incomplete = !map_write(link, max > taken ? max - taken : 0, &map);
        more.unsettled = buf_span(&map);
    }
    if (!says_more)
        stream_write(connection->stream, buf_span(&frames));
    else if (frames.size >= AMQP_FRAME_HEADER &&
             say_with(connection, buf_span(&frames), max, &more) && resumes)
        link->resumption->incomplete = more.incomplete;
    if (resumes) { /* the client's has been read */
        link->resumption->map.items = span_of("", 0);
        buf_deinit(&link->resumption->attach);
    }
    buf_deinit(&map);
    buf_deinit(&frames);
}

bool amqp_say_now(struct amqp_connection *connection)
{
    if (!is_read(connection))
        return false;
    say(connection, NULL);
    return true;
}

void amqp_say_hushed(struct amqp_connection *connection)
{
    struct buf frames;
    buf_init(&frames, SIZE_MAX / 2);
    say(connection, &frames);
    struct span left = buf_span(&frames);
    while (left.size >= FRAME_PLAIN) {
        size_t size = load_u32(left.data);
        if (size < AMQP_FRAME_HEADER || size > left.size)
            break;
        if (size < FRAME_PLAIN || left.data[FRAME_PLAIN - 1] != AMQP_DISPOSITION)
            stream_write(connection->stream, span_of(left.data, size));
        left = span_from(left, size);
    }
    stream_write(connection->stream, left);
    buf_deinit(&frames);
}

/* ------------------------------------------------ deliveries */

static struct span tag_of(pn_delivery_t *delivery)
{
    pn_delivery_tag_t tag = pn_delivery_tag(delivery);
    return span_of(tag.start, tag.size);
}

enum amqp_come amqp_resumption_came(struct amqp_link *link, pn_delivery_t *delivery,
                                    struct span payload, enum status *outcome)
{
    struct amqp_resumption *resumption = link->resumption;
    bool resumed = link->resumed;
    link->resumed = false;
    if (resumption == NULL || resumption->attachment == NULL)
        return resumed ? AMQP_COME_IGNORED : AMQP_COME_NEW;
    if (resumption->keeper != NULL && amqp_keeper_is_lost(resumption->keeper)) {
        stolen(link);
        return AMQP_COME_REFUSED;
    }
    switch (
        amqp_attachment_came(resumption->attachment, tag_of(delivery), payload, resumed, outcome)) {
    case AMQP_AGAIN_KNOWN:
        if (pn_delivery_settled(delivery))
            amqp_attachment_settled(resumption->attachment, tag_of(delivery));
        return AMQP_COME_AGAIN;
    case AMQP_AGAIN_UNKNOWN:
        return AMQP_COME_IGNORED;
    case AMQP_AGAIN_EARLY:
        amqp_link_refuse_status(link, STATUS_BUSY);
        return AMQP_COME_REFUSED;
    case AMQP_AGAIN_STOLEN:
        stolen(link);
        return AMQP_COME_REFUSED;
    case AMQP_AGAIN_NEVER:
        break;
    }
    if (!resumption->incomplete || resumed)
        return AMQP_COME_NEW;
    amqp_link_refuse(link, "amqp:illegal-state", "what is unsettled has not been said whole yet");
    return AMQP_COME_REFUSED;
}

bool amqp_resumption_sent(struct amqp_link *link, pn_delivery_t *delivery, struct span payload,
                          struct publish *publish)
{
    struct amqp_resumption *resumption = link->resumption;
    if (resumption == NULL || resumption->attachment == NULL)
        return true;
    uint64_t hash = hash_stable(payload), from = 0;
    uint64_t number = resumption->keeper == NULL ? 0 : amqp_keeper_number(resumption->keeper);
    if (!amqp_attachment_sent(resumption->attachment, tag_of(delivery), hash, number, &from)) {
        stolen(link);
        return false;
    }
    if (resumption->keeper != NULL)
        amqp_keeper_note(resumption->keeper, tag_of(delivery), hash, from, publish);
    return true;
}

void amqp_resumption_answered(struct amqp_link *link, enum status status, bool settled)
{
    struct amqp_resumption *resumption = link->resumption;
    if (resumption != NULL && resumption->attachment != NULL)
        amqp_attachment_answered(resumption->attachment, status, settled);
}

void amqp_resumption_settled(struct amqp_link *link, pn_delivery_t *delivery)
{
    struct amqp_resumption *resumption = link->resumption;
    if (resumption != NULL && resumption->attachment != NULL)
        amqp_attachment_settled(resumption->attachment, tag_of(delivery));
}
