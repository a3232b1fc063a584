/* SPDX-License-Identifier: Apache-2.0 */
/* The load generator's options and its kinds of run. Each prints one JSON object and returns
 * the exit status: 0 fine, 1 messages lost or errors seen; it exits with 2 when the run could not
 * be set up. */
#ifndef TESTS_BENCH_MQTTLOAD_H
#define TESTS_BENCH_MQTTLOAD_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

enum workload {
    WORKLOAD_FANIN,
    WORKLOAD_FANOUT,
    WORKLOAD_PAIRS,
    WORKLOAD_SESSIONS,
    WORKLOAD_LATENCY,
    WORKLOAD_STORED,
    WORKLOAD_OFFLINE,
    WORKLOAD_CONNECT,
    WORKLOAD_IDLE,
    WORKLOAD_RECALL,
    WORKLOAD_WILLS,
};

struct options {
    const char *workload_name, *host;
    enum workload workload;
    uint16_t port;
    pid_t pid; /* of the server, 0: its CPU and memory are not measured */
    int protocol, qos;
    uint32_t size, window, publishers, subscribers, connections, parallel, slices, delay_s;
    bool websocket;
    bool will;          /* connect: each client has one */
    uint16_t amqp_port; /* subscribers speak AMQP on it, 0: none does */
    bool queues;        /* these receive from queues load-0, load-1, ... */
    bool beside;        /* the second half of the pairs is MQTT on topics, measured by itself */
    bool pages;    /* subscribers speak polylog.v1, as a page in a browser does; with websocket */
    uint64_t rate; /* messages per second in all, 0: closed loop */
    uint64_t count;
    double seconds, warmup_seconds;
};

#define MESSAGE_SIZE_MIN 24u /* the stamp that every payload begins with; in JSON twice that */

/* Publishers and subscribers: fan-in, fan-out, pairs, sessions, latency, stored. */
int exchange_run(const struct options *options);

/* Messages queued for persistent sessions without clients, and taken by them. */
int offline_run(const struct options *options);

/* Connect, CONNACK, DISCONNECT, as often as it goes with `parallel` at a time. */
int storm_run(const struct options *options);

/* Memory of `connections` connections with one subscription each. */
int idle_run(const struct options *options);

/* Retained messages for all subscribers at once. */
int recall_run(const struct options *options);

/* Wills of `connections` clients that are lost at once. */
int wills_run(const struct options *options);

#endif
