/* SPDX-License-Identifier: Apache-2.0 */
/* A Treiber stack that is only ever taken whole, so it has no ABA problem. */
#include "core/net/mailbox.h"

#include <stddef.h>

bool mailbox_push(struct mailbox *box, struct mail *mail)
{
    struct mail *top = atomic_load_explicit(&box->posted, memory_order_relaxed);
    do
        mail->next = top;
    while (!atomic_compare_exchange_weak_explicit(&box->posted, &top, mail, memory_order_acq_rel,
                                                  memory_order_relaxed));
    return top == NULL;
}

struct mail *mailbox_take(struct mailbox *box)
{
    struct mail *newest = atomic_exchange_explicit(&box->posted, NULL, memory_order_acq_rel);
    struct mail *oldest = NULL;
    while (newest != NULL) {
        struct mail *older = newest->next;
        newest->next = oldest;
        oldest = newest;
        newest = older;
    }
    return oldest;
}

void mailbox_deliver(struct mail *first)
{
    while (first != NULL) {
        struct mail *next = first->next;
        first->deliver(first);
        first = next;
    }
}
