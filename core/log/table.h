/* SPDX-License-Identifier: Apache-2.0 */
/* First byte of every state row's key: which table it belongs to. Numbers are stored, never reuse
 * one. Below 0x10: the storage engine's own. All integers in keys are big-endian u64. */
#ifndef CORE_LOG_TABLE_H
#define CORE_LOG_TABLE_H

enum table {
    TABLE_META = 0x10,           /* name -> value: id counters, store UUID, restart epoch */
    TABLE_TENANT = 0x11,         /* tenant */
    TABLE_QUEUE = 0x12,          /* tenant, queue */
    TABLE_GROUP = 0x13,          /* tenant, queue, group */
    TABLE_ROUTE = 0x14,          /* tenant, route id */
    TABLE_PRINCIPAL = 0x15,      /* tenant, principal */
    TABLE_GROUP_SNAPSHOT = 0x20, /* group, partition */
    TABLE_GROUP_DELTA = 0x21,    /* group, partition, number */
    TABLE_GROUP_EPOCH = 0x22,    /* group */
    TABLE_DELAY = 0x25,          /* partition, kind: see core/queue/delay_impl.h */
    TABLE_DEDUP = 0x26,          /* partition, kind: see core/queue/dedup.h */
    TABLE_GROUP_MOVED = 0x23,    /* group, partition, offset: done, and appended elsewhere */
    TABLE_GROUP_CONSUMER = 0x24, /* group, number of the consumer: of broadcast groups */
    TABLE_GROUP_FILTER = 0x27,   /* group: the labels it wants */
    TABLE_GROUP_UNIT = 0x28,     /* group, number: settlements of a unit, until a delta says them */
    TABLE_RETAINED = 0x38,       /* tenant, topic: see core/broker/retained_row.h */
    TABLE_SESSION = 0x30,        /* tenant, hash of the name: see core/broker/session_rows.h */
    TABLE_SESSION_STATE = 0x31,  /* session, kind, ... */
    TABLE_SESSION_DUE = 0x32,    /* due, tenant, hash of the name: when it ends */
    TABLE_FILTER_HOLDER = 0x33,  /* filter, session */
    TABLE_FILTER_INDEX = 0x34,   /* filter, commit sequence: records that match it */
    TABLE_FILTER_META = 0x35,    /* 'k': key of filters' ids; 'n', place: see filter_shapes.h */
    TABLE_WILL = 0x37,           /* kind, ...: wills outside of sessions: core/broker/will_wait.h */
    TABLE_SHARE = 0x36,          /* share, kind, ...: see core/broker/share_rows.h */
};

#endif
