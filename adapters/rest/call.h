/* SPDX-License-Identifier: Apache-2.0 */
/* One REST call: an exchange with the client it acts for, what it has parsed, and the requests it
 * waits for. It lives until it has been answered (or nobody waits for the answer any more) and all
 * its requests have come back. */
#ifndef ADAPTERS_REST_CALL_H
#define ADAPTERS_REST_CALL_H

#include "adapters/http/http.h"
#include "adapters/http/json.h"
#include "core/base/arena.h"
#include "core/base/limits.h"

struct rest {
    struct http *http;
    struct broker *broker;
    struct broker_worker *worker;
};

struct session;
struct call;

struct call_kind {
    size_t size;                    /* of the struct that embeds struct call first */
    void (*run)(struct call *call); /* logged in: do it */
    /* Nobody waits any more: cancel what can be canceled. May be NULL. */
    void (*canceled)(struct call *call);
    void (*deinit)(struct call *call); /* what run() has made, apart from the arena and the JSON.
                                          May be NULL. */
};

struct call {
    const struct call_kind *kind;
    struct rest *rest;
    struct http_exchange *exchange; /* NULL: answered or canceled */
    struct session *session;
    struct client *client; /* the session's */
    unsigned refs;         /* one for the exchange, one for each hold */
    json_t *body;
    struct arena arena;
    struct broker_login login;
    struct buf credentials;
};

/* Makes the call, logs its client in (once per connection as long as nothing changes) and runs it;
 * or refuses. */
void call_start(struct http_exchange *exchange, const struct call_kind *kind);
/* A request is under way / has come back. The last release frees the call. */
void call_hold(struct call *call);
void call_release(struct call *call);

static inline const struct catalog *call_catalog(const struct call *call)
{
    return broker_catalog(call->rest->worker);
}
static inline struct loop *call_loop(const struct call *call)
{
    return broker_loop(call->rest->worker);
}
static inline struct span call_parameter(const struct call *call, unsigned index)
{
    return call->exchange->parameters[index];
}
/* The body of the answer. Only before the answer. */
static inline struct buf *call_out(struct call *call)
{
    return &call->exchange->answer;
}

/* Each of these ends the exchange; harmless when it has ended. */
void call_answer(struct call *call, unsigned http); /* what was written into call_out() */
void call_answer_as(struct call *call, unsigned http, const char *content_type);
/* code: of the DMS table. */
void call_refuse(struct call *call, unsigned http, unsigned code, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
/* What a core status means here; text may be NULL. */
void call_refuse_status(struct call *call, enum status status, const char *text);

/* The helpers below refuse by themselves and return false or NULL then. */

/* Parses the body, which must be a JSON object, into call->body. code: to refuse with when it is
 * not. */
bool call_read_object(struct call *call, unsigned code);
/* {project} is parameter 0 and must be "default". */
bool call_check_project(struct call *call);
/* Parameter index: a queue, by id or name. */
const struct queue *call_queue(struct call *call, unsigned index);
const struct group_spec *call_group(struct call *call, const struct queue *queue, unsigned index);
/* Of a path that begins {project}, {queue}, {group}. */
const struct group_spec *call_queue_group(struct call *call);
bool call_check(struct call *call, enum action action, bool is_topic, struct span address);
/* Query parameter name as a number in [low, high]; missing or empty: fallback. code: to refuse
 * with. */
bool call_query_number(struct call *call, const char *name, uint64_t low, uint64_t high,
                       uint64_t fallback, unsigned code, uint64_t *number);
/* "true" in any case; missing or anything else: false. */
bool call_query_is_true(const struct call *call, const char *name);

/* The body of a refusal, in the words of both generations of the API. */
void refusal_write(struct buf *to, unsigned code, const char *text);

#endif
