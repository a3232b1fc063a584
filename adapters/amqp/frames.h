/* SPDX-License-Identifier: Apache-2.0 */
/* Incoming frames (part 2, 2.3; of SASL part 5, 5.3.1), looked at on their way to Proton: whether
 * they are frames, and of a kind there is. It would wait for ever behind one that it cannot read,
 * and say nothing. Of ATTACH, which says more than it passes on, the whole frame is kept; of
 * TRANSFER it does not say that a delivery is resumed.
 *
 *   HEADER --AMQP 0--> FRAMES
 *          --AMQP 3--> SASL --"AMQP" where a frame would begin--> HEADER
 *          --another--> OTHER: its answer is Proton's
 *
 * Bytes are borrowed for a call, nothing of a message is copied. One connection's thread. */
#ifndef ADAPTERS_AMQP_FRAMES_H
#define ADAPTERS_AMQP_FRAMES_H

#include "core/base/buf.h"

enum amqp_performative {
    AMQP_OPEN = 0x10,
    AMQP_ATTACH = 0x12,
    AMQP_TRANSFER = 0x14,
    AMQP_DISPOSITION = 0x15,
    AMQP_CLOSE = 0x18,
    AMQP_SASL_INIT = 0x41,
    AMQP_SASL_RESPONSE = 0x43
};

/* What is wrong with the bytes behind those that may be passed on. */
enum amqp_verdict {
    AMQP_GOOD,
    AMQP_NO_FRAME,   /* size, data offset or type */
    AMQP_UNREADABLE, /* what is in it is no performative at all */
    AMQP_UNKNOWN     /* one that there is not, or, of SASL, not from a client */
};

struct amqp_frames {
    enum { AMQP_PHASE_HEADER, AMQP_PHASE_SASL, AMQP_PHASE_FRAMES, AMQP_PHASE_OTHER } phase;
    enum amqp_verdict verdict; /* stays what it is once it is not good */
    uint32_t size_max;
    uint32_t left;     /* bytes of a frame that have not come */
    bool is_attach;    /* it is one */
    bool looks;        /* for transfers that are resumed, as somebody may: set by the caller */
    bool is_resumed;   /* what was passed on last is such a one, alone */
    struct buf attach; /* the last ATTACH, or what has come of it, from its descriptor on */
};

/* size_max: what frames may have, headers included. */
void amqp_frames_init(struct amqp_frames *frames, uint32_t size_max);
void amqp_frames_deinit(struct amqp_frames *frames);

/* How many bytes may be passed on: up to the end of what has to be dealt with before the next
 * frame (ATTACH, all of SASL), to where a frame begins that is none (verdict), that has to be dealt
 * with by itself (a TRANSFER that is resumed), or whose header and descriptor (of a TRANSFER that
 * may be resumed: all but the payload) have not come whole: what is behind is to be shown again
 * with more. */
size_t amqp_frames_pass(struct amqp_frames *frames, struct span bytes);

#endif
