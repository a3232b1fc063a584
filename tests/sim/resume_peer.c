/* SPDX-License-Identifier: Apache-2.0 */
/* See resume_peer.h. On the world loop. */
#include "tests/sim/resume_peer.h"

#include <stdio.h>

#include "adapters/amqp/attach.h"
#include "core/base/check.h"
#include "core/base/heap.h"
#include "core/base/pack.h"
#include "tests/sim/history.h"
#include "tests/sim/moment.h"

enum {
    PEERS = 2, /* the second settles second */
    MESSAGES = 400,
    UNSETTLED = 6,
    PAUSE_MS = 40,
    AWAY_MS = 100,
    ALIVE_MS = 20000,
    OWED_MS = 10000, /* as long as an attach may wait for outcomes of before */
    FRAME = 1024,
    OPEN = 0x10,
    BEGIN = 0x11,
    ATTACH = 0x12,
    FLOW = 0x13,
    TRANSFER = 0x14,
    DISPOSITION = 0x15,
    DETACH = 0x16,
    SOURCE = 0x28,
    TARGET = 0x29,
    RECEIVED = 0x23
};

static struct {
    bool begun, accepted;
    unsigned first_life, last_life; /* of the gateway, from its first sending to its outcome */
    unsigned copies;
} messages[PEERS][MESSAGES];

/* A delivery that waits for its outcome. */
struct slot {
    bool used;
    bool was_sent;  /* ever */
    bool to_send;   /* on this link, and not sent so far */
    bool resumable; /* the gateway has said that it knows the tag */
    bool over;      /* and that it was accepted: it is only to be told that this is known */
    uint32_t message, tag, number; /* number: of the delivery on this session */
};

struct resume_peer {
    struct sim_peer peer; /* first */
    unsigned index;
    bool calm, attached, leaving, lost, refused;
    uint64_t asked_ms, asked_disk_ms; /* when it attached */
    uint64_t generation;
    uint32_t next_message, next_number, handle;
    struct slot slots[UNSETTLED];
    struct buf in;
    uint8_t out[FRAME];
    struct amqp_writer writer;
    uint8_t *list;
    uint32_t fields;
};

static struct resume_peer peers[PEERS];
static void (*dial)(struct sim_peer *peer);
static uint64_t again_count;

struct later {
    struct resume_peer *peer;
    uint64_t generation;
    void (*run)(struct resume_peer *peer);
};

static void later_over(void *context)
{
    struct later later = *(struct later *)context;
    heap_free(context);
    if (later.peer->generation == later.generation && later.peer->peer.shared != NULL)
        later.run(later.peer);
}

static void after(struct resume_peer *peer, uint64_t delay_ms,
                  void (*run)(struct resume_peer *peer))
{
    struct later *later = heap_new(sizeof *later);
    *later = (struct later){peer, peer->generation, run};
    sim_after(delay_ms, later_over, later);
}

/* ------------------------------------------------ frames out */

static void frame_begin(struct resume_peer *peer, uint8_t code)
{
    memcpy(peer->out, (const uint8_t[]){0, 0, 0, 0, 2, 0, 0, 0}, 8);
    peer->writer.at = peer->out + 8;
    amqp_write_descriptor(&peer->writer, (uint8_t)code);
    peer->list = amqp_open(&peer->writer);
    peer->fields = 0;
}

static struct amqp_writer *field(struct resume_peer *peer)
{
    peer->fields++;
    return &peer->writer;
}

static void put_nulls(struct resume_peer *peer, unsigned count)
{
    while (count-- > 0)
        amqp_write_null(field(peer));
}

static void frame_end(struct resume_peer *peer, struct span payload)
{
    amqp_close(&peer->writer, peer->list, AMQP_LIST, peer->fields, false);
    amqp_write_raw(&peer->writer, payload);
    size_t size = (size_t)(peer->writer.at - peer->out);
    CHECK(size <= sizeof peer->out);
    store_u32(peer->out, (uint32_t)size);
    sim_send(&peer->peer, span_of(peer->out, size));
}

static void put_terminus(struct resume_peer *peer, uint8_t code, const char *address)
{
    struct amqp_writer *writer = field(peer);
    amqp_write_descriptor(writer, (uint8_t)code);
    uint8_t *list = amqp_open(writer);
    if (address != NULL) {
        amqp_write_bytes(writer, AMQP_STRING, span_from_text(address));
        amqp_write_null(writer);
        amqp_write_bytes(writer, AMQP_SYMBOL, span_from_text("never"));
    }
    amqp_close(writer, list, AMQP_LIST, address == NULL ? 0 : 3, false);
}

static void put_map(struct resume_peer *peer)
{
    struct amqp_writer *writer = field(peer);
    uint32_t count = 0;
    uint8_t *map = amqp_open(writer);
    for (struct slot *slot = peer->slots; slot < peer->slots + UNSETTLED; slot++) {
        if (!slot->used)
            continue;
        amqp_write_bytes(writer, AMQP_BINARY, span_of(&slot->tag, sizeof slot->tag));
        amqp_write_null(writer);
        count += 2;
    }
    amqp_close(writer, map, AMQP_MAP, count, false);
}

static void attach(struct resume_peer *peer)
{
    for (struct slot *slot = peer->slots; slot < peer->slots + UNSETTLED; slot++) {
        slot->to_send = true;
        slot->resumable = slot->over = false;
    }
    peer->attached = peer->leaving = peer->refused = false;
    peer->asked_ms = sim_now_ms();
    peer->asked_disk_ms = sim_disk_now_ms();
    frame_begin(peer, ATTACH);
    amqp_write_bytes(field(peer), AMQP_STRING, span_from_text("resumed"));
    amqp_write_uint(field(peer), peer->handle);
    amqp_write_boolean(field(peer), false);
    put_nulls(peer, 1);
    amqp_write_ubyte(field(peer), (uint8_t)peer->index); /* who settles first */
    put_terminus(peer, SOURCE, NULL);
    put_terminus(peer, TARGET, "/topics/other/resumed");
    put_map(peer);
    put_nulls(peer, 1);
    amqp_write_uint(field(peer), 0);
    frame_end(peer, span_of("", 0));
    moment(MOMENT_ATTACH_SENT);
}

static void send_slot(struct resume_peer *peer, struct slot *slot)
{
    char text[32];
    uint8_t payload[40] = {0x00, 0x53, 0x75, 0xa0};
    int size = snprintf(text, sizeof text, "s%u %u", peer->index, slot->message);
    payload[4] = (uint8_t)size;
    memcpy(payload + 5, text, (size_t)size);
    again_count += slot->was_sent;
    slot->was_sent = true;
    slot->to_send = false;
    slot->number = peer->next_number++;
    frame_begin(peer, TRANSFER);
    amqp_write_uint(field(peer), peer->handle);
    amqp_write_uint(field(peer), slot->number);
    amqp_write_bytes(field(peer), AMQP_BINARY, span_of(&slot->tag, sizeof slot->tag));
    amqp_write_uint(field(peer), 0);
    amqp_write_boolean(field(peer), slot->over);
    put_nulls(peer, 3);
    if (slot->over || (slot->resumable && sim_chance(70)))
        amqp_write_boolean(field(peer), true);
    frame_end(peer, span_of(payload, slot->over ? 0 : 5 + (size_t)size));
    slot->used = !slot->over;
    moment(MOMENT_TRANSFER_SENT);
}

static void begin_message(struct resume_peer *peer, struct slot *slot)
{
    uint32_t message = peer->next_message++;
    messages[peer->index][message].begun = true;
    messages[peer->index][message].first_life = history_life();
    *slot = (struct slot){.used = true, .message = message, .to_send = true};
    slot->tag = (uint32_t)(slot - peer->slots);
}

/* ------------------------------------------------ frames in */

static void accepted(struct resume_peer *peer, const struct slot *slot)
{
    messages[peer->index][slot->message].accepted = true;
    messages[peer->index][slot->message].last_life = history_life();
}

/* tag to state */
static void map_came(struct resume_peer *peer, const struct amqp_value *map)
{
    struct reader at = reader_of(map->bytes);
    struct amqp_value tag, state;
    for (uint32_t i = 0; i + 1 < map->count; i += 2) {
        if (!amqp_value_read(&at, &tag) || !amqp_value_read(&at, &state))
            history_fail("a map that cannot be read");
        struct slot *slot = peer->slots;
        while (slot < peer->slots + UNSETTLED &&
               !(slot->used && span_equal(tag.bytes, span_of(&slot->tag, sizeof slot->tag))))
            slot++;
        if (slot == peer->slots + UNSETTLED)
            history_fail("a tag that is not unsettled is said to be");
        slot->resumable = true;
        if (state.bytes.size > 1 && state.bytes.data[1] == AMQP_OUTCOME_ACCEPTED) {
            accepted(peer, slot);
            slot->over = sim_chance(60);
        } else if (state.bytes.size < 2 || state.bytes.data[1] != RECEIVED) {
            history_fail("a delivery is not said to be accepted, nor to be unknown");
        }
    }
}

static void attach_came(struct resume_peer *peer, struct reader *fields)
{
    struct amqp_value value = {.type = AMQP_NULL};
    for (unsigned i = 0; i < 8; i++)
        if (!amqp_value_read(fields, &value))
            history_fail("an answer to a map without one");
    /* What has come before is not stored for so long. */
    peer->refused = value.type == AMQP_NULL && sim_now_ms() >= peer->asked_ms + OWED_MS &&
                    sim_disk_now_ms() < peer->asked_disk_ms + OWED_MS;
    if (peer->refused)
        return;
    if (value.type != AMQP_MAP)
        history_fail("an answer to a map without one");
    peer->attached = true;
    map_came(peer, &value);
}

static void disposition_came(struct resume_peer *peer, struct reader *fields)
{
    struct amqp_value value[5] = {{.type = AMQP_NULL}};
    for (unsigned i = 0; i < 5; i++)
        if (!amqp_value_read(fields, &value[i])) {
            if (peer->index == 0 || i < 4)
                history_fail("a disposition without a state");
            return; /* it has settled second */
        }
    uint32_t last = (uint32_t)(value[2].type == AMQP_NULL ? value[1] : value[2]).number;
    uint8_t outcome = value[4].bytes.size > 1 ? value[4].bytes.data[1] : 0;
    if (outcome != AMQP_OUTCOME_ACCEPTED && outcome != AMQP_OUTCOME_RELEASED)
        history_fail("a resumed delivery is neither accepted nor released");
    for (struct slot *slot = peer->slots; slot < peer->slots + UNSETTLED; slot++) {
        if (!slot->used || slot->to_send || slot->number < value[1].number || slot->number > last)
            continue;
        if (outcome == AMQP_OUTCOME_RELEASED)
            history_fail("a delivery was released");
        accepted(peer, slot);
        slot->used = false;
        if (peer->index == 0)
            continue;
        frame_begin(peer, DISPOSITION);
        amqp_write_boolean(field(peer), false);
        amqp_write_uint(field(peer), slot->number);
        amqp_write_uint(field(peer), slot->number);
        amqp_write_boolean(field(peer), true);
        frame_end(peer, span_of("", 0));
    }
}

static void say_detach(struct resume_peer *peer, bool closed)
{
    frame_begin(peer, DETACH);
    amqp_write_uint(field(peer), peer->handle);
    amqp_write_boolean(field(peer), closed);
    frame_end(peer, span_of("", 0));
}

/* Whatever ends it was asked for, or comes with the end of the connection. */
static void detach_came(struct resume_peer *peer)
{
    if (peer->refused) {
        say_detach(peer, true);
        peer->handle++;
        after(peer, 1 + sim_below(PAUSE_MS), attach);
        return;
    }
    if (!peer->leaving) {
        if (!sim_disk_has_failed())
            history_fail("the link of a resuming sender is ended");
        peer->lost = true;
        return;
    }
    peer->handle++;
    attach(peer);
}

static void frame_came(struct resume_peer *peer, struct span frame)
{
    struct reader at = reader_of(span_from(frame, 8));
    struct amqp_value performative, code, list;
    if (frame.size == 8)
        return;
    if (!amqp_value_read(&at, &performative))
        history_fail("a frame that cannot be read");
    at = reader_of(performative.bytes);
    if (!amqp_value_read(&at, &code) || !amqp_value_read(&at, &list))
        history_fail("a frame that cannot be read");
    struct reader fields = reader_of(list.bytes);
    switch (code.number) {
    case ATTACH:
        attach_came(peer, &fields);
        break;
    case DISPOSITION:
        disposition_came(peer, &fields);
        break;
    case DETACH:
        detach_came(peer);
        break;
    case OPEN:
    case BEGIN:
    case FLOW:
        break;
    default:
        if (!sim_disk_has_failed())
            history_fail("the connection of a resuming sender is ended");
        peer->lost = true;
    }
}

static void received(struct sim_peer *sim_peer, struct span bytes)
{
    struct resume_peer *peer = (struct resume_peer *)sim_peer;
    CHECK(buf_append(&peer->in, bytes.data, bytes.size) == STATUS_OK);
    while (peer->in.size >= 8 && !peer->lost) {
        bool header = memcmp(peer->in.data, "AMQP", 4) == 0;
        size_t size = header ? 8 : load_u32(peer->in.data);
        if (size > peer->in.size)
            break;
        if (!header)
            frame_came(peer, span_of(peer->in.data, size));
        buf_consume(&peer->in, size);
    }
    if (peer->lost)
        sim_disconnect(&peer->peer);
}

/* ------------------------------------------------ coming and going */

static void say_something(struct resume_peer *peer)
{
    sim_send(&peer->peer, span_of((const uint8_t[]){0, 0, 0, 8, 2, 0, 0, 0}, 8));
    after(peer, ALIVE_MS, say_something);
}

static void detach(struct resume_peer *peer)
{
    peer->leaving = true;
    peer->attached = false;
    say_detach(peer, false);
    moment(MOMENT_DETACH_SENT);
}

static void act(struct resume_peer *peer)
{
    unsigned what = peer->calm ? 100 : (unsigned)sim_below(100);
    for (struct slot *slot = peer->slots; slot < peer->slots + UNSETTLED && peer->attached;
         slot++) {
        if (!slot->used && !peer->calm && peer->next_message < MESSAGES && sim_chance(50))
            begin_message(peer, slot);
        if (slot->used && slot->to_send)
            send_slot(peer, slot);
    }
    if (what < 8) {
        sim_disconnect(&peer->peer);
        return;
    }
    if (what < 14) {
        sim_vanish(&peer->peer, sim_below(3000));
        return;
    }
    if (what < 24 && peer->attached)
        detach(peer);
    after(peer, 1 + sim_below(PAUSE_MS), act);
}

static void come(void *context)
{
    struct resume_peer *peer = context;
    if (peer->peer.shared != NULL)
        return;
    dial(&peer->peer);
    if (peer->peer.shared == NULL)
        return; /* refused: closed() comes */
    peer->generation++;
    peer->lost = false;
    peer->next_number = peer->handle = 0;
    buf_clear(&peer->in);
    sim_send(&peer->peer, span_of("AMQP\x00\x01\x00\x00", 8));
    frame_begin(peer, OPEN);
    amqp_write_bytes(field(peer), AMQP_STRING, span_from_text(peer->index == 0 ? "r0" : "r1"));
    frame_end(peer, span_of("", 0));
    frame_begin(peer, BEGIN);
    put_nulls(peer, 1);
    for (unsigned i = 0; i < 3; i++)
        amqp_write_uint(field(peer), i == 0 ? 0 : 10000);
    frame_end(peer, span_of("", 0));
    attach(peer);
    after(peer, 1, act);
    after(peer, ALIVE_MS, say_something);
}

static void closed(struct sim_peer *sim_peer)
{
    struct resume_peer *peer = (struct resume_peer *)sim_peer;
    peer->generation++;
    peer->attached = false;
    sim_after(1 + sim_below(AWAY_MS), come, peer);
}

void resume_peers_begin(void (*dial_amqp)(struct sim_peer *peer))
{
    dial = dial_amqp;
    again_count = 0;
    memset(peers, 0, sizeof peers); /* also what a seed before has left */
    memset(messages, 0, sizeof messages);
    for (unsigned i = 0; i < PEERS; i++) {
        peers[i] = (struct resume_peer){
            .peer = {.received = received, .closed = closed},
            .index = i,
        };
        buf_init(&peers[i].in, 1 << 20);
        come(&peers[i]);
    }
}

void resume_peers_calm(void)
{
    for (unsigned i = 0; i < PEERS; i++)
        peers[i].calm = true;
}

/* ------------------------------------------------ the end */

void resumed_final(struct span payload)
{
    unsigned peer, message;
    char text[32] = "";
    memcpy(text, payload.data, payload.size < sizeof text ? payload.size : sizeof text - 1);
    if (sscanf(text, "s%u %u", &peer, &message) != 2 || peer >= PEERS || message >= MESSAGES ||
        !messages[peer][message].begun)
        history_fail("no message of a resuming sender: %s", text);
    messages[peer][message].copies++;
}

void resume_peers_check(void)
{
    for (unsigned peer = 0; peer < PEERS; peer++) {
        for (uint32_t i = 0; i < peers[peer].next_message; i++) {
            unsigned copies = messages[peer][i].copies;
            if (!messages[peer][i].accepted)
                history_fail("message %u of resuming sender %u has no outcome", i, peer);
            if (copies == 0)
                history_fail("message %u of resuming sender %u was accepted and is lost", i, peer);
            if (copies > 1 + messages[peer][i].last_life - messages[peer][i].first_life)
                history_fail("message %u of resuming sender %u is there %u times", i, peer, copies);
        }
    }
}

uint64_t resumed_count(void)
{
    return again_count;
}
