/* SPDX-License-Identifier: Apache-2.0 */
/* What the peers saw, and the checkers over it. A message is (topic, number, attempt); every
 * attempt to publish is a message of its own, so that nothing in the log can be mistaken for
 * another. Failing checks end the process with the seed on standard error. */
#ifndef TESTS_SIM_HISTORY_H
#define TESTS_SIM_HISTORY_H

#include <stdbool.h>
#include <stdint.h>

#include "core/base/span.h"

enum { TOPICS = 8, ATTEMPTS_MAX = 60000 };

struct message {
    unsigned topic;
    uint32_t number;  /* of the publisher's messages to that topic */
    uint32_t attempt; /* over all */
};

enum fate { FATE_UNKNOWN, FATE_ACKNOWLEDGED, FATE_REFUSED };

void history_begin(uint64_t seed);
__attribute__((format(printf, 1, 2))) _Noreturn void history_fail(const char *format, ...);

/* A new attempt to publish; its text goes into the payload. */
struct message history_attempt(unsigned topic, uint32_t number, unsigned qos);
bool history_is_acknowledged(uint32_t attempt);
unsigned history_topic(uint32_t attempt);
unsigned history_qos(uint32_t attempt);
uint32_t history_attempts(void); /* so far */
/* Some are too large for clients that take packets of PACKET_SMALL bytes, as some do. */
enum { HISTORY_TEXT = 320, PACKET_SMALL = 200 };
bool history_is_large(uint32_t attempt);
void history_format(struct message message, char text[HISTORY_TEXT]);
bool history_parse(struct span payload, struct message *message);
void history_fate(struct message message, enum fate fate);

/* Something was read from the log, in any way: one value per offset for ever. */
void history_read(uint64_t partition, uint64_t offset, struct span payload);
/* All of a partition has been read from start to end: the final content, in order. Topics have
 * several homes when routes lead them elsewhere; order is that of each home. */
enum { HOMES = 2 };
void history_final(unsigned home, uint64_t partition, uint64_t offset, struct span payload);
/* Where it lies in the end; false: nowhere. */
bool history_place(uint32_t attempt, unsigned *home, uint32_t *position);
/* Of one topic and home, in order. */
uint32_t history_log(unsigned topic, unsigned home, const uint32_t **log);
/* After everything final was reported: acknowledged is there, refused is not, order per topic. */
void history_check_final(void);

/* A subscriber's connection: what it got of each topic must be a run of each home's log without
 * holes. */
struct seen_run {
    uint32_t *attempts;
    uint32_t count, capacity;
    bool live;      /* still connected at the end: must have reached the log's end */
    bool confirmed; /* SUBACK has come; every attempt from since on began after it */
    uint32_t since;
    unsigned topic;
    struct seen_run *next;
};
struct seen_run *history_run(unsigned topic);
void history_confirmed(struct seen_run *run);
void history_seen(struct seen_run *run, struct message message);

/* A share's members, each with QoS 1. There is a share from the first confirmed member on until the
 * last has gone; what began in its time and was acknowledged must have been seen by some member, at
 * the end, by two only when the first one had gone. */
struct seen_member {
    bool confirmed;
    bool gone; /* its connection has ended */
    struct seen_member *next;
};
struct seen_member *history_member(void); /* a new connection */
void history_member_confirmed(struct seen_member *member);
void history_member_seen(struct seen_member *member, struct message message);
void history_member_acks(struct message message); /* what it saw last: sent, perhaps lost */
void history_member_gone(struct seen_member *member);
void history_share_check(void);
uint64_t history_share_count(void); /* seen by members */

/* Whoever asks for something gets something, in one run of many at least: others may take all that
 * there is for several of them. The check is of all runs so far. */
void history_asks(const char *peer);
void history_gets(const char *peer); /* what it asked for, or an answer to what it sent */
void history_check_gets(void);

/* Leases. */
void history_handed_out(uint64_t partition, uint64_t offset, uint32_t failures, uint64_t until_ms);
void history_settling(uint64_t partition, uint64_t offset); /* as done: sent, not answered yet */
void history_settled(uint64_t partition, uint64_t offset, bool done); /* answered */
/* Sent with a delay, not answered yet; then whether it was taken. */
void history_delaying(uint64_t partition, uint64_t offset, uint64_t due_ms);
void history_delayed(uint64_t partition, uint64_t offset, uint64_t due_ms, bool taken);
/* A dead letter was read, which says where its record lay: its only copy, and not handed out there
 * from now on. */
void history_dead(uint64_t partition, uint64_t offset, uint64_t dead_offset, struct span payload);
uint64_t history_dead_count(void);
/* The gateway crashed: leases are over, and it may have forgotten what it did not store. */
void history_crashed(void);
unsigned history_life(void); /* crashes so far */
/* Records settled as done; where the answer was lost in a crash, it may have been done. */
uint64_t history_done_count(void);
uint64_t history_final_count(void); /* of the first home */
uint64_t history_acknowledged_count(void);

#endif
