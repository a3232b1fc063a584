/* SPDX-License-Identifier: Apache-2.0 */
/* Changes of the catalog, and what an operator does with a whole queue or the whole store. As with
 * broker.h: on the client's loop, requests are the caller's until done(). */
#ifndef CORE_BROKER_ADMINISTER_H
#define CORE_BROKER_ADMINISTER_H

#include "core/broker/broker.h"

enum admin_action {
    ADMIN_QUEUE_CREATE,
    ADMIN_QUEUE_CHANGE, /* of what fields names; the rest stays as it is */
    ADMIN_QUEUE_DELETE,
    ADMIN_GROUP_CREATE,
    ADMIN_GROUP_CHANGE, /* likewise */
    ADMIN_GROUP_DELETE,
    ADMIN_ROUTE_SET,
    ADMIN_ROUTE_DELETE,
    ADMIN_USER_SET,
    ADMIN_USER_DELETE, /* SET: makes the user or changes the password */
    ADMIN_GRANTS_SET,  /* replaces all grants of the user */
    ADMIN_KEY_CREATE,
    ADMIN_KEY_DELETE,
};
/* What of a queue's description may change; bits of broker_admin.fields. */
enum queue_field {
    QUEUE_FIELD_DESCRIPTION = 1,
    QUEUE_FIELD_RETENTION_MS = 2,
    QUEUE_FIELD_RETENTION_BYTES = 4,
    QUEUE_FIELD_REDRIVE = 8, /* redrive and max_consume_count */
    QUEUE_FIELD_OVERFLOW = 16,
    QUEUE_FIELD_MAX_RECORDS = 32,
    QUEUE_FIELD_PROTECT_BYTES = 64,
    QUEUE_FIELD_DEDUP_MS = 128,
    QUEUE_FIELD_LEASE_MS = 256,
};
/* Likewise of a group's. */
enum group_field { GROUP_FIELD_SELECTOR = 1, GROUP_FIELD_CONSUMER_IDLE = 2 };
/* One change of the catalog: checked (rights, limits, names), stored durably, confirmed by all
 * workers, then done(), also when the client has gone. What is asked for at the same time goes
 * together, in the order of asking: at done() a later one may hold already. request.home must be
 * the client's loop. Spans and pointers are borrowed until done(). */
struct broker_admin {
    struct request request;
    struct client *client;
    enum admin_action action;
    struct span name; /* queue, group, or user; route: the filter */
    uint64_t id;      /* queue or group to change, to delete; queue of a group to create, of a
                       * route */
    /* ADMIN_QUEUE_CREATE: fields of the description; 0 and NULL mean defaults. ADMIN_QUEUE_CHANGE:
     * those that fields names, from description on; 0 and NULL mean none. */
    uint32_t fields;
    enum queue_type type;
    enum durability durability;
    const char *description;
    uint32_t partitions;
    uint64_t retention_ms, retention_bytes;
    bool redrive;
    uint32_t max_consume_count;
    enum overflow overflow;
    bool temporary; /* the broker's: name is that of a client's own queue, */
    uint64_t owner; /* and this its principal; 0: there are none */
    uint64_t max_records, protect_bytes, dedup_ms; /* dedup_ms: 0 means DEDUP_WINDOW_MS */
    uint64_t lease_ms; /* 0 means QUEUE_LEASE_MS; INVALID out of LIMIT_LEASE_MIN_MS.. */
    /* ADMIN_GROUP_CREATE */
    enum group_start start;
    enum group_mode mode;
    bool dms;        /* counts in the limit per queue */
    bool by_use;     /* by one who is about to consume: the right to do that is enough */
    uint64_t parent; /* a consumer of this broadcast group, called name; 0: a group */
    /* ADMIN_GROUP_CREATE, and ADMIN_GROUP_CHANGE as fields say: empty: every record. INVALID, with
     * err, for what is no selector, and for that of a broadcast group's consumer. */
    struct span selector;
    uint64_t consumer_idle_ms; /* likewise, of a broadcast group (INVALID): 0: CONSUMER_IDLE_MS */
    /* ADMIN_GROUP_DELETE of a broadcast group's consumer: BUSY unless it has not come for long, and
     * is owed what is not there any more. */
    bool if_expired;
    /* ADMIN_USER_SET, ADMIN_GRANTS_SET, ADMIN_KEY_DELETE */
    struct span password;
    const struct grant *grants;
    uint32_t grant_count;
    struct span key_id;
    /* Out */
    struct queue *queue;      /* created or changed: a reference for the caller */
    struct group_spec *group; /* likewise */
    struct access_key key;
    struct err err; /* more than the status says */
    /* Below: the broker's. */
    struct broker_worker *worker; /* the client may go before the change is done */
    void (*done)(struct request *request, enum status status);
    struct offload offload;
    struct storage_row row[4];
    struct buf buffers[4];
    struct storage_row *many; /* instead of row; NULL: none */
    uint32_t row_count;
    struct principal *principal;
    enum status outcome; /* of the change itself, before it is stored */
    struct link link;
};
void broker_administer(struct broker_admin *admin);

/* The group of that name which a consumer asks for, made when there is none. Needs ACTION_CONSUME
 * on the queue. Done when the group's position is durable: what is published later is the group's.
 * Ends with NOT_FOUND, INVALID (no name for a group), DENIED, OVER_QUOTA, or what storage says. */
struct broker_join {
    struct request request; /* home: the client's loop */
    struct client *client;
    uint64_t queue;           /* id */
    struct span name;         /* of the group; borrowed until done() */
    enum group_start start;   /* of a new one */
    struct group_spec *group; /* out: a reference */
    /* Below: the broker's. */
    struct broker_admin admin;
    struct group_explain explain;
};
void broker_join(struct broker_join *join);

/* Everything that the queue holds when this begins is gone for readers at once, and for ever when
 * done; for groups it is done. Delayed records stay. Needs ACTION_MANAGE on the queue. */
struct broker_purge {
    struct request request; /* home: the client's loop */
    struct client *client;
    uint64_t queue;   /* id */
    uint64_t records; /* out: that were there */
    /* Below: the broker's. */
    struct broker_worker *worker;
    struct log_purge *parts;
    uint32_t left;
    enum status status;
};
void broker_purge(struct broker_purge *purge);

/* A copy of everything in directory: storage_backup in storage.h says what it holds. A gateway is
 * restored by starting it on (a copy of) that directory. Needs ACTION_MANAGE on all. UNSUPPORTED:
 * this engine has nothing to copy. */
struct broker_backup {
    struct request request; /* home: the client's loop */
    struct client *client;
    struct span directory; /* absolute; borrowed until done() */
    struct err err;        /* out */
    /* Below: the broker's. */
    struct broker_worker *worker;
    struct storage_backup backup;
};
void broker_backup(struct broker_backup *backup);

#endif
