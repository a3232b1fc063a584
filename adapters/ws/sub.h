/* SPDX-License-Identifier: Apache-2.0 */
/* A subscription of one of three kinds. Shared by subscribe.c and those that are named for them. */
#ifndef ADAPTERS_WS_SUB_H
#define ADAPTERS_WS_SUB_H

#include "adapters/ws/session.h"
#include "core/broker/administer.h"

enum { WS_CREDIT_MAX = 1000000 };

enum ws_sub_kind { WS_LIVE, WS_FOLLOWED, WS_GROUP };

struct ws_view_place;

struct ws_sub {
    struct client client; /* of WS_LIVE */
    struct ws_session *session;
    struct link link;
    enum ws_sub_kind kind;
    uint32_t number;
    bool binary, unlimited;
    bool positions; /* each frame says where to go on behind it */
    bool pending;   /* broker_subscribe is under way */
    bool closed;
    uint64_t id; /* of the frame that is not answered yet */
    struct follower *follower;
    struct consumer *consumer;
    struct broker_subscribe subscribe;
    struct subscribe_item item;
    struct broker_join join;
    struct consumer_options options; /* until the group is there */
    uint32_t credit;
    char *address;    /* filter, or name of the group */
    char *label_text; /* of options.labels */
    size_t head_size;
    char head[]; /* of each of its frames: {"op":"deliver","sub":"...", */
};

/* sub.c */
void ws_sub_free(struct ws_sub *sub);
void ws_sub_close(struct ws_sub *sub); /* no frame of it any more; freed unless it is pending */
/* The answer to its frame: refuse closes it. */
void ws_sub_refuse(struct ws_sub *sub, enum status status);
void ws_sub_holds(struct ws_sub *sub);
void ws_sub_ended(struct ws_sub *sub, enum status why); /* by itself */
/* What follows the head of a subscription is shared by all of that variant. */
uint32_t ws_sub_variant(const struct ws_sub *sub, size_t body_size);
struct blob *ws_sub_tail(uint32_t variant, const struct ws_view_place *place,
                         const struct record *record); /* NULL: no memory */
void ws_sub_send(struct ws_sub *sub, uint32_t variant, struct span head, struct blob *tail,
                 const struct record *record);

/* sub_live.c, sub_follow.c, sub_group.c: it holds, or is refused, then or later. */
void ws_sub_live(struct ws_sub *sub, const json_t *frame);
void ws_sub_follow(struct ws_sub *sub, struct follow_options *options);
/* A group that is new begins at from. */
void ws_sub_group(struct ws_sub *sub, const struct queue *queue, enum seek_to from);

#endif
