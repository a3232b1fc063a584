/* SPDX-License-Identifier: Apache-2.0 */
/* Who may come in: principals with argon2id hashes, SCRAM-SHA-256 keys, access keys, and what they
 * may do: grants by action and address pattern. Descriptions are immutable and shared; the catalog
 * replaces them. */
#ifndef CORE_BROKER_AUTH_H
#define CORE_BROKER_AUTH_H

#include <stdatomic.h>

#include "core/base/buf.h"
#include "core/net/offload.h"

enum { SCRAM_ITERATIONS = 15000 }; /* of keys made from now on */

enum action { ACTION_PUBLISH = 1, ACTION_CONSUME = 2, ACTION_MANAGE = 4 };

/* "topic:FILTER" or "queue:PATTERN" ('*' any run of characters); %u and %c stand for user and
 * client id. */
struct grant {
    unsigned actions;
    bool is_topic;
    char *pattern;
};

struct access_key {
    char id[21];     /* 20 upper-case letters and digits */
    char secret[41]; /* kept readable: signatures need it */
};

struct principal {
    atomic_uint refs;
    uint64_t tenant, id;
    char *name;
    char *hash; /* argon2id, encoded form */
    uint8_t scram_salt[16], scram_stored_key[32], scram_server_key[32];
    uint32_t scram_iterations;
    struct access_key *keys;
    uint32_t key_count;
    struct grant *grants;
    uint32_t grant_count;
    int64_t created_ms;
};

struct principal *principal_ref(const struct principal *principal);
void principal_unref(struct principal *principal); /* NULL is fine */
struct principal *
principal_copy(const struct principal *principal); /* one reference, to change before sharing */
enum status principal_encode(const struct principal *principal, struct buf *to);
enum status principal_decode(struct span row, struct principal **principal);

/* Slow (tens of ms, 19 MiB): run through offload. Makes hash and SCRAM keys for principal. */
enum status principal_set_password(struct principal *principal, struct span password);
/* Slow likewise. UNAUTHENTICATED when it does not match; takes as long for a NULL principal. */
enum status principal_verify(const struct principal *principal, struct span password);
void access_key_make(struct access_key *key);

/* Parses "publish,consume topic:a/+/#" pieces: actions text, then pattern text. INVALID with err.
 */
enum status grant_parse(struct span actions, struct span pattern, struct grant *grant,
                        struct err *err);
void grant_format(const struct grant *grant, struct buf *to); /* "publish,consume topic:a/#" */
void grant_deinit(struct grant *grant);

/* May the principal do this? topic or queue name; for ACTION_CONSUME on topics address is a filter
 * that a grant must cover whole. client_id may be empty. */
bool principal_may(const struct principal *principal, enum action action, bool is_topic,
                   struct span address, struct span client_id);
/* Is there anything that it may publish to or consume from? */
bool principal_has_use(const struct principal *principal);

#endif
