/* SPDX-License-Identifier: Apache-2.0 */
/* A client that sends on the channel of an ended session. */
#include "tests/sim/stray_peer.h"
#include "tests/sim/history.h"

enum { AGAIN_MS = 100, EVERY_MS = 20 * 1000 };

static const uint8_t beginning[] = {
    'A', 'M', 'Q', 'P', 0, 1, 0, 0, /* open, begin, a detach of nobody's handle */
    0,   0,   0,   17,  2, 0, 0, 0, 0, 0x53, 0x10, 0xc0, 4, 1, 0xa1, 1,    's',              /**/
    0,   0,   0,   20,  2, 0, 0, 0, 0, 0x53, 0x11, 0xc0, 7, 4, 0x40, 0x43, 0x52, 9, 0x52, 9, /**/
    0,   0,   0,   16,  2, 0, 0, 0, 0, 0x53, 0x16, 0xc0, 3, 1, 0x52, 9,
};
static const uint8_t flow[] = {0,    0,    0, 20, 2,    0,    0, 0,    0,    0x53,
                               0x13, 0xc0, 7, 4,  0x40, 0x52, 9, 0x43, 0x52, 9};

static struct {
    struct sim_peer peer; /* first */
    void (*dial)(struct sim_peer *peer);
    bool wanted, is_in; /* is_in: it has heard something */
} stray;

static void send_flow(void *context)
{
    (void)context;
    if (stray.peer.shared == NULL)
        return;
    sim_send(&stray.peer, span_of(flow, sizeof flow));
    sim_after(EVERY_MS, send_flow, NULL);
}

static void come(void *context)
{
    (void)context;
    if (!stray.wanted)
        return;
    stray.dial(&stray.peer);
    if (stray.peer.shared == NULL)
        return; /* refused: closed() comes */
    sim_send(&stray.peer, span_of(beginning, sizeof beginning));
    sim_after(EVERY_MS, send_flow, NULL);
}

static void received(struct sim_peer *peer, struct span bytes)
{
    (void)peer;
    stray.is_in |= bytes.size > 0;
}

static void closed(struct sim_peer *peer)
{
    (void)peer;
    if (stray.wanted && stray.is_in)
        history_fail("who sends on the channel of an ended session was closed");
    sim_after(AGAIN_MS, come, NULL);
}

void stray_peer_begin(void (*dial)(struct sim_peer *peer))
{
    stray.peer.received = received;
    stray.peer.closed = closed;
    stray.dial = dial;
    stray.wanted = true;
    stray.is_in = false;
    come(NULL);
}

void stray_peer_check(void)
{
    if (!stray.is_in)
        history_fail("who sends on the channel of an ended session never came");
    stray.wanted = false;
    sim_disconnect(&stray.peer);
}
