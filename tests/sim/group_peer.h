/* SPDX-License-Identifier: Apache-2.0 */
/* Consumers of a group, on the broker's own calls: they take, settle, fail, let leases run out, and
 * try receipts that must be stale. And a reader of whole partitions. */
#ifndef TESTS_SIM_GROUP_PEER_H
#define TESTS_SIM_GROUP_PEER_H

#include "core/broker/broker.h"

struct consumer;

/* Lives until the gateway crashes or consumer_stop(); polite consumers settle everything as done.
 * dead: of the group's dead letters.
 */
struct consumer *consumer_new(struct broker_worker *worker, uint64_t group, bool polite, bool dead);
void consumer_stop(struct consumer *consumer);

/* Reads all partitions of a queue from their start and shows every record. *left falls to 0. */
typedef void show_record(uint64_t partition, uint64_t offset, struct span payload);
void read_everything(struct broker_worker *worker, const struct queue *queue, show_record *show,
                     unsigned *left);

#endif
