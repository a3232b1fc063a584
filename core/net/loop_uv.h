/* SPDX-License-Identifier: Apache-2.0 */
/* What the libuv loop lends to the sockets that run on it. */
#ifndef CORE_NET_LOOP_UV_H
#define CORE_NET_LOOP_UV_H

#include <stdint.h>

#include "core/base/list.h"
#include "core/net/loop.h"

enum { LOOP_INPUT_ROOM = 64 * 1024, LOOP_INPUT_BYTES = 256 * 1024 };

/* One receive buffer for all connections of the loop (an idle connection holds none), with room in
 * front of it for stream_input_joined. Its content is valid until the next receive. */
uint8_t *loop_input_buffer(struct loop *loop);

/* Before the loop runs: the sends of a turn are gathered and done by one call at the end of the
 * FLUSH phase, if the kernel lets us; says whether it does. */
bool loop_gather_sends(struct loop *loop);
struct sends;                                /* core/net/sends.h */
struct sends *loop_sends(struct loop *loop); /* NULL: each for itself */

/* A socket that is taking leave of its peer. When the loop ends first, finish() must close it. It
 * is taken off by link_remove. */
struct loop_leaving {
    struct link link;
    void (*finish)(struct loop_leaving *leaving);
};
void loop_leaving_add(struct loop *loop, struct loop_leaving *leaving);
/* One that has taken leave: finish() comes in this turn, or when many end at once in one of the
 * next, so that what their end makes others do is spread. It stays until then. */
void loop_leaving_over(struct loop *loop, struct loop_leaving *leaving);
/* One whose peer has ended: finish(), which reads that, comes likewise. */
void loop_ending_add(struct loop *loop, struct loop_leaving *leaving);
void loop_ending_remove(struct loop *loop, struct loop_leaving *leaving);

#endif
