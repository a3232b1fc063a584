/* SPDX-License-Identifier: Apache-2.0 */
/* A session as the worker of its client holds it: in memory only while a client is there. Offline
 * it is rows: its filters, a position in the commit sequence, and what is in flight. What was
 * published meanwhile is found through the rows of its filters (filter_index.h), in commit order.
 *
 *   ATTACHING --rows read, filters announced--> ATTACHED --broker_session_begin()--> RESENDING
 *     --all that was in flight is out again--> BEHIND --nothing left in the index--> LIVE
 *       LIVE --no credit, or too much queued--> BEHIND          any --client gone--> ENDING
 * --stored--> freed
 *
 * BEHIND reads rounds. A round begins with the filters' rows from the position on; what is
 * committed while it runs is noted as it passes by (struct passing) and shown at its end, so that
 * the last round leaves no gap. Marks keep what the index and the notices both name from being
 * shown twice. Internal to core/broker. */
#ifndef CORE_BROKER_SESSION_H
#define CORE_BROKER_SESSION_H

#include "core/broker/session_names.h"
#include "core/broker/session_rows.h"
#include "core/broker/share_rows.h"
#include "core/broker/worker.h"

enum session_phase {
    SESSION_ATTACHING,
    SESSION_ATTACHED,
    SESSION_RESENDING,
    SESSION_BEHIND,
    SESSION_LIVE,
    SESSION_ENDING
};

struct flight {
    struct session_flight at; /* at.number is its place; state FREE: unused */
    struct blob *frame;       /* HELD */
    bool unpaid;              /* HELD, and no credit was taken for it yet */
    bool stored;              /* unpaid, and its row is written */
    struct share_seat *seat;  /* it came that way, and no row of the session tells of it yet */
    uint32_t lease;           /* of that seat */
    uint32_t previous, next;  /* in the order of sending, or of free ones */
    bool covered;             /* by the write under way */
    bool handing;             /* likewise: the session takes it over from its share */
    bool again;               /* to be sent again */
    bool returned;            /* of a share: a row says so (share_rows.h) */
    bool reserved;            /* likewise: that a member without a session has it, exactly once */
    bool promised;            /* to such a one, and not handed to it yet */
    bool in_unit; /* over, if the unit is stored: nothing else becomes of it till then */
};

/* Flights that are over with a unit, which is stored with the row of position and flights. Ends
 * with what the unit ends with; the part is the caller's again then. */
struct session_unit {
    struct request request; /* home: the session's loop */
    uint64_t unit;
    uint32_t part_count;
    uint32_t *numbers; /* borrowed until done() */
    uint32_t count;
    /* Below: the session's. */
    struct log_rows refusal;
    bool sent;
};

/* A lease that ends with a write. */
struct session_lease {
    struct share_seat *seat;
    uint32_t lease, number; /* of the flight */
};

/* What keeps a seat until the session has stored its last rows. */
struct session_seat {
    struct share_seat *seat;
    uint32_t lease;
};

/* A record that goes back to its share when the session is over. */
struct session_return {
    uint64_t share, partition, offset;
};

/* Flights of a share's session as rows: which have to be written. */
struct session_blocks {
    uint8_t *flags; /* of each */
    uint32_t count;
    uint32_t *changed, *writing; /* since the write under way began; in it, or in the last one */
    uint32_t changed_count, writing_count;
    struct buf values; /* of that write */
};

struct session_round;
struct session_rows;
struct share_seat;

struct session {
    struct broker_worker *worker;
    struct client *client; /* NULL: it has gone */
    struct name_claim *claim;
    struct session_name name;
    struct span text; /* the name; bytes are the session's */
    uint64_t id;      /* 0: nothing is kept of it */
    uint32_t expiry_s;
    uint64_t due_ms; /* of its due row; 0: there is none */
    enum session_phase phase;
    bool present;        /* there was one before */
    bool yields;         /* as attached: its name is not in use by it */
    bool ended;          /* its last rows are written, or being written */
    uint32_t calls;      /* under way, and pointing here */
    uint32_t publishing; /* records with a note, and all of a client that has gone, under way */
    struct broker_attach *attach;
    struct broker_give_up *give_up; /* who waits for its end */

    struct blob *will;           /* as stored; NULL: none */
    bool will_stored;            /* there is a row of it */
    bool armed;                  /* it is published when the client goes */
    uint64_t will_ms;            /* as in the row of the name */
    struct held_will *held_will; /* of one that is not kept */
    bool willing;                /* it is being published, or the late one found: the end waits */
    enum status will_lost;       /* why it never will be, counted when its row is gone; or OK */

    /* What is in flight: flights[1..flight_count], flights[0] heads the order. */
    struct flight *flights;
    uint32_t flight_count, flight_capacity, free_first;
    uint32_t in_flight;
    uint32_t again_out; /* of a share: those that are returned */
    uint64_t position;
    struct session_mark *marks;
    uint32_t mark_count, mark_capacity;

    /* The row of position and flights. */
    struct log_rows write;
    struct storage_row write_row;
    uint8_t write_key[SESSION_STATE_KEY];
    struct buf write_value;
    struct session_blocks blocks; /* of a share; else its flights are in that row */
    struct session_unit *unit; /* the write under way is a part of it, or the next one; or NULL */
    struct list waiting_units; /* that are next: unit_sessions.h */
    uint32_t unit_count;       /* all that have a part for it and are not over */
    struct storage_row *aside; /* with rows of shares behind it; NULL: there are none */
    uint32_t aside_count;
    bool writing, dirty, urgent;
    uint32_t holding; /* flights that are HELD */
    uint32_t unpaid;  /* of them; nothing else is shown until there is credit for these */
    bool refunded;    /* credit came back from inside: session_refund() is to follow */
    uint32_t settled; /* since the last write */
    struct loop_task write_task;
    struct loop_timer save_timer;

    /* Incoming numbers to forget. */
    struct loop_task forget_task;
    uint32_t *forget;
    uint32_t forget_count, forget_capacity;
    bool forget_waits; /* the store had no room: the timer tries again */

    struct list subscribing; /* the first is under way */
    uint32_t row_writes;     /* of subscriptions, under way */
    uint64_t rows_sent;      /* number of the last of them */
    struct list flushes;     /* who waits for them */

    bool returning;    /* its client has come back, and it has not been live since */
    uint64_t paced_us; /* until when what was shown pays: limit.resume_rate */
    bool counting;     /* what is kept for it: limit.session_records, limit.session_bytes */
    uint64_t excess, excess_bytes; /* deliveries of what is kept to drop */

    struct session_round *round;
    struct batch **batches; /* of the last read; room for LOG_READ_MAX; NULL until there is one */
    uint32_t batch_count;
    uint32_t read_bytes;
    bool reading;
    bool lost; /* what was wanted is not there any more */
    struct loop_timer retry_timer;

    uint64_t *held; /* ids of filters that it holds without a subscription: all, when it ends */
    uint32_t held_count, held_capacity;

    /* Walks through retained records that are over, by hash of the filter: their rows are to go. 0:
     * not this one any more. */
    uint64_t *walks_over;
    uint32_t over_count, over_capacity, over_written; /* by the write under way */
    struct storage_row *more_rows;  /* of that write: all, with those of walks or blocks behind the
                                     * first; NULL: there are none */
    struct session_rows *last_rows; /* of what ends with its client */
    /* session_share.c */
    uint64_t share;                /* whose session this is; 0: a client's */
    struct share_ref *superfluous; /* of a share: rows that its next write makes so */
    uint32_t superfluous_count, superfluous_capacity, superfluous_writing;
    struct session_lease *handed; /* with the write under way; at the end, with the last one */
    uint32_t handed_count, handed_capacity;
    uint64_t *shares; /* that it takes part in as long as it lives */
    uint32_t share_count, share_capacity;
    struct session_seat *seats; /* in them, when its client goes */
    uint32_t seat_count;
    struct session_return *returns; /* when it is over */
    uint32_t return_count;
};

/* session_end.c */
void session_detach(struct client *client); /* harmless without a session */
void session_end_go_on(struct session *session);
/* One of those that it counts as publishing is over. */
void session_published(struct session *session);
/* The row of the name, and those of when the session ends and its will is due, which drop_due()
 * deletes. */
void session_put_name(struct session_rows *rows, const struct session *session, int64_t ended_ms);
void session_drop_due(struct session_rows *rows, struct session *session);
void session_hold_filter(struct session *session, uint64_t index); /* 0: none */
/* Everything of the session with that id, whose filters are listed, but its name. */
void session_erase(struct session_rows *rows, uint64_t id, const uint64_t *held, uint32_t count);
/* session.c */
/* A call that pointed to the session is back; true: it is alive. */
bool session_back(struct session *session);

/* What holds of an expiry that is asked for, or was before the limit; not of a share's session. */
uint32_t session_expiry_granted(const struct broker *broker, uint32_t asked_s);

/* A session of a share that nothing is kept of is kept from now on. */
void session_keep(struct session *session,
                  void (*done)(void *context, enum status status, uint64_t commit), void *context);

/* session_write.c */
void session_write_init(struct session *session);
void session_touch(struct session *session); /* position or flights changed: stored in a while */
void session_write_now(struct session *session);  /* at the end of the turn */
void session_write_unit(struct session *session); /* its unit's part; no write is under way */
void session_pay(struct session *session); /* what is held only for want of credit goes out */
/* Whatever waits for credit goes on when the session gave some back, not only the session: no
 * answer of the client's may follow that says so. True: it did. */
bool session_refund(struct session *session);
/* Encodes position and flights; of a share, the position. */
void session_encode(struct session *session, struct buf *to);
void session_free_frames(struct session *session);
/* Rows of its own memory: whoever flushes waits for them. */
struct session_rows *session_rows_new(struct session *session);
struct storage_row *session_rows_add(struct session_rows *rows, enum storage_change change,
                                     struct span key, struct span value);
void session_rows_send(struct session_rows *rows,
                       void (*done)(void *context, enum status status, uint64_t commit),
                       void *context);

/* session_blocks.c: of a share's session, and else of no effect. */
void session_blocks_init(struct session *session);
void session_blocks_free(struct session *session);
/* What is stored of the flight, or that it is one. */
void session_flight_changed(struct session *session, const struct flight *flight);
enum status session_block_load(struct session *session, uint64_t block, struct span value);
/* As session_walk_rows(): the blocks that have changed, of which flights are covered by now. */
struct storage_row *session_block_rows(struct session *session, const struct storage_row *first,
                                       uint32_t *count);
void session_blocks_written(struct session *session, bool stored); /* that write is done */
void session_blocks_last(struct session *session, struct session_rows *rows);
/* The flights of a block, one after the other from *at = 0 on; NULL at the end. */
struct flight *session_block_flight(struct session *session, uint32_t block, uint32_t *at);

/* session_unit.c */
/* The session has no other unit (unit_sessions.h). It is refused with STALE where a flight is not
 * there, or its client has gone. */
void session_settle_unit(struct session *session, struct session_unit *unit);
/* The write was its part. */
void session_unit_end(struct session *session, const struct session_unit *unit, enum status status);
/* The write before it is done: the unit's is next. */
void session_unit_go_on(struct session *session);

/* session_subscribe.c */
void session_subscribe(struct broker_subscribe *subscribe);
void session_unsubscribed(struct subscription *subscription);

/* session_note.c */
enum status session_note_load(struct span row, struct buf *notes);
/* Where publish has a number or a note that is to be kept: its row goes behind notes. Whose session
 * has to wait for the answer; NULL: none. */
enum { SESSION_NOTE_ROW = 1 + SESSION_STATE_KEY + 5 + PUBLISH_NOTE_BYTES }; /* the largest */
struct session *session_note_publish(const struct client *client, const struct publish *publish,
                                     struct buf *notes);
/* Takes the next row off them; false at the end. */
bool session_note_row(struct span *notes, struct span *key, struct span *value);

/* session_will.c */
void session_will_take(struct session *session, const struct broker_will *will); /* or NULL */
/* Of the client that comes, if its session is kept; or none. */
void session_will_put(struct session_rows *rows, struct session *session);
/* What the client before has left is published, as the session does not go on, or not in time. */
bool session_will_is_late(const struct session *session, uint64_t will_ms, struct span row);
void session_will_leave(struct session *session); /* the client has gone */
void session_will_hold(struct session *session);  /* of one of which nothing else is kept */

/* session_walk.c: how far subscriptions have got with retained records. */
/* Of a new subscribe, in the write of the subscription's row. */
void session_walk_begin(struct session *session, struct session_rows *rows,
                        struct subscription *subscription);
void session_walk_over(const struct subscription *subscription); /* everything was shown */
void session_walk_forget(struct session_rows *rows, const struct session *session,
                         struct span filter);
/* What has changed, behind row first of the write under way: rows of their own, for the caller to
 * free; NULL: nothing has. */
struct storage_row *session_walk_rows(struct session *session, const struct storage_row *first,
                                      uint32_t *count);
void session_walk_written(struct session *session, bool stored); /* that write is done */
void session_walk_last(struct session *session, struct session_rows *rows);
void session_walks_start(struct session *session); /* those that were found when attaching */
/* The row of a flight, whose record is not in the log any more: session_hold(), or the flight
 * forgets it. Then session_go_on(). */
void session_row_fetch(struct session *session, const struct flight *flight);
/* The retained record of that row to one subscription. */
enum deliver_result session_recall(struct subscription *subscription, uint64_t partition,
                                   const struct record *record, struct span key,
                                   struct frame_cache *frames);

/* session_show.c */
/* Where a record comes from, when it is not from the session's own filters. */
struct session_origin {
    struct span retained;    /* the retained set: key of its row */
    struct share_seat *seat; /* a share, under that lease */
    uint32_t lease;
};
enum deliver_result session_send(struct subscription *subscription, uint64_t partition,
                                 const struct record *record, const struct session_origin *origin,
                                 struct frame_cache *frames);
struct flight *session_flight_new(struct session *session);
void session_flight_end(struct session *session, struct flight *flight);
/* Hands it to the client. */
bool session_deliver(struct session *session, const struct flight *flight, struct blob *frame,
                     bool again);
/* Of a new session: what was in flight when it was stored; all of it, or a part, and at the end the
 * rest of the numbers is free. */
enum status session_flights_load(struct session *session, struct session_position *position);
void session_flights_loaded(struct session *session);
/* A stored record to all subscriptions of the session that take it, or to none: FULL. frames is the
 * caller's. */
enum deliver_result session_show(struct session *session, uint64_t partition, uint64_t commit,
                                 const struct record *record, struct frame_cache *frames);
/* A record that a share gives to a member whose session is kept. */
enum deliver_result session_give(struct share_seat *seat, uint32_t lease, uint64_t partition,
                                 const struct record *record, struct frame_cache *frames);
/* Everything of the partition below next was handed out, or is none of the session's. */
void session_mark(struct session *session, uint64_t partition, uint64_t next, uint64_t commit);
/* A record that was committed just now and matches a subscription of the session. topic: as
 * deliver_topic() says. */
void session_pass(struct session *session, struct batch *batch, uint32_t index,
                  const struct record *record, struct span topic, struct frame_cache *frames);
void session_handled(struct session *session); /* moves the position of one that is live */

/* session_read.c */
void session_go_on(struct session *session);
/* Its subscriptions have changed. While they change, which ends before any record behind the change
 * has been shown, nothing is read. */
void session_read_anew(struct session *session);
void session_hold(struct session *session, struct batch *batch); /* as if read; takes it */
void session_retry(struct session *session, uint64_t delay_ms);  /* session_go_on() then */
void session_note(struct session *session, struct batch *batch, uint32_t index);
void session_read_end(struct session *session);

/* session_limit.c */
/* How much is kept is counted first, if that is limited. */
void session_limit_start(struct session *session);
/* False: too fast for one that has come back; it goes on by itself. */
bool session_is_paced(struct session *session);
void session_pace(struct session *session); /* for one delivery */
/* A record that is kept is among those to drop; count: deliveries of it. */
bool session_drops(struct session *session, const struct record *record, uint32_t count);
/* What that row names was counted, and is not there any more. */
void session_lost(struct session *session, const struct filter_row *row);
void session_limit_end(struct session *session); /* it is live */

/* session_share.c */
/* Puts the rows of shares behind that of position and flights, which is about to be written. */
void session_aside_begin(struct session *session);
void session_aside_end(struct session *session, enum status status);
/* A flight of a share is over, or one that a share gave. */
void session_flight_left(struct session *session, struct flight *flight);
/* What the last write says of shares. */
void session_share_detach(struct client *client, struct session *session);
void session_share_last(struct session *session, struct session_rows *rows);
void session_share_ended(struct session *session, enum status status);
/* It takes part in that share, or not any longer; rows: NULL when they are there. */
void session_share_join(struct session *session, struct session_rows *rows, uint64_t share);
void session_share_leave(struct session *session, struct session_rows *rows, uint64_t share);
void session_share_forget(struct session *session, uint64_t share); /* there are no rows of it */
/* With a write of its own. */
void session_shares_leave(struct session *session, const uint64_t *shares, uint32_t count);
/* How a write that leaves these has ended. By rows that could not be deleted it still is in: they
 * go with the session, or when it comes back without a seat there. */
void session_shares_left(struct session *session, const uint64_t *shares, uint32_t count,
                         enum status status);
/* Leaves all in which its client has no seat: it has come back without them, or a subscribe broke
 * off. */
void session_shares_sort_out(struct session *session);
bool session_share_is_in(const struct session *session, uint64_t share);
/* Likewise of a session with that id, which is over. */
void session_share_erase(struct session_rows *rows, uint64_t tenant, uint64_t session,
                         uint64_t share);
/* Flights in a row of position that go back to their shares: appended to *returns. */
void session_returns_load(const struct session_position *position, struct session_return **returns,
                          uint32_t *count);
/* The row without them. */
void session_returns_drop(const struct session_position *position, struct buf *to);
void session_returns_add(struct session_rows *rows, uint64_t tenant, uint64_t session,
                         const struct session_return *returns, uint32_t count);
/* What a share that is over says of records: never who takes part, for that may be somebody who
 * joins just now and whose share begins anew. */
void session_share_clear(struct session_rows *rows, uint64_t share);
/* A row of the share whose session this is goes with the next write. */
void session_superfluous(struct session *session, const struct share_ref *ref);
void session_share_free(struct session *session);

/* session_sweep.c */
void session_sweep_start(struct broker_worker *worker); /* worker 0, when it is ready */
void session_sweep_stop(struct broker_worker *worker);
void session_sweep_free(struct broker *broker);

/* Something is under way that points to the session, until session_back(). */
static inline void session_call(struct session *session)
{
    session->calls++;
    session->worker->calls++;
}

/* May shares and retained records give to its client? Not before what was in flight is out again,
 * and what waits for credit has some. */
static inline bool session_takes(const struct session *session)
{
    return session->unpaid == 0 &&
           (session->phase == SESSION_BEHIND || session->phase == SESSION_LIVE);
}

static inline bool session_is_kept(const struct client *client)
{
    return client->session != NULL && client->session->id != 0;
}

#endif
