/* SPDX-License-Identifier: Apache-2.0 */
/* Shared subscriptions to topic filters: of the members of a share, each record goes to one. A
 * share lives on a home worker, by hash of its name and filter; its reader subscribes there as a
 * client would, and so lags behind as a client does: what no member can take now is an offset per
 * partition, never memory. Each member has a seat on its client's own worker. Internal to
 * core/broker.
 *
 *   home: share, member --parcel: records--> client's worker: seat --deliver--> client
 *         share, member <--slip: sent or settled, given back, ready, stopped, ended-- seat
 *
 * A seat that cannot take a record gives it back and says ready when it can again. Parcels packed
 * before that carry an older epoch and are given back too, so that records keep their order.
 * A member of the home worker itself is called directly. */
#ifndef CORE_BROKER_SHARE_H
#define CORE_BROKER_SHARE_H

#include "core/broker/worker.h"

struct share_member;

/* A record that a member gave back. */
struct share_ref {
    uint64_t partition, offset;
};

struct share {
    struct client reader; /* first: what the filter's subscription belongs to */
    struct list members;
    struct list ready; /* members with free credit, in turn */
    uint32_t member_count, active_count;
    struct span key;            /* in worker->shares; bytes below */
    struct share_ref *returned; /* sorted from returned_at on, unless unsorted */
    uint32_t returned_at, returned_count, returned_capacity;
    bool unsorted;
    bool giving_back;        /* what is offered comes from there */
    bool over;               /* nobody takes part any more */
    struct share_read *read; /* of returned records, in flight */
    uint8_t bytes[];
};

/* On the share's home worker. */
struct share_member {
    struct share *share; /* never NULL: a share that is over stays until its members have gone */
    struct share_seat *seat;
    struct broker_worker *worker; /* of the seat */
    struct link of_share, ready;
    uint32_t in_flight, window; /* sent and not reported settled (other workers only) */
    uint32_t epoch;
    bool active; /* takes part: not stopped */
    bool able;   /* has not said that it is blocked */
};

/* On the client's worker. */
struct share_seat {
    struct subscription subscription; /* first: as the adapter sees it; its client is NULL once that
                                       * has gone */
    struct broker_worker *worker, *home;
    struct share_member *member; /* NULL until the seat is taken */
    struct link of_client;
    struct share_lease *leases;
    uint32_t lease_count, lease_free; /* the first that is free, + 1 */
    uint32_t in_flight;
    uint32_t epoch;
    uint32_t settled;        /* not yet reported; of seats on other workers than the share's */
    bool blocked;            /* could not take a record, and has not said ready */
    bool stopped;            /* its subscription is over */
    bool stop_confirmed;     /* and no parcel will come any more */
    struct span key, filter; /* bytes below, the filter's within the key's */
    uint8_t bytes[];
};

struct share_join {
    struct mail mail;
    struct share_seat *seat;
    struct broker_subscribe *subscribe; /* waits for it */
    struct subscribe_item *item;
    uint32_t window;
    enum status status;
    struct share_member *member;
    struct broker_subscribe announced; /* of the reader, on the home worker */
    struct subscribe_item announced_item;
};

/* What a seat tells its member, of one turn. */
struct share_slip {
    uint32_t settled;             /* taken back ones included */
    const struct share_ref *refs; /* given back; copied */
    uint32_t ref_count;
    bool blocked; /* takes nothing until it says ready */
    bool ready;   /* from this epoch on */
    uint32_t epoch;
    bool stop; /* wants nothing more: share_seat_stopped() when no parcel is on its way */
    bool end;  /* has gone */
};

/* share.c, on the home worker. */
void share_init(struct broker_worker *worker);
void share_deinit(struct broker_worker *worker);
extern const struct client_ops share_reader_ops;
static inline bool share_is_reader(const struct client *client)
{
    return client->ops == &share_reader_ops;
}
enum deliver_result share_offer(struct subscription *subscription, const struct record *record,
                                struct frame_cache *cache);
/* A member is able again, or something was given back. */
void share_go_on(struct share *share);
void share_retry(struct broker_worker *worker); /* what could not be read */
void share_join_arrive(struct share_join *join);
void share_slip_arrive(struct share_member *member, const struct share_slip *slip);

/* share_return.c, on the home worker: records that were given back go first. */
void share_return(struct share *share, const struct share_ref *refs, uint32_t count);
void share_read_on(struct share *share);
void share_forget(struct share *share);

/* share_seat.c, on the client's worker. */
/* True when the subscribe has to wait for it: subscribe_confirmed() then follows. */
bool share_subscribe(struct broker_subscribe *subscribe, struct subscribe_item *item);
void share_joined(struct share_join *join);
/* FULL: not now; anything else: the record was this seat's, whatever became of it. */
enum deliver_result share_take(struct share_seat *seat, uint64_t partition,
                               const struct record *record, struct frame_cache *cache);
void share_seat_stopped(struct share_seat *seat);
void share_seats_go_on(struct client *client);
void share_seats_recheck(struct client *client);
void share_seats_close(struct client *client);

/* share_mail.c: between the two. What stays on one worker is called at once. */
void share_join_send(struct share_join *join);
void share_join_return(struct share_join *join);
void share_report(struct share_seat *seat, const struct share_slip *slip);
void share_stop_confirm(struct share_member *member);
/* One record of worker->shown to a member on another worker, with this turn's parcel. */
void share_send(struct share_member *member, const struct record *record);
void share_parcels_post(struct loop_task *task);

#endif
