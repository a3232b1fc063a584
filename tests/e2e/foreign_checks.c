/* SPDX-License-Identifier: Apache-2.0 */
/* What mqtt_foreign.py does with a C library that others wrote: one check per run, which ends with
 * 0 when all went well; those of foreign_ends.c ask on standard output for what shall happen to the
 * gateway. usage: foreign_LIBRARY PORT RELAY_PORT CHECK */
#include "tests/e2e/foreign.h"

#include <arpa/inet.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

enum { QUIET_MS = 200 };

int port, relay_port;

void die(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "%s: ", client_library);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    exit(1);
}

int64_t clock_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

void pause_ms(int ms)
{
    struct timespec span = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L};
    nanosleep(&span, NULL);
}

void same(const char *what, const char *got, const char *want)
{
    if (strcmp(got, want) != 0)
        die("%s: \"%s\" instead of \"%s\"", what, got, want);
}

void same_number(const char *what, long got, long want)
{
    if (got != want)
        die("%s: %ld instead of %ld", what, got, want);
}

struct client *connected(const struct options *options, bool present)
{
    struct client *client = client_new(options);
    int found = client_connect(client);
    if (found >= 0 && options->version > 3) /* 3.1 does not tell */
        same_number("session present", found, present);
    return client;
}

struct client *plain(const char *id, int version)
{
    struct options options = {.id = id, .port = port, .version = version, .clean = true};
    return connected(&options, false);
}

struct message text_message(const char *topic, const char *body, int qos)
{
    struct message message = {.qos = qos};
    snprintf(message.topic, sizeof message.topic, "%s", topic);
    snprintf(message.body, sizeof message.body, "%s", body);
    return message;
}

void publish_numbers(struct client *client, const char *topic, int qos, int first, int count)
{
    char body[16];
    for (int i = first; i < first + count; i++) {
        snprintf(body, sizeof body, "%d", i);
        struct message message = text_message(topic, body, qos);
        client_publish(client, &message);
    }
}

struct message next(struct client *client)
{
    struct message message;
    if (!client_next(client, &message, WAIT_MS))
        die("a message is missing");
    return message;
}

void nothing_more(struct client *client)
{
    struct message message;
    if (client_next(client, &message, QUIET_MS))
        die("a message too many: %s %s", message.topic, message.body);
}

/* QoS 1 and 2 are each in order by itself: a library shows QoS 2 when it is released. */
void expect_numbers(struct client *client, int count_1, int count_2)
{
    int seen[3] = {0};
    for (int i = 0; i < count_1 + count_2; i++) {
        struct message message = next(client);
        same_number("number", strtol(message.body, NULL, 10), seen[message.qos]++);
    }
    same_number("messages of QoS 1", seen[1], count_1);
    same_number("messages of QoS 2", seen[2], count_2);
    nothing_more(client);
}

static void check_session(int version)
{
    struct options options = {
        .id = "kept", .port = port, .version = version, .session_seconds = version == 5 ? 100 : 0};
    struct client *kept = connected(&options, false);
    same_number("granted", client_subscribe(kept, "missed/#", 2, 0), 2);
    client_free(kept);
    struct client *writer = plain("writer", version);
    for (int i = 0; i < MANY; i++) {
        publish_numbers(writer, "missed/x", 1, i, 1);
        publish_numbers(writer, "missed/x", 2, i, 1);
        publish_numbers(writer, "missed/x", 0, i, 1);
    }
    same_number("answer to PUBLISH", client_settle(writer), 0);
    kept = connected(&options, true);
    expect_numbers(kept, MANY, MANY);
    same_number("UNSUBACK", client_unsubscribe(kept, "missed/#"), 0);
    client_free(kept);
    options.clean = true;
    options.session_seconds = 0;
    client_free(connected(&options, false));
    client_free(writer);
}

static void check_sessions(void)
{
    for (int version = 3; version <= 5; version++)
        check_session(version);
    struct options options = {.id = "short", .port = port, .version = 5, .session_seconds = 1};
    struct client *brief = connected(&options, false), *writer = plain("writer", 5);
    same_number("granted", client_subscribe(brief, "brief", 1, 0), 1);
    client_free(brief);
    pause_ms(2000);
    publish_numbers(writer, "brief", 1, 0, 1);
    client_settle(writer);
    brief = connected(&options, false);
    nothing_more(brief);
    client_free(brief);
    client_free(writer);
}

/* The relay breaks the connections of one end on the way. */
static void exactly_once(int version, bool in)
{
    struct options reading = {.id = "reader", .port = port, .version = version};
    reading.session_seconds = version == 5 ? 100 : 0;
    struct options writing = reading;
    writing.id = "writer";
    *(in ? &reading.port : &writing.port) = relay_port;
    struct client *reader = connected(&reading, false), *writer = connected(&writing, false);
    same_number("granted", client_subscribe(reader, "once", 2, 0), 2);
    publish_numbers(writer, "once", 2, 0, 2 * MANY);
    /* 0x92: a PUBREL that is repeated because its PUBCOMP was lost. */
    int worst = client_settle(writer);
    if (worst != 0 && worst != 0x92)
        die("answer to PUBLISH: %d", worst);
    expect_numbers(reader, 0, 2 * MANY);
    client_free(reader);
    client_free(writer);
}

static void check_out_3(void)
{
    exactly_once(3, false);
}

static void check_in_3(void)
{
    exactly_once(3, true);
}

static void check_out_4(void)
{
    exactly_once(4, false);
}

static void check_out_5(void)
{
    exactly_once(5, false);
}

static void check_in_4(void)
{
    exactly_once(4, true);
}

static void check_in_5(void)
{
    exactly_once(5, true);
}

/* Shuts every connection of this process to the relay: its client has vanished. */
static void vanish(void)
{
    for (int fd = 3; fd < 256; fd++) {
        struct sockaddr_in peer;
        socklen_t size = sizeof peer;
        if (getpeername(fd, (struct sockaddr *)&peer, &size) == 0 && peer.sin_family == AF_INET &&
            ntohs(peer.sin_port) == relay_port)
            shutdown(fd, SHUT_RDWR);
    }
}

static void check_wills(void)
{
    struct client *reader = plain("reader", 5);
    same_number("granted", client_subscribe(reader, "left/#", 2, 0), 2);
    for (int version = 3; version <= 5; version++) {
        struct will will = {.message = text_message("left/x", "gone", 2)};
        if (version == 5) {
            will.delay_seconds = 1;
            snprintf(will.message.users, sizeof will.message.users, "in=a hurry;");
            snprintf(will.message.response_topic, sizeof will.message.response_topic, "%s",
                     "come/back");
        }
        struct options options = {.id = "leaving",
                                  .port = relay_port,
                                  .version = version,
                                  .clean = true,
                                  .session_seconds = version == 5 ? 100 : 0,
                                  .will = &will};
        struct client *leaving = connected(&options, false);
        client_free(leaving); /* with DISCONNECT: no will */
        nothing_more(reader);
        leaving = connected(&options, false);
        int64_t began = clock_ms();
        vanish();
        struct message message = next(reader);
        if (version == 5 && clock_ms() - began < 1000)
            die("the will came too early");
        same("will", message.body, "gone");
        same("response topic of the will", message.response_topic, will.message.response_topic);
        same("user properties of the will", message.users, will.message.users);
        client_free(leaving);
    }
    client_free(reader);
}

static void check_shares(void)
{
    for (int version = 3; version <= 5; version++) {
        struct client *a = plain("a", version), *b = plain("b", version), *c = plain("c", version);
        struct message message;
        int got[2] = {0};
        same_number("granted", client_subscribe(a, "$share/g/work/+", 1, 0), 1);
        same_number("granted", client_subscribe(b, "$share/g/work/+", 1, 0), 1);
        publish_numbers(c, "work/x", 1, 0, MANY);
        client_settle(c);
        for (int64_t end = clock_ms() + WAIT_MS; got[0] + got[1] < MANY && clock_ms() < end;) {
            got[0] += client_next(a, &message, 10);
            got[1] += client_next(b, &message, 10);
        }
        same_number("messages of the share", got[0] + got[1], MANY);
        if (got[0] == 0 || got[1] == 0)
            die("one member got all");
        same_number("UNSUBACK", client_unsubscribe(a, "$share/g/work/+"), 0);
        publish_numbers(c, "work/x", 1, 0, MANY);
        client_settle(c);
        expect_numbers(b, MANY, 0);
        nothing_more(a);
        client_free(a);
        client_free(b);
        client_free(c);
    }
}

static void check_properties(void)
{
    struct client *reader = plain("reader", 5), *writer = plain("writer", 5);
    struct message sent = text_message("props/x", "body", 1);
    same_number("granted", client_subscribe(reader, "props/#", 2, 268435455), 2);
    sent.expiry_seconds = 60;
    snprintf(sent.users, sizeof sent.users, "b=1;a=2;b=3;=empty;");
    snprintf(sent.content_type, sizeof sent.content_type, "text/plain");
    client_publish(writer, &sent);
    struct message got = next(reader);
    same("user properties", got.users, sent.users);
    same("content type", got.content_type, sent.content_type);
    same_number("subscription identifier", got.subscription_id, 268435455);
    if (got.expiry_seconds == 0 || got.expiry_seconds > 60)
        die("expiry %u", got.expiry_seconds);
    client_free(reader);
    client_free(writer);
}

/* A session that has been left, and then two messages for it; false when that took so long that the
 * gateway may have had them before it knew that nobody is there: what has been sent does not
 * expire. */
static bool leave_and_publish(struct options *options, struct client *writer)
{
    struct client *away = connected(options, false);
    same_number("granted", client_subscribe(away, "old/#", 1, 0), 1);
    int64_t began = clock_ms();
    client_free(away);
    struct message short_lived = text_message("old/x", "short", 1);
    short_lived.expiry_seconds = 1;
    struct message long_lived = text_message("old/x", "long", 1);
    long_lived.expiry_seconds = 100;
    client_publish(writer, &short_lived);
    client_publish(writer, &long_lived);
    client_settle(writer);
    return clock_ms() - began < 500;
}

static void check_expiry(void)
{
    char id[16] = "away";
    struct options options = {.id = id, .port = port, .version = 5, .session_seconds = 100};
    struct client *writer = plain("writer", 5);
    for (int tries = 1; !leave_and_publish(&options, writer) && tries < 5; tries++)
        snprintf(id, sizeof id, "away%d", tries);
    pause_ms(2100);
    struct client *away = connected(&options, true);
    struct message got = next(away);
    same("what has not expired", got.body, "long");
    if (got.expiry_seconds > 98)
        die("the expiry did not count down: %u", got.expiry_seconds);
    nothing_more(away);
    client_free(away);
    client_free(writer);
}

static void check_requests(void)
{
    struct client *asking = plain("asking", 5), *serving = plain("serving", 5);
    client_subscribe(serving, "service", 1, 0);
    client_subscribe(asking, "answers/asking", 1, 0);
    for (int i = 0; i < 10; i++) {
        struct message question = text_message("service", "how many", 1);
        snprintf(question.response_topic, sizeof question.response_topic, "answers/asking");
        snprintf(question.correlation, sizeof question.correlation, "id %d", i);
        client_publish(asking, &question);
        struct message asked = next(serving);
        struct message answer = text_message(asked.response_topic, "42", 1);
        snprintf(answer.correlation, sizeof answer.correlation, "%s", asked.correlation);
        client_publish(serving, &answer);
        same("correlation", next(asking).correlation, question.correlation);
    }
    client_free(asking);
    client_free(serving);
}

static void check_aliases(void)
{
    char topics[8][128] = {{0}};
    struct options options = {
        .id = "reader", .port = port, .version = 5, .clean = true, .alias_max = 2};
    struct client *reader = connected(&options, false), *writer = plain("writer", 5);
    int without_name = 0;
    same_number("granted", client_subscribe(reader, "alias/+", 1, 0), 1);
    for (int i = 0; i < MANY; i++) {
        /* Three topics, one after the other: the last one takes the alias of the first. */
        char name[16];
        int alias = i * 3 / MANY % 2 + 1;
        snprintf(name, sizeof name, "alias/%d", i * 3 / MANY);
        bool known = strcmp(topics[alias], name) == 0;
        struct message message = text_message(known ? "" : name, name, 1);
        message.alias = (uint16_t)alias;
        snprintf(topics[alias], sizeof topics[alias], "%s", name);
        client_publish(writer, &message);
    }
    client_settle(writer);
    memset(topics, 0, sizeof topics);
    for (int i = 0; i < MANY; i++) {
        struct message message = next(reader);
        if (message.alias > 2)
            die("alias %d", message.alias);
        if (message.topic[0] == '\0')
            without_name++;
        else
            snprintf(topics[message.alias], sizeof topics[message.alias], "%s", message.topic);
        same("topic", message.topic[0] == '\0' ? topics[message.alias] : message.topic,
             message.body);
    }
    if (without_name == 0)
        die("the gateway used no alias");
    client_free(reader);
    client_free(writer);
}

/* What is larger than the client takes is left out, and nothing waits for it. */
static void check_sizes(void)
{
    struct options options = {
        .id = "narrow", .port = port, .version = 5, .clean = true, .packet_max = 100};
    struct client *narrow = connected(&options, false), *wide = plain("wide", 5);
    same_number("granted", client_subscribe(narrow, "size", 2, 0), 2);
    for (int qos = 0; qos <= 2; qos++) {
        struct message small = text_message("size", "small", qos), large = small;
        memset(large.users, 'x', 100);
        large.users[1] = '=';
        client_publish(wide, &large);
        client_publish(wide, &small);
        same_number("answer to PUBLISH", client_settle(wide), 0);
        struct message got = next(narrow);
        same("user properties", got.users, "");
        same_number("QoS", got.qos, qos);
        nothing_more(narrow);
    }
    client_free(narrow);
    client_free(wide);
}

/* Topics with a meaning of their own: later, from what was, statistics, and as a queue. */
static void check_addresses(void)
{
    struct client *writer = plain("writer", 5);
    publish_numbers(writer, "was/x", 1, 0, 3);
    client_settle(writer);
    for (int version = 3; version <= 5; version++) {
        struct client *reader = plain("reader", version);
        same_number("granted", client_subscribe(reader, "$SYS/broker/version", 0, 0), 0);
        struct message got = next(reader);
        if (!got.retained || strncmp(got.body, "polylog ", 8) != 0)
            die("the version is \"%s\"", got.body);
        same_number("granted", client_subscribe(reader, "$replay/earliest/was/+", 1, 0), 1);
        for (int i = 0; i < version; i++) {
            got = next(reader);
            same("topic", got.topic, "$replay/earliest/was/x");
            same_number("number", strtol(got.body, NULL, 10), i);
        }
        publish_numbers(writer, "was/x", 1, version, 1);
        same_number("number", strtol(next(reader).body, NULL, 10), version);
        client_unsubscribe(reader, "$replay/earliest/was/+");
        same_number("granted", client_subscribe(reader, "later/x", 2, 0), 2);
        int64_t began = clock_ms();
        publish_numbers(reader, "$delayed/1/later/x", 2, 7, 1);
        client_settle(reader);
        same("topic", next(reader).topic, "later/x");
        if (clock_ms() - began < 1000)
            die("it came after %d ms", (int)(clock_ms() - began));
        client_unsubscribe(reader, "later/x");
        char address[64]; /* a new group of the queue where topics without a route are */
        snprintf(address, sizeof address, "$share/team%d/$queue/mqtt", version);
        same_number("granted", client_subscribe(reader, address, 1, 0), 1);
        publish_numbers(writer, "any/topic", 2, 0, 3);
        client_settle(writer);
        for (int i = 0; i < 3; i++) {
            got = next(reader);
            same("topic", got.topic, "$queue/mqtt");
            same_number("number", strtol(got.body, NULL, 10), i);
        }
        client_unsubscribe(reader, address);
        nothing_more(reader);
        client_free(reader);
    }
    client_free(writer);
}

/* The relay sees how many are under way. */
static void check_flow(void)
{
    struct options slow = {
        .id = "slow", .port = relay_port, .version = 5, .clean = true, .receive_max = 3};
    struct options fast = {.id = "fast", .port = relay_port, .version = 5, .clean = true};
    struct client *reader = connected(&slow, false), *writer = connected(&fast, false);
    same_number("granted", client_subscribe(reader, "flow", 2, 0), 2);
    publish_numbers(writer, "flow", 1, 0, MANY);
    publish_numbers(writer, "flow", 2, 0, MANY);
    same_number("answer to PUBLISH", client_settle(writer), 0);
    expect_numbers(reader, MANY, MANY);
    client_free(reader);
    client_free(writer);
}

int main(int count, char **words)
{
    static const struct {
        const char *name;
        void (*run)(void);
    } checks[] = {{"sessions", check_sessions}, {"out_3", check_out_3},
                  {"out_4", check_out_4},       {"out_5", check_out_5},
                  {"in_3", check_in_3},         {"in_4", check_in_4},
                  {"in_5", check_in_5},         {"wills", check_wills},
                  {"shares", check_shares},     {"properties", check_properties},
                  {"expiry", check_expiry},     {"requests", check_requests},
                  {"aliases", check_aliases},   {"flow", check_flow},
                  {"sizes", check_sizes},       {"addresses", check_addresses},
                  {"killed", check_killed},     {"killed_wills", check_killed_wills},
                  {"durable", check_durable},   {"members", check_members},
                  {"takeover", check_takeover}, {"farewell", check_farewell}};
    if (count != 4)
        die("usage: PORT RELAY_PORT CHECK");
    port = (int)strtol(words[1], NULL, 10);
    relay_port = (int)strtol(words[2], NULL, 10);
    for (size_t i = 0; i < sizeof checks / sizeof checks[0]; i++)
        if (strcmp(checks[i].name, words[3]) == 0) {
            if (checks[i].run == check_aliases && !client_takes_aliases)
                die("it does not take aliases");
            checks[i].run();
            return 0;
        }
    die("no such check: %s", words[3]);
}
