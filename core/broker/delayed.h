/* SPDX-License-Identifier: Apache-2.0 */
/* One worker's part in delayed records. Internal to core/broker. */
#ifndef CORE_BROKER_DELAYED_H
#define CORE_BROKER_DELAYED_H

#include "core/broker/deduped.h"

struct delayed {
    struct delay_worker shared;
    struct map delays; /* partition -> struct home_delay, of partitions owned here */
    bool closed;
    struct row_walk walk;         /* looks for partitions that have some */
    struct list appends, cancels; /* that came meanwhile */

    struct batch_builder builder; /* of one record */
    struct list turn;             /* jobs being filled */
};

/* Records on their way to the owner of their partition, who takes them in, and back. The first
 * group is the sender's, with the request at home on its loop; units as in struct delay_insert.
 * Once done, records have their ids, and items, where some have ids to be known again by, their
 * outcomes. */
struct delayed_append {
    struct request request;
    uint64_t partition;
    const struct storage_row *more; /* stored with them */
    uint32_t more_count;
    uint64_t unit;
    uint32_t part_count;
    /* Below: of delayed_append_*(). */
    struct delay_record *records;
    uint32_t count, capacity;
    struct deduped_items items;
    struct mail mail;
    struct link link; /* while the owner is loading */
    struct broker_worker *owner;
    union {
        struct delay_insert insert;
        struct dedup_append dedup; /* with ids */
    };
};
/* Why the record cannot be delayed as publish says, or OK and the record, for delayed_append_add().
 */
enum status delayed_record(struct client *client, const struct publish *publish, uint64_t partition,
                           const struct record_input *input, struct delay_record *record);
void delayed_append_add(struct delayed_append *append, const struct client *client,
                        const struct publish *publish, const struct delay_record *record);
void delayed_append_send(struct delayed_append *append, struct broker_worker *from);
void delayed_append_deinit(struct delayed_append *append); /* was sent and is back, or never was */

void delayed_init(struct broker_worker *worker);
void delayed_open(struct broker_worker *worker); /* after its partitions have been opened */
void delayed_forget(struct broker_worker *worker, const struct queue *queue); /* was deleted */
/* Two steps to the end: nothing more fires; nothing more is taken in. */
void delayed_hold(struct broker_worker *worker);
void delayed_close(struct broker_worker *worker);
bool delayed_is_busy(const struct broker_worker *worker);
void delayed_deinit(struct broker_worker *worker);

/* Takes one record in, else says why not. */
enum status delayed_publish(struct client *client, const struct publish *publish,
                            uint64_t partition, const struct record_input *record, size_t size);
void delayed_seal(struct broker_worker *worker); /* what the turn has published goes */

#endif
