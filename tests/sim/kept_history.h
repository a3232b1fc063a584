/* SPDX-License-Identifier: Apache-2.0 */
/* The checkers of sessions that outlive their connections. A stay is one subscription of one
 * session from SUBSCRIBE to its end, under an identifier of its own. Of each topic and home it gets
 * what is in the log in the order of the log, and from what was published after SUBACK on without a
 * hole; if the subscription is still there in the end, up to the end of the log. */
#ifndef TESTS_SIM_KEPT_HISTORY_H
#define TESTS_SIM_KEPT_HISTORY_H

#include "tests/sim/history.h"

/* Every other gateway keeps nothing for longer, which is longer than a run. */
enum { KEPT_S = 3600 };

struct kept_session; /* from where a session began until it ended */

struct stay {
    struct kept_session *session;
    const char *filter;
    uint32_t topics;     /* that match, by bit */
    unsigned guarantees; /* QoS that was asked for, by bit */
    bool confirmed;      /* SUBACK has come: wants what is published from since on */
    uint32_t since;
    bool given_up;  /* it may have ended: has no right to anything more */
    uint32_t until; /* attempts from there on began after it had ended */
    bool live;      /* at the end: must have everything */
    struct seen *seen;
    uint32_t seen_count;
    struct arrival *arrivals; /* in order */
    uint32_t arrival_count, arrival_capacity;
    struct stay *next;
};

void kept_begin(void);
/* small: it takes nothing large. who is borrowed. */
struct kept_session *kept_session_new(const char *who, bool small);
/* Its end is certain: nothing of its stays may come any more. */
void kept_session_ended(struct kept_session *session);
/* It may have ended, or not, and its client forgets what it had. */
void kept_session_doubtful(struct kept_session *session);
/* What was acknowledged so far has been heard, and never comes again; or perhaps it has not. */
void kept_session_heard(struct kept_session *session, bool heard);

struct stay *kept_stay_new(struct kept_session *session, const char *filter, uint32_t topics);
void kept_asked(struct stay *stay, unsigned qos);
void kept_confirmed(struct stay *stay);
void kept_leaving(struct stay *stay);
void kept_left(struct stay *stay);

/* A delivery; connection is of all connections ever. once_more: it carries DUP. known: the client
 * still remembers this very exchange of QoS 2, and takes nothing. */
void kept_seen(struct stay *stay, struct message message, unsigned qos, bool once_more, bool known,
               uint64_t connection);
void kept_acknowledged(struct stay *stay, struct message message);

/* After everything final was reported. */
void kept_check_final(void);
uint64_t kept_count(void);       /* messages that came to a stay */
uint64_t kept_again_count(void); /* and those that came again */

#endif
