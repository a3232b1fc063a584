/* SPDX-License-Identifier: Apache-2.0 */
/* What a peer has in use: channels, handles, and the delivery that is under way on each (part 2,
 * 2.5 to 2.7), known from its frames before Proton has them. Proton ends the connection over a
 * frame that names what is not there, and the process over some; the book ends the session, and
 * what comes on its channel is discarded until the peer's END has come:
 *
 *   UNMAPPED --BEGIN--> MAPPED --a frame of which look() says so--> DISCARDING
 *   MAPPED, DISCARDING --END--> UNMAPPED
 *
 * Fields are read as Proton reads them, and what it would read in another way than it is meant is
 * not passed on. One connection's thread. */
#ifndef ADAPTERS_AMQP_CHANNELS_H
#define ADAPTERS_AMQP_CHANNELS_H

#include "adapters/amqp/wire.h"
#include "core/base/span.h"

/* Proton keeps each value of an attach and of a state, within others too, for as long as the link
 * or the delivery, and has many bytes for one; a tag likewise: LIMIT_AMQP_ATTACH_VALUES and those
 * behind it. With one handle more than LIMIT_AMQP_HANDLES, those of sessions that have been ended
 * counted until the peer has ended them, too, the owner of the connection ends it. */

/* What becomes of a frame. */
enum amqp_fate {
    AMQP_PASSES,
    AMQP_UNFINISHED, /* too little of it has come */
    AMQP_DISCARDED,  /* its session has been ended */
    /* Its session ends, and it is discarded. */
    AMQP_UNATTACHED,     /* nobody's handle */
    AMQP_HANDLE_IN_USE,  /* another link's */
    AMQP_HANDLE_OF_NONE, /* the one by which Proton knows that there is none */
    AMQP_NAME_IN_USE,    /* an attach under the name of a link that is there */
    AMQP_WRONG_WAY,      /* a transfer on a link that the peer receives on */
    AMQP_WRONG_DELIVERY, /* a transfer of another delivery than is due */
    AMQP_WRONG_RANGE,    /* of deliveries, from its last to its first */
    AMQP_VALUES_TOO_MANY,
    /* The connection ends. */
    AMQP_UNDECODABLE,
    AMQP_CHANNEL_IN_USE, /* a begin on it */
    AMQP_ANSWERS_NONE    /* a begin that says that it is an answer */
};

struct amqp_handle {
    uint32_t handle;
    uint16_t channel;
    bool is_used; /* the slot is */
    bool receives;
    bool more, settled; /* of the delivery under way */
    uint32_t delivery;
    uint64_t name; /* its hash */
};

struct amqp_channel {
    enum { AMQP_UNMAPPED, AMQP_MAPPED, AMQP_DISCARDING } state;
    bool has_delivered;
    uint32_t delivery; /* the next one's id */
    void *session;     /* its owner's; NULL: not said yet */
};

struct amqp_channels {
    struct amqp_channel *channels;
    uint32_t channel_count;
    struct amqp_handle *handles; /* a hash table; a power of two of slots, half of them free */
    uint32_t slots, handle_count;
};

/* A FLOW that asks for one (2.7.4), or drains (2.6.7), and what it says itself. */
struct amqp_echo {
    bool is_asked, drains, has_link;
    uint32_t transfers; /* its next-outgoing-id */
    uint32_t handle, delivery_count, credit;
};

/* What a frame names. */
struct amqp_named {
    enum amqp_performative performative;
    enum amqp_fate fate;
    uint16_t channel;
    bool resumes;    /* a transfer of a delivery that is resumed */
    uint32_t format; /* likewise, its message-format; 0: of a message */
    struct amqp_echo echo;
    /* For amqp_channels_take() */
    struct amqp_handle *at;
    uint32_t handle, delivery, last;
    uint64_t name;
    bool receives, more, settled; /* settled: by the sender */
    /* Of a TRANSFER or DISPOSITION, for lean.h: where its list ends, its state as it came, the
     * fields before it and those behind it, and how many all of them are. The same of a FLOW with
     * more credit than Proton can hold, which is as much as that: its credit is the state. */
    const uint8_t *end;
    struct span before, state, behind;
    uint32_t count;
};

void amqp_channels_init(struct amqp_channels *channels);
void amqp_channels_deinit(struct amqp_channels *channels);

/* list: of the performative, as far as it has come, with its constructor; whole: all of the frame
 * is there. Nothing changes but named. */
enum amqp_fate amqp_channels_look(const struct amqp_channels *channels,
                                  enum amqp_performative performative, uint16_t channel,
                                  struct span list, bool whole, struct amqp_named *named);
/* It is passed on or, as its fate says, is not; right after look(). */
void amqp_channels_take(struct amqp_channels *channels, const struct amqp_named *named);

/* handles.c, for channels.c. NULL: nobody's. */
struct amqp_handle *amqp_handle_find(const struct amqp_channels *channels, uint16_t channel,
                                     uint32_t handle);
/* Is there a link of that name, direction and channel? */
bool amqp_handle_is_named(const struct amqp_channels *channels, const struct amqp_named *named);

/* Where the channel is mapped or discards, else NULL; until the next take(). */
struct amqp_channel *amqp_channels_at(const struct amqp_channels *channels, uint16_t channel);

#endif
