/* SPDX-License-Identifier: Apache-2.0 */
/* Transactions between what was said in them and the unit that they are committed as, which is also
 * how messages are published together. Internal to core/broker; on the client's worker. */
#ifndef CORE_BROKER_TRANSACTION_H
#define CORE_BROKER_TRANSACTION_H

#include "core/broker/worker.h"

/* transaction.c */
void transactions_close(struct client *client);
struct unit_settlement settlement_ref(const struct unit_settlement *settlement);
void settlements_free(struct unit_settlement *settlements, uint32_t count);

/* publish_unit.c: the client goes; what was sent goes on. */
void units_close(struct client *client);

/* unit.c: what is stored as a whole, from when everything is known that belongs to it. Parts are
 * added, then it is sent, or dropped: in one turn. */
struct unit;
/* Once all parts of what was sent have ended, whether the client is still there or not; figures: of
 * the client's protocol. */
typedef void unit_ended(void *context, struct protocol_figures *figures, enum status status);
struct unit *unit_new(struct client *client, unit_ended *ended, void *context);
enum status unit_publish(struct unit *unit, const struct publish *publish);
enum status unit_settle(struct unit *unit, const struct unit_settlement *settlement);
enum status unit_settle_kept(struct unit *unit, const struct client *client, uint32_t number);
enum status unit_settle_shared(struct unit *unit, struct subscription *subscription,
                               uint32_t lease);
/* A row of a kept session that is stored with it, as session_note_publish() wrote it: in the place
 * of one of a record without an id. False: there is no such record. */
bool unit_note(struct unit *unit, struct span note);
uint64_t unit_bytes(const struct unit *unit);
/* It was sent: its parts meet in storage later than others that are sent now may come there. */
bool unit_is_spread(const struct unit *unit);
/* ended() follows. False: there is nothing to send, and it does not. */
bool unit_send(struct unit *unit);
void unit_drop(struct unit *unit);

#endif
