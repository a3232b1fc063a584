/* SPDX-License-Identifier: Apache-2.0 */
/* One connection that speaks polylog.v1. Shared by the files of this folder only.
 *
 *   WAIT_CONNECT --connect--> LOGIN --ok--> UP --end, error--> DOWN
 */
#ifndef ADAPTERS_WS_SESSION_H
#define ADAPTERS_WS_SESSION_H

#include "adapters/http/json.h"
#include "adapters/http/websocket.h"
#include "adapters/ws/ws.h"
#include "core/broker/consume.h"
#include "core/broker/follow.h"

enum ws_state { WS_WAIT_CONNECT, WS_LOGIN, WS_UP, WS_DOWN };

/* The id of a client's frame: 0 to 2^53. Without one nothing is answered, except by errors. */
#define WS_NO_ID UINT64_MAX
enum {
    WS_LEASE_MAX_S = 300,
    WS_UNKNOWN_MESSAGE_MAX = 64 * 1024 /* before the client has said who it is */
};

struct ws_session {
    struct client client; /* first: the broker gives it back */
    struct stream *stream;
    enum ws_state state;
    struct list subs, requests, settlements;
    uint32_t sub_count, request_count, next_sub, fetch_count;
    uint64_t next_request;
    struct broker_login login;
    struct buf credentials;
    uint64_t connect_id;
    bool held;               /* the stream is paused until there is room */
    struct loop_timer timer; /* until connect; then for requests */
    json_t *incomplete;      /* a publish whose body is the next frame */
    struct ws_replies *replies;
    char delayed_text[DELAY_ID_TEXT]; /* of the publish that is answered next */
    struct metric *connections;
};

static inline struct ws_session *ws_session_of(struct client *client)
{
    return (struct ws_session *)client;
}

/* answer.c. text NULL: that of the status. */
void ws_ok(struct ws_session *session, uint64_t id);
/* With the members that are in more: ",\"name\":value". */
void ws_ok_with(struct ws_session *session, uint64_t id, struct span more);
void ws_error(struct ws_session *session, uint64_t id, enum status status, const char *text);
const char *ws_code(enum status status);

/* session.c: says why, then closes; closes once. */
void ws_end(struct ws_session *session, enum status why);
/* Takes frames again if there is room. */
void ws_go_on(struct ws_session *session);
/* The text of that member; false: it is missing (text is empty) or, with an error sent, not text.
 */
bool ws_text(const json_t *frame, const char *member, struct span *text);
bool ws_number(const json_t *frame, const char *member, uint64_t high, uint64_t *number);

/* publish.c */
void ws_publish(struct ws_session *session, json_t *frame, uint64_t id, const struct span *body);
void ws_request(struct ws_session *session, json_t *frame, uint64_t id, const struct span *body);
void ws_answered(struct client *client, uint64_t token, enum status status, uint64_t partition,
                 uint64_t offset);
void ws_delayed(struct client *client, uint64_t token, const struct delay_id *id);
void ws_requests_close(struct ws_session *session);
void ws_requests_look(struct ws_session *session); /* those whose time is over */

/* subscribe.c */
void ws_subscribe(struct ws_session *session, json_t *frame, uint64_t id);
void ws_unsubscribe(struct ws_session *session, json_t *frame, uint64_t id);
void ws_credit(struct ws_session *session, json_t *frame, uint64_t id);
void ws_subs_drained(struct ws_session *session);
void ws_subs_close(struct ws_session *session);
struct consumer *ws_consumer_of(struct ws_session *session, uint64_t number);
/* labels and selector of a frame. INVALID with err; *selector: a reference, or NULL. */
enum status ws_filters(const json_t *frame, struct label_filter *labels, struct selector **selector,
                       struct err *err);
/* "from": earliest, latest, {"offset"}, {"time"}. False: it is none of them. Missing: latest. */
bool ws_from(const json_t *frame, struct follow_options *options, bool *given);

/* settle.c */
enum ws_settle { WS_ACK, WS_NACK, WS_REJECT, WS_EXTEND };
void ws_settle(struct ws_session *session, json_t *frame, uint64_t id, enum ws_settle how);
void ws_settled(struct consumer *consumer, uint64_t token, enum status status);
/* Those of consumer (NULL: all) get no answer from the broker any more. */
void ws_settlements_close(struct ws_session *session, const struct consumer *consumer);
/* Appends the text of a receipt. */
void ws_receipt_put(struct buf *to, uint64_t sub, uint32_t slot, const struct receipt *receipt);

/* fetch.c */
void ws_fetch(struct ws_session *session, json_t *frame, uint64_t id);

#endif
