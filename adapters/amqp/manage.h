/* SPDX-License-Identifier: Apache-2.0 */
/* What the two files of the node $management share: a request, entities as attributes, answers. */
#ifndef ADAPTERS_AMQP_MANAGE_H
#define ADAPTERS_AMQP_MANAGE_H

#include "adapters/amqp/address.h"
#include "adapters/amqp/codec.h"
#include "core/base/limits.h"
#include "core/broker/administer.h"
#include "core/broker/broker.h"

struct amqp_link;

/* Of queues, of groups, or both. */
enum attribute {
    ATTRIBUTE_NAME,
    ATTRIBUTE_IDENTITY,
    ATTRIBUTE_TYPE,
    ATTRIBUTE_KIND,
    ATTRIBUTE_DURABILITY,
    ATTRIBUTE_PARTITIONS,
    ATTRIBUTE_RETENTION_MS,
    ATTRIBUTE_RETENTION_BYTES,
    ATTRIBUTE_MAX_RECORDS,
    ATTRIBUTE_MAX_CONSUME_COUNT,
    ATTRIBUTE_LEASE_MS,
    ATTRIBUTE_RECORDS,
    ATTRIBUTE_QUEUE,
    ATTRIBUTE_BACKLOG,
    ATTRIBUTE_IN_FLIGHT,
    ATTRIBUTE_ACKNOWLEDGED,
    ATTRIBUTE_DEAD,
    ATTRIBUTE_SELECTOR,
    ATTRIBUTES
};

/* An entity has what is not NONE; text borrows from the catalog. */
struct shown {
    enum { SHOWN_NONE, SHOWN_TEXT, SHOWN_NUMBER } as;
    struct span text;
    uint64_t number;
};

enum {
    AMQP_MANAGE_TOO_LARGE = 413,                             /* the code of an answer that is */
    AMQP_MANAGE_HEAD_MAX = 512,                              /* bytes of an answer but text, body */
    AMQP_MANAGE_ENTITY_MAX = 2 * 1024 + LIMIT_SELECTOR_BYTES /* of all that an entity shows */
};

struct managing {
    struct broker_admin admin;
    struct amqp_link *link; /* a reference */
    struct buf message;     /* the request: everything below borrows from it */
    struct span reply_to;
    struct amqp_value correlation;
    bool is_group;
    struct amqp_address address;
    unsigned ok;       /* the code of success */
    bool is_shortened; /* the answer that there should be does not fit its link */
};

/* OK: the request will be answered by a message. */
enum status amqp_manage(struct amqp_link *link, struct span bytes, struct err *err);

/* manage.c */
/* The beginning of an answer, up to its body; count: of results; -1: there are none to be counted.
 * There is room for text and correlation besides HEAD_MAX. */
void amqp_manage_head(struct amqp_writer *writer, const struct managing *managing, unsigned code,
                      const char *text, int64_t count);
/* Each of these ends the request, and frees it. */
void amqp_manage_answer(struct managing *managing, struct span bytes);
void amqp_manage_refuse(struct managing *managing, unsigned code, const char *text);
/* A request's application property; false: there is none. */
bool amqp_manage_property(const struct amqp_message *message, const char *name,
                          struct amqp_value *value);
bool amqp_manage_is_number(const struct amqp_value *value); /* whole, and from 0 on */

/* query.c */
void amqp_show_queue(const struct queue *queue, struct shown shown[ATTRIBUTES]);
void amqp_show_group(const struct catalog *catalog, const struct group_spec *group,
                     struct shown shown[ATTRIBUTES]);
/* A map of all that it has. */
void amqp_show_write(struct amqp_writer *writer, const struct shown shown[ATTRIBUTES]);
/* False: none of the operations of the node itself, which all look only. */
bool amqp_manage_look(struct managing *managing, struct span operation,
                      const struct amqp_message *message);

#endif
