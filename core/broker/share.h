/* SPDX-License-Identifier: Apache-2.0 */
/* Shared subscriptions to topic filters: of the members of a share, each record goes to one. A
 * share lives on a home worker, by hash of its name and filter; its reader subscribes there as a
 * client would, and so lags behind as a client does: what no member can take now is an offset per
 * partition, never memory. Each member has a seat on its client's own worker. Internal to
 * core/broker.
 *
 *   home: share, member --parcel: records--> client's worker: seat --deliver--> client
 *         share, member <--slip: sent or settled, given back, ready, stopped, ended-- seat
 *         share, member --nothing waits--> seat, when it has asked
 *
 * A seat that cannot take a record gives it back and says ready when it can again. Parcels packed
 * before that carry an older epoch and are given back too, so that records keep their order.
 * A member of the home worker itself is called directly.
 *
 * A share in which a kept session takes part is durable: its reader has a session of its own
 * (session.h, share_rows.h), so that it reads the rows of its filter from a position on, also what
 * was committed while nobody was there. What a member holds is a flight of that session until it is
 * settled or the member's session has taken it over. When nobody is connected a durable share is
 * rows, and whoever comes next loads it. */
#ifndef CORE_BROKER_SHARE_H
#define CORE_BROKER_SHARE_H

#include "core/broker/share_rows.h"
#include "core/broker/worker.h"

struct share_member;

struct share {
    struct client reader; /* first: what the filter's subscription belongs to */
    struct list members;
    struct list ready; /* members with free credit, in turn */
    uint32_t member_count, active_count;
    uint32_t asking;            /* members that have asked and are not answered */
    uint64_t id;                /* in worker->shares */
    struct share_ref *returned; /* so many of them are a heap, by whose turn it is */
    uint32_t returned_heaped, returned_count, returned_capacity;
    bool over;               /* nobody takes part any more */
    struct share_read *read; /* of returned records, in flight */
    bool reserves;           /* the member whose turn it is has to wait for a row */

    /* share_kept.c */
    uint32_t reserving;     /* flights that wait for a row */
    uint32_t reserved;      /* flights that a row reserves, out or not */
    uint32_t promised;      /* of them, and of those: not handed to anybody yet */
    struct list joins;      /* wait until it is known, or made, what is kept */
    bool busy;              /* somebody waits for storage, and comes back */
    uint32_t held;          /* somebody further up needs it */
    bool opened;            /* what was kept is loaded, or nothing is */
    bool durable;           /* its session reads */
    bool wanted;            /* by sessions that are not there, as was found for who waits first */
    bool moving;            /* it is given a session, which does not read yet */
    uint32_t unmarked;      /* writes until what has passed before it read is stored */
    struct share_ref *gone; /* sorted: a session has them, and the position may not say so */
    uint32_t gone_count, gone_capacity;
    struct share_ref *early; /* given back by sessions while it moves */
    uint32_t early_count, early_capacity;
    struct loop_task task; /* the session goes on */
    struct broker_attach attach;
    struct broker_subscribe keeping;
    struct subscribe_item keeping_item;
    uint8_t name[SHARE_NAME];
};

/* On the share's home worker. */
struct share_member {
    struct share *share; /* never NULL: a share that is over stays until its members have gone */
    struct share_seat *seat;
    struct broker_worker *worker; /* of the seat */
    struct link of_share, ready;
    uint32_t in_flight, window; /* sent and not reported settled (other workers only) */
    uint32_t epoch;
    uint32_t ask; /* not answered; 0: none */
    bool active;  /* takes part: not stopped */
    bool leaves;  /* its client has gone: it ends soon */
    bool exact;   /* exactly once, and no session answers for what it gets */
    bool able;    /* has not said that it is blocked */
};

/* On the client's worker. */
struct share_seat {
    struct subscription subscription; /* first: as the adapter sees it; its client is NULL once that
                                       * has gone */
    struct broker_worker *worker, *home;
    struct share_member *member; /* NULL until the seat is taken */
    struct link of_client;
    uint64_t id; /* of the share */
    uint64_t tenant;
    bool kept; /* as long as its client's session: the share is durable */
    struct share_lease *leases;
    uint32_t lease_count, lease_free; /* the first that is free, + 1 */
    uint32_t in_flight;
    uint32_t epoch;
    uint32_t settled;        /* not yet reported; of seats on other workers than the share's */
    struct share_done *done; /* likewise: flights of the share that are over */
    uint32_t done_count, done_capacity;
    uint32_t asks;       /* made */
    bool asking;         /* the last one is not answered: client->asking counts it */
    bool blocked;        /* could not take a record, and has not said ready */
    bool stopped;        /* its subscription is over */
    bool stop_confirmed; /* and no parcel will come any more */
    struct span filter;  /* bytes below */
    uint8_t bytes[];
};

/* A flight of a share that is over. */
struct share_done {
    uint32_t number;
    bool stored; /* a session has taken it over, and a row says so */
};

struct share_join {
    struct mail mail;
    struct link link;
    struct share_seat *seat;
    bool kept;                          /* makes the share durable */
    uint64_t session;                   /* then: whose; a row says so already */
    bool blocked;                       /* its seat says ready later */
    struct broker_subscribe *subscribe; /* waits for it */
    struct subscribe_item *item;
    uint32_t window;
    enum status status;
    struct share_member *member;
    uint32_t members;                  /* connected ones, with this */
    struct broker_subscribe announced; /* of the reader, on the home worker */
    struct subscribe_item announced_item;
};

/* What a seat tells its member, of one turn. */
struct share_slip {
    uint32_t settled;             /* taken back ones included */
    const struct share_ref *refs; /* given back; copied */
    uint32_t ref_count;
    const struct share_done *done; /* likewise */
    uint32_t done_count;
    bool blocked; /* takes nothing until it says ready */
    bool ready;   /* from this epoch on */
    uint32_t epoch;
    uint32_t ask; /* not 0: share_seat_answered() when nothing of the share waits for a member */
    bool stop;    /* wants nothing more: share_seat_stopped() when no parcel is on its way */
    bool leaves;  /* its client has gone: it ends when storage has answered */
    bool end;     /* has gone */
    bool grades, exact; /* says what is granted to it */
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
/* To the next member that can take it. FULL: there is none. */
enum deliver_result share_hand(struct share *share, const struct record *record,
                               struct frame_cache *cache, const struct share_ref *ref);
/* Whose turn it is; of those that take exactly once, if a row says that it is for one. */
struct share_member *share_next(const struct share *share, bool reserved);
/* A member that waits to take part can; or it cannot. Last call with it. */
void share_join_end(struct share_join *join, enum status status);
/* Nobody takes part any more, perhaps. */
void share_may_end(struct share *share);
struct share *share_new(const struct share_seat *seat); /* which wants to take part */
void share_free(struct share *share);
/* A member is able again, or something was given back. */
void share_go_on(struct share *share);
void share_retry(struct broker_worker *worker); /* what could not be read */
void share_join_arrive(struct share_join *join);
void share_slip_arrive(struct share_member *member, const struct share_slip *slip);

/* share_kept.c, on the home worker: what is kept of a share. */
void share_kept_init(struct share *share);
/* Those who wait to take part go on, and so does the end, if there is nobody. */
void share_joins_go_on(struct share *share);
/* The share's session comes to a record that a member's session has already. */
bool share_has_given(struct client *reader, uint64_t partition, uint64_t offset);
/* A record that its session comes to. */
enum deliver_result share_show(struct subscription *subscription, uint64_t partition,
                               const struct record *record, struct frame_cache *cache);
/* As share_hand(), under a flight of the share if it is durable. */
enum deliver_result share_hand_kept(struct share *share, const struct record *record,
                                    struct frame_cache *cache, struct share_ref ref);
/* What its session holds back for want of a row has one. */
void share_covered(struct client *reader);
/* What a row reserves and nobody has is anybody's again, unless somebody can take it now. */
void share_unreserve(struct share *share);
/* A member gives back. */
void share_take_back(struct share *share, const struct share_ref *refs, uint32_t count);
/* Nobody gets what was given back. */
void share_drop(struct share *share, struct share_ref ref);
void share_flight_over(struct share *share, const struct share_done *done);
/* A record of a share that has a session which does not read is not for that session; while it is
 * about to read, it remembers so. */
bool share_passes(struct client *reader, uint64_t partition, uint64_t offset, uint64_t commit);
/* Rows on their way, or the question whether there is one: done() with the request of scan, and
 * what came is the caller's, as worker->calls is to be counted down. */
struct share_load {
    struct storage_scan scan;
    struct share *share;
    enum share_kind kind;
    uint8_t first[SHARE_ROW_KEY], end[SHARE_ROW_KEY];
};
void share_load_begin(struct share *share, enum share_kind kind, uint32_t limit,
                      void (*done)(struct request *request, enum status status));
void share_awake(struct share *share); /* storage has answered; the share may go with it */
/* Who came first has said by which selector. */
bool share_agrees(const struct share *share, const struct share_join *join);

/* share_end.c, on the home worker. */
void share_close(struct share *share); /* a durable one that has no member but those who wait */
/* For one who waits, and has another selector: nobody takes part but who is about to end, or that
 * is being looked at. Then those who wait go on by themselves. */
bool share_is_ending(struct share *share);
/* Any worker: rows say that these go back to their shares, whose homes hear of it. */
struct session_return;
void share_returned_post(struct broker *broker, const struct session_return *returns,
                         uint32_t count);

/* Nobody takes part in the share by what is stored, but its name is taken. */
struct share_look {
    struct request request; /* OK: its home sees to the end of it; else it is looked at again */
    struct mail mail;
    struct broker_worker *to;
    uint64_t share;
    struct log_rows write;
    struct storage_row rows[2];
    uint8_t keys[2][2][SHARE_ROW_KEY];
};
void share_look(struct broker *broker, struct share_look *look); /* any worker */

int share_ref_compare(const void *left, const void *right); /* by partition and offset */
/* share_return.c, on the home worker: records that were given back go first. */
void share_return(struct share *share, const struct share_ref *refs, uint32_t count);
/* Given back by a row while the share moves; and that is over: it goes out, if the share is durable
 * now. */
void share_return_later(struct share *share, struct share_ref ref);
void share_return_early(struct share *share);
void share_read_on(struct share *share);
void share_forget(struct share *share);

/* share_seat.c, on the client's worker. */
uint64_t share_id(const struct client *client, const struct subscribe_item *item); /* 0: bad */
/* Does the share become durable by it, and does its membership outlive the client? */
bool share_is_for_ever(const struct client *client, const struct subscribe_item *item);
bool share_has_seat(const struct client *client, uint64_t id);
/* True when the subscribe has to wait for it: subscribe_confirmed() then follows. */
bool share_subscribe(struct broker_subscribe *subscribe, struct subscribe_item *item);
void share_joined(struct share_join *join);
struct share_seat *share_seat_of(struct subscription *subscription); /* one that is shared */
/* FULL: not now; anything else: the record was this seat's, whatever became of it. */
enum deliver_result share_take(struct share_seat *seat, uint64_t partition,
                               const struct record *record, struct frame_cache *cache,
                               const struct share_ref *ref);
/* Leases that a session answers for (session_share.c). A lease that has ended is no more; stored:
 * the session has a row of it. */
void share_lease_end(struct share_seat *seat, uint32_t lease, bool stored);
void share_lease_return(struct share_seat *seat, uint32_t lease); /* to another member */
bool share_lease_is_returned(const struct share_seat *seat, uint32_t lease);
uint32_t share_lease_hold(struct share_seat *seat); /* of no record: the seat stays so long */
/* It is part of a unit: it stays the seat's, also when the client goes. False: it is already. */
bool share_lease_enter(struct share_seat *seat, uint32_t lease);
/* The unit has ended: the lease is over, or the client's again, or of a client that has gone
 * another member's. STORAGE_FAILED: it has ended, and nobody is given it. */
void share_lease_leave(struct share_seat *seat, uint32_t lease, enum status status);
/* Likewise when it is over by a row, and its client waits for that: ops->release, and then
 * broker_share_settled() ends it. False: the client has gone. */
bool share_lease_release(struct share_seat *seat, uint32_t lease);
struct share_ref share_lease_ref(const struct share_seat *seat, uint32_t lease);
void share_seat_stopped(struct share_seat *seat);
void share_seat_answered(struct share_seat *seat, uint32_t ask);
/* Asks all shares of the client that could give it something: client->asking says how many. */
void share_seats_ask(struct client *client);
/* The slip, with what has not been reported; nothing when there is nothing. */
void share_seat_tell(struct share_seat *seat, struct share_slip *slip);
void share_seats_go_on(struct client *client);
void share_seats_recheck(struct client *client);
void share_seats_close(struct client *client);

/* share_unit.c, on the client's worker: leases that are over with a unit. */
struct share_unit_lease;
struct share_unit {
    struct request request; /* home: the client's loop; ends with what the unit ends with */
    uint64_t unit;
    uint32_t part_count;
    /* Below: its own; begins as zeros. */
    struct broker_worker *worker;
    struct share_unit_lease *leases;
    uint32_t count, capacity;
    bool has_rows; /* else there is nothing to write, and it is no part */
    struct log_rows write;
};
/* The lease is held from now on; STALE: it is in a unit already. */
enum status share_unit_add(struct share_unit *unit, struct share_seat *seat, uint32_t lease);
void share_unit_write(struct share_unit *unit, struct broker_worker *worker); /* it has rows */
/* What was held is over, or as it was; STORAGE_FAILED: those leases have ended. Last call with it.
 */
void share_unit_end(struct share_unit *unit, enum status status);
/* Likewise, where clients wait for it: they hear of it by ops->release, and of STORAGE_FAILED by
 * ops->end. */
void share_unit_release(struct share_unit *unit, enum status status);

/* share_taken.c, on the client's worker: what clients wait for. */
void share_taken_init(struct broker_worker *worker);
void share_taken_deinit(struct broker_worker *worker);

/* share_mail.c: between the two. What stays on one worker is called at once. */
void share_join_send(struct share_join *join);
void share_join_return(struct share_join *join);
void share_report(struct share_seat *seat, const struct share_slip *slip);
void share_stop_confirm(struct share_member *member);
void share_answer(struct share_member *member, uint32_t ask); /* behind what it was sent */
/* One record of worker->shown to a member on another worker, with this turn's parcel. */
void share_send(struct share_member *member, const struct record *record,
                const struct share_ref *ref);
void share_parcels_post(struct loop_task *task);

#endif
