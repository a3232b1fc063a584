/* SPDX-License-Identifier: Apache-2.0 */
/* What clients have sent on links that they may resume (part 2, 2.6.13): which delivery tags, and
 * what became of them, also when the link, its session or its connection has gone. All workers
 * share it and lock it for a moment; other links never come here. It ends with the process.
 *
 *   SENT --answered--> KNOWN: the client has not heard of it, so the tag is this delivery's
 *     |                  |
 *     +--and told------> TOLD: it may have heard of it, have settled it and have begun another
 * delivery with the tag, of which nothing has come. The same bytes under the tag are the same
 * delivery.
 *
 * Where there is no room a delivery is not remembered: that it was stored is never said of one
 * that was not. What is kept beyond the process (keeper.h) is told to it again. */
#ifndef ADAPTERS_AMQP_UNSETTLED_H
#define ADAPTERS_AMQP_UNSETTLED_H

#include "adapters/amqp/attach.h"

enum { AMQP_TAG_MAX = 32 };

/* A link under such a name, as long as answers to what came on it are owed. Its thread's. */
struct amqp_attachment;

/* Nothing is remembered any more; before the first connection. */
void amqp_unsettled_forget(void);

/* In the order in which connections come. Any thread. */
uint64_t amqp_unsettled_turn(void);

/* The name is the link's from now on, and not that of whoever had it. settles_second: the client is
 * the first to settle, and what was rejected is remembered until it has. turn: its connection's; an
 * attach that was still on its way when the client came back takes nothing from there: *late. NULL:
 * that, or there is no room. */
struct amqp_attachment *amqp_attachment_new(struct span user, struct span name, bool settles_second,
                                            uint64_t turn, uint64_t now_ms, bool *late);
/* Of what is still owed nothing is known then. NULL is fine. */
void amqp_attachment_free(struct amqp_attachment *attachment, uint64_t now_ms);
/* The link goes; for good: what came on it is forgotten. Harmless twice. */
void amqp_attachment_leave(struct amqp_attachment *attachment, bool for_good, uint64_t now_ms);

/* A delivery of before, TOLD, with a hash of its bytes, was stored: unless more is known of the
 * link than that. Before amqp_attachment_resume(), in the order in which they came, with their
 * numbers. */
void amqp_attachment_recall(struct amqp_attachment *attachment, struct span tag, uint64_t payload,
                            uint64_t number);
/* What is not unsettled to the client either is forgotten, unless its map is incomplete; what is
 * may come again. */
void amqp_attachment_resume(struct amqp_attachment *attachment,
                            const struct amqp_unsettled_map *map);
/* Of what may come again: not answered yet. False: another link has the name. */
bool amqp_attachment_owed(struct amqp_attachment *attachment, uint32_t *count);
/* What may come again, as a map of tags and states of at most size_max bytes: appended. False: a
 * part of it; nothing is said where not one fits, as what comes is known all the same, or where
 * another link has the name. condition_of: the condition of what was rejected. */
bool amqp_attachment_map(struct amqp_attachment *attachment,
                         const char *(*condition_of)(enum status status), size_t size_max,
                         struct buf *to);

enum amqp_again {
    AMQP_AGAIN_NEVER,   /* a delivery that has not come before */
    AMQP_AGAIN_KNOWN,   /* it has, and has that outcome */
    AMQP_AGAIN_UNKNOWN, /* it may have; nothing is known of it, and it is to be ignored (2.7.5) */
    AMQP_AGAIN_EARLY,   /* it has, and what became of it is owed: nothing may come yet */
    AMQP_AGAIN_STOLEN,  /* another link has the name: this one may send nothing */
};
/* A delivery has come. resume: the client says that it
 * is one of its map, and may leave out what it need not repeat. */
enum amqp_again amqp_attachment_came(struct amqp_attachment *attachment, struct span tag,
                                     struct span payload, bool resume, enum status *outcome);
/* It is on its way, with hash_stable() of its bytes: amqp_attachment_answered() comes for it, in
 * the order of these. number: above those before, for whoever keeps it beyond the process; 0:
 * nobody does. *from: the client has settled what has a number below that, of the last
 * LIMIT_RESUME_LINK_TAGS numbers. False: another link has the name. */
bool amqp_attachment_sent(struct amqp_attachment *attachment, struct span tag, uint64_t payload,
                          uint64_t number, uint64_t *from);
/* The oldest. Unless the link has left, its client hears of it. settled: it has settled it before,
 * so that the tag may be another delivery's. */
void amqp_attachment_answered(struct amqp_attachment *attachment, enum status status, bool settled);
/* The client has settled it, or the tag is another delivery's that is not remembered. What may
 * still come again stays: it was another delivery, or did not come whole. */
void amqp_attachment_settled(struct amqp_attachment *attachment, struct span tag);

#endif
