/* SPDX-License-Identifier: Apache-2.0 */
/* Scripted MQTT clients: publishers that send again until acknowledged, subscribers and members
 * of a share that take their time. */
#ifndef TESTS_SIM_MQTT_PEER_H
#define TESTS_SIM_MQTT_PEER_H

#include "tests/sim/history.h"
#include "tests/sim/mqtt_wire.h"

struct publisher;
struct subscriber;

void mqtt_peers_begin(void); /* so that a seed repeats by itself */

struct publisher *publisher_new(unsigned topic, uint32_t messages, peer_dial *dial);
void publisher_start(struct publisher *publisher);
/* Of the disk's failure, if it has failed: nobody waits for ever. */
void publisher_check_told(const struct publisher *publisher);
bool publisher_is_finished(const struct publisher *publisher); /* but for what it keeps back */
void publisher_calm(struct publisher *publisher);              /* it keeps nothing back */
void publisher_hang_up(struct publisher *publisher);

struct subscriber *subscriber_new(peer_dial *dial);
void subscriber_start(struct subscriber *subscriber);
void subscriber_hang_up(struct subscriber *subscriber);
/* At the end: what is connected now must have seen everything. */
void subscriber_finish(struct subscriber *subscriber);

/* Of a shared subscription to all topics, with QoS 1. */
struct member;
struct member *member_new(peer_dial *dial);
void member_start(struct member *member);
void member_hang_up(struct member *member);
void member_finish(const struct member *member); /* it is there in the end */
void member_leave(struct member *member);        /* for ever */

#endif
