/* SPDX-License-Identifier: Apache-2.0 */
/* Our own frames, looked at on their way out of Proton: how many transfers each of our sessions has
 * sent, which a FLOW of ours has to say and Proton does not tell. One connection's thread. */
#ifndef ADAPTERS_AMQP_SAID_H
#define ADAPTERS_AMQP_SAID_H

#include "core/base/span.h"

enum { AMQP_SAID_HEAD = 11 }; /* as Proton writes it: header, descriptor */

struct amqp_said {
    uint8_t head[AMQP_SAID_HEAD];
    uint32_t head_size;  /* of a frame that begins */
    uint32_t left;       /* of the frame behind its head */
    uint32_t *transfers; /* by channel */
    uint32_t channel_count;
};

void amqp_said_deinit(struct amqp_said *said); /* begins as zeroes */
void amqp_said_pass(struct amqp_said *said, struct span bytes);
/* Of the session that has our channel. */
uint32_t amqp_said_transfers(const struct amqp_said *said, uint16_t channel);

#endif
