/* SPDX-License-Identifier: Apache-2.0 */
/* One worker's part in delayed records. Internal to core/broker. */
#ifndef CORE_BROKER_DELAYED_H
#define CORE_BROKER_DELAYED_H

#include "core/broker/broker.h"
#include "core/broker/row_walk.h"

struct delayed {
    struct delay_worker shared;
    struct map delays;         /* partition -> struct home_delay, of partitions owned here */
    struct row_walk walk;      /* looks for partitions that have some */
    struct list jobs, cancels; /* that came meanwhile */

    struct batch_builder builder; /* of one record */
    struct list turn;             /* jobs being filled */
};

void delayed_init(struct broker_worker *worker);
void delayed_open(struct broker_worker *worker); /* after its partitions have been opened */
void delayed_forget(struct broker_worker *worker, const struct queue *queue); /* was deleted */
void delayed_close(struct broker_worker *worker); /* nothing more fires */
bool delayed_is_busy(const struct broker_worker *worker);
void delayed_deinit(struct broker_worker *worker);

/* Takes one record in, else says why not. */
enum status delayed_publish(struct client *client, const struct publish *publish,
                            uint64_t partition, const struct record_input *record, size_t size);
void delayed_seal(struct broker_worker *worker); /* what the turn has published goes */

#endif
