/* SPDX-License-Identifier: Apache-2.0 */
/* What has come on a link to a target and was stored, beyond the process: the link's sender has
 * asked for a target whose unsettled state is durable (part 3, 3.5.3). It is a session of the
 * broker, named by user, container and link, with a note for each of the last
 * LIMIT_RESUME_LINK_TAGS deliveries, which is written with its record or not at all. */
#ifndef ADAPTERS_AMQP_KEEPER_H
#define ADAPTERS_AMQP_KEEPER_H

#include "core/base/span.h"
#include "core/base/status.h"

struct amqp_attachment;
struct amqp_link;
struct publish;

struct amqp_keeper;

/* ready() comes when it is there, or with why it cannot be, unless the link has gone; a link that
 * goes later is there until it has come back. anew: nothing of what was kept under the name.
 * expiry_s: asked for, after the end of the link. NULL: the name is too long. */
struct amqp_keeper *amqp_keeper_new(struct amqp_link *link, bool anew, uint32_t expiry_s,
                                    void (*ready)(struct amqp_link *link, enum status status));
/* The link is being closed: nothing is kept, and the close is answered when that is durable. */
void amqp_keeper_give_up(struct amqp_keeper *keeper);
void amqp_keeper_free(struct amqp_keeper *keeper); /* NULL is fine */
/* Another link has the name: nothing is kept of what comes. */
bool amqp_keeper_is_lost(const struct amqp_keeper *keeper);
/* From ready(), once. */
uint32_t amqp_keeper_expiry_s(const struct amqp_keeper *keeper); /* which holds; likewise */
void amqp_keeper_recall(struct amqp_keeper *keeper, struct amqp_attachment *attachment);
/* Of the next delivery; never 0. */
uint64_t amqp_keeper_number(const struct amqp_keeper *keeper);
/* What is published is that delivery; payload, from: as amqp_attachment_sent() has them. What
 * publish has then is borrowed until the next call. */
void amqp_keeper_note(struct amqp_keeper *keeper, struct span tag, uint64_t payload, uint64_t from,
                      struct publish *publish);

#endif
