/* SPDX-License-Identifier: Apache-2.0 */
/* Incoming frames (part 2, 2.3; of SASL part 5, 5.3.1), looked at on their way to Proton: whether
 * they are frames, of a kind there is, and name what is there (channels.h). It would wait for ever
 * behind one that it cannot read, and say nothing. Of ATTACH, which says more than it passes on,
 * the whole frame is kept; of TRANSFER it says neither that a delivery is resumed nor its
 * message-format.
 *
 *   HEADER --AMQP 0--> FRAMES
 *          --AMQP 3--> SASL --"AMQP" where a frame would begin--> HEADER
 *          --another--> OTHER: its answer is Proton's
 *
 * A TRANSFER or DISPOSITION that is large, or a FLOW of more credit than Proton can hold, is passed
 * on by itself, and without what makes it so (lean.h). Bytes are borrowed for a call, nothing of a
 * message is copied. One connection's thread.
 */
#ifndef ADAPTERS_AMQP_FRAMES_H
#define ADAPTERS_AMQP_FRAMES_H

#include "adapters/amqp/lean.h"
#include "core/base/buf.h"

/* What is wrong with the bytes behind those that may be passed on. */
enum amqp_verdict {
    AMQP_GOOD,
    AMQP_NO_FRAME,   /* size, data offset or type */
    AMQP_UNREADABLE, /* what is in it is no performative at all, or has fields that are none */
    AMQP_UNKNOWN,    /* one that there is not, or, of SASL, not from a client */
    AMQP_BEGUN,      /* a begin on a channel in use */
    AMQP_UNASKED     /* a begin that answers one of ours */
};

struct amqp_frames {
    enum { AMQP_PHASE_HEADER, AMQP_PHASE_SASL, AMQP_PHASE_FRAMES, AMQP_PHASE_OTHER } phase;
    enum amqp_verdict verdict; /* stays what it is once it is not good */
    uint32_t size_max;
    uint32_t left; /* bytes of a frame that have not come */
    bool is_alone; /* it is dealt with before what follows */
    /* Of what was passed on last: */
    bool is_resumed;       /* a transfer of a delivery that is resumed */
    uint32_t format;       /* of a transfer that says one other than that of a message, 0 */
    bool is_dropped;       /* not for Proton: it is of a session that has ended, or ends with it */
    enum amqp_fate fate;   /* why; PASSES when the caller has ended the session */
    uint16_t channel;      /* of the last BEGIN, and of a frame that ends its session or asks */
    struct amqp_echo echo; /* of the last frame, where it asks for an answer or drains */
    struct buf attach;     /* the last ATTACH, from its descriptor on */
    struct amqp_lean lean; /* of the last frame: what is to be passed on in its place, if any */
    struct amqp_channels channels;
};

/* size_max: what frames may have, headers included. */
void amqp_frames_init(struct amqp_frames *frames, uint32_t size_max);
void amqp_frames_deinit(struct amqp_frames *frames);

/* How many bytes may be passed on or, is_dropped, taken for read: up to the end of what has to be
 * dealt with before the next frame (BEGIN, ATTACH, all of SASL), to where a frame begins that is
 * none (verdict), before which all others have to be dealt with (a TRANSFER that is resumed or has
 * a format, what is dropped, ATTACH, DETACH, END, CLOSE), or of which too little has come to say
 * (header and descriptor, a performative's list, of ATTACH all): what is behind is to be shown
 * again with more. */
size_t amqp_frames_pass(struct amqp_frames *frames, struct span bytes);

#endif
