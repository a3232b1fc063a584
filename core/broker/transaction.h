/* SPDX-License-Identifier: Apache-2.0 */
/* Transactions between what was said in them and the unit that they are committed as. Internal to
 * core/broker; on the client's worker. */
#ifndef CORE_BROKER_TRANSACTION_H
#define CORE_BROKER_TRANSACTION_H

#include "core/broker/worker.h"

/* transaction.c */
void transactions_close(struct client *client);
/* The commit is over: done() comes from inside. */
void transaction_end(struct broker_transaction *transaction, enum status status);

/* unit.c: a commit, from when everything is known that belongs to it. Parts are added, then it is
 * sent, or dropped. */
struct unit;
struct unit *unit_new(struct broker_transaction *transaction);
enum status unit_publish(struct unit *unit, const struct publish *publish);
enum status unit_settle(struct unit *unit, const struct unit_settlement *settlement);
struct unit_settlement settlement_ref(const struct unit_settlement *settlement);
void settlements_free(struct unit_settlement *settlements, uint32_t count);
enum status unit_settle_kept(struct unit *unit, const struct client *client, uint32_t number);
enum status unit_settle_shared(struct unit *unit, struct subscription *subscription,
                               uint32_t lease);
/* transaction_end() follows, once all parts have ended. False: there is nothing to send, and none
 * follows. */
bool unit_send(struct unit *unit);
void unit_drop(struct unit *unit);

#endif
