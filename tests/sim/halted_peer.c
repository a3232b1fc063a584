/* SPDX-License-Identifier: Apache-2.0 */
/* A client whose connection is paused while it keeps alive, and which is silent when it is not. */
#include "tests/sim/halted_peer.h"
#include "tests/sim/history.h"

enum {
    AGAIN_MS = 100,
    SEND_MS = 1000,
    STANDS_MS = 150 * 1000,
    EVERY_MS = 20 * 1000,
    SILENCE_MS = 60 * 1000
};

static const uint8_t beginning[] = {
    'A',  'M', 'Q',  'P',  0,    1,    0,    0, /* open, begin, attach of the anonymous relay */
    0,    0,   0,    17,   2,    0,    0,    0,    0,    0x53, 0x10, 0xc0,
    4,    1,   0xa1, 1,    'h', /**/
    0,    0,   0,    20,   2,    0,    0,    0,    0,    0x53, 0x11, 0xc0,
    7,    4,   0x40, 0x43, 0x52, 9,    0x52, 9, /**/
    0,    0,   0,    35,   2,    0,    0,    0,    0,    0x53, 0x12, 0xc0,
    22,   7,   0xa1, 1,    'h',  0x43, 0x42, 0x40, 0x40, 0,    0x53, 0x28,
    0xc0, 2,   1,    0x40, 0,    0x53, 0x29, 0xc0, 2,    1,    0x40};
static const uint8_t transfer[] = {0,    0,    0,    46,   2,    0,    0,    0,    0,    0x53,
                                   0x14, 0xc0, 7,    4,    0x43, 0x43, 0xa0, 1,    't',  0x43, /**/
                                   0,    0x53, 0x73, 0xc0, 11,   3,    0x40, 0x40, 0xa1, 6,
                                   'h',  'a',  'l',  't',  'e',  'd', /**/
                                   0,    0x53, 0x75, 0xa0, 5,    'f',  'i',  'r',  's',  't'};
static const uint8_t empty[] = {0, 0, 0, 8, 2, 0, 0, 0};
static const uint8_t accepted[] = {0, 0x53, 0x24};

static struct {
    struct sim_peer peer; /* first */
    void (*dial)(struct sim_peer *peer);
    struct sim_disk *disk;
    bool wanted, is_in, stored; /* is_in: it has heard something */
    bool has_stood;             /* the disk, for it */
    uint64_t said_ms;           /* something */
    uintptr_t connection;       /* how many there were */
} halted;

static void say(struct span bytes)
{
    halted.said_ms = sim_now_ms();
    sim_send(&halted.peer, bytes);
}

/* Of that connection, which is there, and has not done what it is for. */
static bool goes_on(void *connection)
{
    return (uintptr_t)connection == halted.connection && halted.peer.shared != NULL &&
           !halted.stored;
}

static void keep_alive(void *connection)
{
    if (!goes_on(connection))
        return;
    say(span_of(empty, sizeof empty));
    sim_after(EVERY_MS, keep_alive, connection);
}

static void send_message(void *connection)
{
    if (!goes_on(connection))
        return;
    if (!halted.has_stood)
        sim_disk_stand(halted.disk, STANDS_MS);
    halted.has_stood = true;
    say(span_of(transfer, sizeof transfer));
    sim_after(EVERY_MS, keep_alive, connection);
}

static void come(void *context)
{
    (void)context;
    if (!halted.wanted)
        return;
    halted.is_in = false;
    halted.dial(&halted.peer);
    if (halted.peer.shared == NULL)
        return; /* refused: closed() comes */
    say(span_of(beginning, sizeof beginning));
    sim_after(SEND_MS, send_message, (void *)++halted.connection);
}

static void received(struct sim_peer *peer, struct span bytes)
{
    (void)peer;
    halted.is_in |= bytes.size > 0;
    halted.stored |= memmem(bytes.data, bytes.size, accepted, sizeof accepted) != NULL;
}

static void closed(struct sim_peer *peer)
{
    if (halted.stored && sim_now_ms() >= halted.said_ms + SILENCE_MS) {
        halted.wanted = false;
        return;
    }
    if (halted.is_in && peer->ended != SIM_ENDED_BY_CRASH && !sim_disk_has_failed())
        history_fail("who keeps alive was closed while its connection stood still");
    sim_after(AGAIN_MS, come, NULL);
}

void halted_peer_begin(void (*dial)(struct sim_peer *peer), struct sim_disk *disk)
{
    halted.peer.received = received;
    halted.peer.closed = closed;
    halted.dial = dial;
    halted.disk = disk;
    halted.wanted = true;
    halted.is_in = halted.stored = halted.has_stood = false;
    come(NULL);
}

void halted_peer_check(void)
{
    if (!halted.stored)
        history_fail("what was sent while the disk stood still is not stored");
    if (halted.wanted)
        history_fail("who is silent is not closed");
}
