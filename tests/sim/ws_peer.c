/* SPDX-License-Identifier: Apache-2.0 */
/* See ws_peer.h. On the world loop. */
#include "tests/sim/ws_peer.h"

#include <jansson.h>
#include <stdio.h>

#include "core/base/buf.h"
#include "core/base/check.h"
#include "core/base/heap.h"
#include "tests/sim/amqp_peer.h"
#include "tests/sim/work_history.h"

enum {
    INPUT_MAX = 1024 * 1024,
    REQUESTS = 512,
    CREDIT = 6,
    LEASE_S = 30,
    LEASE_SLACK_MS = 1000, /* it began before the delivery came */
    PAUSE_MS = 40,
    AWAY_MS = 300,
    THINK_MS = 60,
    SLOW_PERCENT = 5 /* while the disk stands still */
};
enum { TEXT = 0x1, CLOSE = 0x8, PING = 0x9, PONG = 0xa };

static const char *const queues[] = {WORK_QUEUE, MORE_QUEUE};

enum asked { ASKED_NOTHING, ASKED_CONNECT, ASKED_SUBSCRIBE, ASKED_PUBLISH, ASKED_ACK, ASKED_NACK };

struct request_of {
    enum asked what;
    uint64_t id;
    uint32_t work, arrival;
    uint64_t until_ms;
};

struct ws_peer {
    struct sim_peer peer; /* first */
    char name[8];
    void (*dial)(struct sim_peer *peer);
    bool wanted, calm, upgraded, hang_up, leaving;
    uint64_t generation; /* of the connection, so that late events do nothing */
    uint64_t last_id;
    struct buf input;
    struct request_of requests[REQUESTS]; /* by id */
};

/* ------------------------------------------------ frames */

static void say(struct ws_peer *peer, unsigned kind, const char *text)
{
    size_t size = strlen(text);
    uint8_t frame[8 + 512] = {(uint8_t)(0x80 | kind), (uint8_t)(0x80 | size)};
    uint8_t *to = frame + 2;
    CHECK(size < 512);
    if (size > 125) {
        frame[1] = 0x80 | 126;
        *to++ = (uint8_t)(size >> 8);
        *to++ = (uint8_t)size;
    }
    to += 4; /* a mask of zeros changes nothing */
    memcpy(to, text, size);
    sim_send(&peer->peer, span_of(frame, (size_t)(to - frame) + size));
}

/* For one more request: while the disk stands none is answered. */
static bool has_room(const struct ws_peer *peer)
{
    return peer->requests[(peer->last_id + 1) % REQUESTS].what == ASKED_NOTHING;
}

static struct request_of *ask(struct ws_peer *peer, enum asked what)
{
    struct request_of *request = &peer->requests[++peer->last_id % REQUESTS];
    if (request->what != ASKED_NOTHING)
        history_fail("a request over WebSocket was never answered");
    *request = (struct request_of){.what = what, .id = peer->last_id};
    return request;
}

static void publish(struct ws_peer *peer)
{
    struct request_of *request = ask(peer, ASKED_PUBLISH);
    char body[16], text[128];
    request->work = work_sent(0, body);
    snprintf(text, sizeof text, "{\"op\":\"publish\",\"id\":%llu,\"queue\":\"%s\",\"body\":\"%s\"}",
             (unsigned long long)request->id, queues[sim_below(2)], body);
    say(peer, TEXT, text);
}

static void connected(struct ws_peer *peer)
{
    history_asks(peer->name);
    for (unsigned i = 0; i < 2; i++) {
        char text[160];
        snprintf(text, sizeof text,
                 "{\"op\":\"subscribe\",\"id\":%llu,\"sub\":\"%s\",\"queue\":\"%s\",\"group\":"
                 "\"amqp\",\"credit\":%d,\"lease_seconds\":%d}",
                 (unsigned long long)ask(peer, ASKED_SUBSCRIBE)->id, queues[i], queues[i],
                 (int)(1 + sim_below(CREDIT)), LEASE_S);
        say(peer, TEXT, text);
    }
}

/* ------------------------------------------------ deliveries */

struct thinking {
    struct ws_peer *peer;
    uint64_t generation, until_ms;
    uint32_t work, arrival;
    char receipt[64], sub[16];
};

static void decide(void *context)
{
    struct thinking *thinking = context;
    struct ws_peer *peer = thinking->peer;
    char text[160];
    bool is_here = peer->generation == thinking->generation && peer->peer.shared != NULL;
    if (is_here && !has_room(peer)) {
        sim_after(THINK_MS, decide, thinking);
        return;
    }
    if (is_here && !peer->leaving) {
        bool takes = peer->calm || sim_chance(70);
        struct request_of *request = ask(peer, takes ? ASKED_ACK : ASKED_NACK);
        request->work = thinking->work;
        request->arrival = thinking->arrival;
        request->until_ms = thinking->until_ms;
        work_ending(thinking->work, takes ? WORK_DONE : WORK_FAILED, 0);
        if (!takes)
            work_let_go(thinking->work, thinking->arrival);
        snprintf(text, sizeof text, "{\"op\":\"%s\",\"id\":%llu,\"receipt\":\"%s\"}",
                 takes ? "ack" : "nack", (unsigned long long)request->id, thinking->receipt);
        say(peer, TEXT, text);
        snprintf(text, sizeof text, "{\"op\":\"credit\",\"sub\":\"%s\",\"credit\":1}",
                 thinking->sub);
        say(peer, TEXT, text);
    }
    heap_free(thinking);
}

static const char *member(const json_t *object, const char *name)
{
    const char *text = json_string_value(json_object_get(object, name));
    return text == NULL ? "" : text;
}

static void delivered(struct ws_peer *peer, const json_t *frame)
{
    /* What was on its way when the gateway closed the connection is nobody's, or another's. */
    if (!sim_is_open(&peer->peer))
        return;
    history_gets(peer->name);
    struct thinking *thinking = heap_new(sizeof *thinking);
    thinking->peer = peer;
    thinking->generation = peer->generation;
    thinking->until_ms = sim_now_ms() + LEASE_S * 1000 - LEASE_SLACK_MS;
    const char *body = member(frame, "body");
    thinking->work =
        work_came(span_of(body, strlen(body)), &peer->peer, thinking->until_ms,
                  (uint32_t)json_integer_value(json_object_get(frame, "delivery_count")));
    thinking->arrival = work_arrival(thinking->work);
    if (peer->leaving)
        work_let_go(thinking->work, thinking->arrival);
    snprintf(thinking->receipt, sizeof thinking->receipt, "%s", member(frame, "receipt"));
    snprintf(thinking->sub, sizeof thinking->sub, "%s", member(frame, "sub"));
    sim_after(sim_below(THINK_MS), decide, thinking);
}

/* ------------------------------------------------ answers */

static void answered(struct ws_peer *peer, const json_t *frame, bool is_ok)
{
    uint64_t id = (uint64_t)json_integer_value(json_object_get(frame, "id"));
    struct request_of *request = &peer->requests[id % REQUESTS];
    struct request_of was = *request;
    if (was.what == ASKED_NOTHING || was.id != id)
        history_fail("an answer over WebSocket to what was not asked: %llu",
                     (unsigned long long)id);
    request->what = ASKED_NOTHING;
    /* After a failed sync nobody knows. */
    bool in_doubt = strcmp(member(frame, "code"), "storage") == 0;
    if (!is_ok && !in_doubt && was.what != ASKED_ACK && was.what != ASKED_NACK)
        history_fail("request %u over WebSocket is refused: %s", was.what, member(frame, "code"));
    if (!is_ok && (was.what == ASKED_CONNECT || was.what == ASKED_SUBSCRIBE))
        peer->hang_up = true;
    else if (was.what == ASKED_CONNECT)
        connected(peer);
    else if (was.what == ASKED_PUBLISH && is_ok)
        work_fate(was.work, FATE_ACKNOWLEDGED);
    else if (was.what == ASKED_ACK && is_ok && sim_now_ms() < was.until_ms)
        work_ended(was.work, WORK_DONE, was.arrival);
    else if (was.what == ASKED_NACK && is_ok && sim_now_ms() < was.until_ms)
        work_ended(was.work, WORK_FAILED, was.arrival);
    else if (was.what == ASKED_ACK && !is_ok && !in_doubt && sim_now_ms() < was.until_ms)
        history_fail("a live lease over WebSocket cannot be acknowledged: %s",
                     member(frame, "code"));
    if (was.what == ASKED_ACK)
        work_let_go(was.work, was.arrival);
}

static void message(struct ws_peer *peer, struct span text)
{
    json_t *frame = json_loadb((const char *)text.data, text.size, 0, NULL);
    if (frame == NULL)
        history_fail("what came over WebSocket is no JSON");
    const char *op = member(frame, "op");
    if (strcmp(op, "deliver") == 0)
        delivered(peer, frame);
    else if (strcmp(op, "ok") == 0 || strcmp(op, "error") == 0)
        answered(peer, frame, strcmp(op, "ok") == 0);
    else if (strcmp(op, "closing") == 0)
        peer->hang_up = true;
    json_decref(frame);
}

/* Takes one frame off the input; false: there is none. */
static bool take_frame(struct ws_peer *peer)
{
    struct span input = buf_span(&peer->input);
    if (input.size < 2)
        return false;
    size_t size = input.data[1] & 0x7f, head = 2;
    size_t more = size == 126 ? 2 : size == 127 ? 8 : 0;
    if (input.size < head + more)
        return false;
    if (more > 0)
        size = 0;
    for (; more > 0; more--)
        size = size << 8 | input.data[head++];
    if (input.size < head + size)
        return false;
    unsigned kind = input.data[0] & 0x0f;
    if (kind == TEXT)
        message(peer, span_of(input.data + head, size));
    else if (kind == PING)
        say(peer, PONG, "");
    else if (kind == CLOSE)
        peer->hang_up = true;
    buf_consume(&peer->input, head + size);
    return true;
}

/* Takes the answer to the handshake; false: it is not there yet. */
static bool take_head(struct ws_peer *peer)
{
    struct span input = buf_span(&peer->input);
    const uint8_t *end = memmem(input.data, input.size, "\r\n\r\n", 4);
    if (end == NULL)
        return false;
    if (!span_begins(input, span_from_text("HTTP/1.1 101 "))) {
        peer->hang_up = true;
        return false;
    }
    buf_consume(&peer->input, (size_t)(end - input.data) + 4);
    peer->upgraded = true;
    char text[64];
    snprintf(text, sizeof text, "{\"op\":\"connect\",\"id\":%llu}",
             (unsigned long long)ask(peer, ASKED_CONNECT)->id);
    say(peer, TEXT, text);
    return true;
}

static void received(struct sim_peer *sim_peer, struct span bytes)
{
    struct ws_peer *peer = (struct ws_peer *)sim_peer;
    CHECK(buf_append(&peer->input, bytes.data, bytes.size) == STATUS_OK);
    while (!peer->hang_up && (peer->upgraded ? take_frame(peer) : take_head(peer)))
        continue;
    if (peer->hang_up)
        sim_disconnect(&peer->peer);
}

/* ------------------------------------------------ coming and going */

struct acting {
    struct ws_peer *peer;
    uint64_t generation;
};

static void act(void *context);

static void act_later(struct ws_peer *peer)
{
    struct acting *acting = heap_new(sizeof *acting);
    *acting = (struct acting){peer, peer->generation};
    sim_after(1 + sim_below(PAUSE_MS), act, acting);
}

static void act(void *context)
{
    struct acting *acting = context;
    struct ws_peer *peer = acting->peer;
    bool same = peer->generation == acting->generation && peer->peer.shared != NULL;
    heap_free(acting);
    if (!same || peer->calm || peer->leaving)
        return;
    unsigned what = (unsigned)sim_below(1000); /* in thousands, as AMQP peers do */
    if (what < 8) {
        sim_disconnect(&peer->peer);
        return;
    }
    if (what < 16) {
        sim_vanish(&peer->peer, sim_below(3000));
        return;
    }
    if (what < 24 && peer->upgraded) {
        say(peer, CLOSE, "");
        peer->leaving = true;
        work_holder_gone(&peer->peer);
        return;
    }
    bool sends = peer->upgraded && (!sim_disk_stands() || sim_chance(SLOW_PERCENT));
    for (uint64_t count = sends ? sim_below(3) : 0; count > 0; count--)
        publish(peer);
    act_later(peer);
}

static void come(void *context)
{
    static const char head[] = "GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n"
                               "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
                               "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
                               "Sec-WebSocket-Protocol: polylog.v1\r\n\r\n";
    struct ws_peer *peer = context;
    if (!peer->wanted || peer->peer.shared != NULL)
        return;
    peer->dial(&peer->peer);
    if (peer->peer.shared == NULL)
        return; /* refused: closed() comes */
    peer->generation++;
    peer->upgraded = peer->hang_up = peer->leaving = false;
    peer->last_id = 0;
    memset(peer->requests, 0, sizeof peer->requests);
    buf_clear(&peer->input);
    sim_send(&peer->peer, span_from_text(head));
    act_later(peer);
}

static void closed(struct sim_peer *sim_peer)
{
    struct ws_peer *peer = (struct ws_peer *)sim_peer;
    work_holder_gone(sim_peer);
    peer->generation++;
    if (peer->wanted)
        sim_after(1 + sim_below(AWAY_MS), come, peer);
}

struct ws_peer *ws_peer_new(unsigned number, void (*dial)(struct sim_peer *peer))
{
    struct ws_peer *peer = heap_new(sizeof *peer);
    snprintf(peer->name, sizeof peer->name, "ws%u", number % 10);
    peer->peer.received = received;
    peer->peer.closed = closed;
    peer->dial = dial;
    buf_init(&peer->input, INPUT_MAX);
    return peer;
}

void ws_peer_start(struct ws_peer *peer)
{
    peer->wanted = true;
    come(peer);
}

void ws_peer_calm(struct ws_peer *peer)
{
    peer->calm = true;
}

void ws_peer_stop(struct ws_peer *peer)
{
    if (!peer->upgraded || peer->peer.shared == NULL)
        history_fail("a peer over WebSocket never gets in");
    for (unsigned i = 0; i < REQUESTS; i++)
        if (peer->requests[i].what != ASKED_NOTHING)
            history_fail("request %llu over WebSocket has no answer",
                         (unsigned long long)peer->requests[i].id);
    peer->wanted = false;
    sim_disconnect(&peer->peer);
}
