/* SPDX-License-Identifier: Apache-2.0 */
/* How threads talk: mails posted to a loop are delivered there in the order of each sender, many
 * per wake-up. Lock-free for senders; the mail lies inside what it carries, so posting never
 * allocates. What a loop posts to itself comes at the end of the turn, a few rounds in each. */
#ifndef CORE_NET_MAILBOX_H
#define CORE_NET_MAILBOX_H

#include <stdatomic.h>
#include <stdbool.h>

struct loop;

struct mail {
    struct mail *next;
    void (*deliver)(struct mail *mail); /* on the receiving loop; may free the mail */
};

/* Any thread. The mail belongs to the mailbox until deliver() is called. */
void mailbox_post(struct loop *to, struct mail *mail);

/* For loop implementations: a stack of posted mails that is taken whole and reversed. */
struct mailbox {
    _Atomic(struct mail *) posted;
};
bool mailbox_push(struct mailbox *box, struct mail *mail); /* true: it was empty, wake the loop */
struct mail *mailbox_take(struct mailbox *box); /* oldest first, linked by next; NULL when empty */
void mailbox_deliver(struct mail *first);       /* delivers a taken chain */

#endif
