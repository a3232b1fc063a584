/* SPDX-License-Identifier: Apache-2.0 */
/* What administrative actions do to the next snapshot of the catalog, and the rows that store it.
 * On worker 0; one that refuses leaves the snapshot as it is. Internal to core/broker. */
#ifndef CORE_BROKER_CHANGE_H
#define CORE_BROKER_CHANGE_H

#include "core/broker/worker.h"

enum { CHANGE_ROW_MAX = 1024 * 1024 };

enum status change_make(struct broker *broker, struct broker_admin *admin, struct catalog *next);
/* The built-in queue of an empty store. */
enum status change_first(struct broker *broker, struct broker_admin *admin, struct catalog *next);
extern const char change_counters[]; /* key of the row with the ids that come next */

/* A row of the change goes into slot i: key and value share one buffer, the key first. */
void change_put_row(struct broker_admin *admin, unsigned i, enum storage_change change,
                    enum table table, const uint64_t *ids, unsigned count, const struct buf *value);
/* Takes the encoded row; encoded: whether it could be made, which what clients give may prevent. */
enum status change_store(struct broker_admin *admin, enum table table, const uint64_t *ids,
                         unsigned count, struct buf *row, enum status encoded);

/* change_user.c */
enum status change_user_set(struct broker *broker, struct broker_admin *admin,
                            struct catalog *next);
enum status change_user_delete(struct broker *broker, struct broker_admin *admin,
                               struct catalog *next);
enum status change_grants_set(struct broker *broker, struct broker_admin *admin,
                              struct catalog *next);
enum status change_key_create(struct broker *broker, struct broker_admin *admin,
                              struct catalog *next);
enum status change_key_delete(struct broker *broker, struct broker_admin *admin,
                              struct catalog *next);

#endif
