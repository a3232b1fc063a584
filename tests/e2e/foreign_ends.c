/* SPDX-License-Identifier: Apache-2.0 */
/* Checks of what outlives its connection, or the gateway, with a C library that others wrote. */
#include "tests/e2e/foreign.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* kill: it is killed and starts again behind the relay; stop: it is asked to end. */
static void gateway(const char *what)
{
    char line[16];
    printf("%s\n", what);
    fflush(stdout);
    if (fgets(line, sizeof line, stdin) == NULL)
        die("nobody answers");
}

static struct options kept(const char *id, int version)
{
    return (struct options){.id = id,
                            .port = relay_port,
                            .version = version,
                            .session_seconds = version == 5 ? 100 : 0};
}

static void forget(struct options *options)
{
    options->clean = true;
    client_free(connected(options, false));
}

/* Each number once, in order; with repeats the first of each is what counts. */
static void expect_each(struct client *client, int count, bool repeats)
{
    struct message message;
    for (int seen = 0; seen < count;) {
        message = next(client);
        long number = strtol(message.body, NULL, 10);
        if (number == seen)
            seen++;
        else if (!repeats || number > seen)
            die("%ld instead of %d", number, seen);
    }
    while (client_next(client, &message, 200))
        if (!repeats)
            die("%s came again", message.body);
}

/* What a session missed, and what is under way when the gateway is killed. */
static void killed(int version)
{
    struct options reading = kept("reader", version), writing = kept("writer", version);
    struct client *reader = connected(&reading, false), *writer = connected(&writing, false);
    int qos = client_repeats ? 1 : 2;
    same_number("granted", client_subscribe(reader, "killed/+", 2, 0), 2);
    client_disconnect(reader);
    publish_numbers(writer, "killed/x", 1, 0, MANY);
    publish_numbers(writer, "killed/y", 2, 0, MANY);
    same_number("answer to PUBLISH", client_settle(writer), 0);
    gateway("kill");
    int present = client_connect(reader);
    if (present >= 0 && version > 3)
        same_number("session present", present, 1);
    expect_numbers(reader, MANY, MANY);
    publish_numbers(writer, "killed/x", qos, 0, MANY);
    gateway("kill");
    client_settle(writer);
    expect_each(reader, MANY, qos == 1);
    client_unsubscribe(reader, "killed/+");
    client_free(reader);
    client_free(writer);
    forget(&reading);
    forget(&writing);
}

void check_killed(void)
{
    for (int version = 3; version <= 5; version++)
        killed(version);
}

void check_killed_wills(void)
{
    struct options reading = kept("reader", 5);
    struct client *reader = connected(&reading, false);
    same_number("granted", client_subscribe(reader, "left/+", 2, 0), 2);
    const struct will will = {.message = text_message("left/x", "gone", 2)};
    struct client *clients[6];
    for (int version = 3; version <= 5; version++) {
        struct options leaving = kept("0 leaves", version);
        char id[] = "0 leaves";
        id[0] = (char)('0' + version);
        leaving.id = id;
        leaving.will = &will;
        clients[version] = connected(&leaving, false);
    }
    gateway("kill");
    for (int version = 3; version <= 5; version++)
        same("will", next(reader).body, "gone");
    nothing_more(reader);
    for (int version = 3; version <= 5; version++)
        client_free(clients[version]);
    client_free(reader);
}

/* Counts what comes of the numbers of QoS 1 and 2, each of which comes once. */
static int count_of_share(struct client *client, bool seen[3][MANY])
{
    struct message message;
    int count = 0;
    for (; client_next(client, &message, 500); count++) {
        long number = strtol(message.body, NULL, 10);
        if (number < 0 || number >= MANY || seen[message.qos][number])
            die("%s of QoS %d came again", message.body, message.qos);
        seen[message.qos][number] = true;
    }
    return count;
}

/* What a share that sessions take part in kept while nobody was there is for who is back first,
 * but for what the other one was being sent while it left. */
void check_durable(void)
{
    for (int version = 3; version <= 5; version++) {
        struct options first = kept("first", version), second = kept("second", version);
        struct client *a = connected(&first, false), *b = connected(&second, false);
        struct options writing = kept("writer", version); /* whatever port the gateway has by now */
        struct client *writer = connected(&writing, false);
        same_number("granted", client_subscribe(a, "$share/g/durable/+", 2, 0), 2);
        same_number("granted", client_subscribe(b, "$share/g/durable/+", 2, 0), 2);
        client_disconnect(a);
        client_disconnect(b);
        publish_numbers(writer, "durable/x", 1, 0, MANY);
        publish_numbers(writer, "durable/x", 2, 0, MANY);
        same_number("answer to PUBLISH", client_settle(writer), 0);
        client_free(writer);
        gateway("kill");
        bool seen[3][MANY] = {{false}};
        client_connect(b);
        int of_b = count_of_share(b, seen);
        client_connect(a);
        same_number("messages", of_b + count_of_share(a, seen), 2 * MANY);
        if (of_b < MANY)
            die("who was back first got %d", of_b);
        client_unsubscribe(a, "$share/g/durable/+");
        client_unsubscribe(b, "$share/g/durable/+");
        client_free(a);
        client_free(b);
        forget(&first);
        forget(&second);
        forget(&writing);
    }
}

/* The relay breaks the connection at the first two PUBACKs: what they answered goes to another
 * member when the session ends with its connection, and to the same one when it does not. */
void check_members(void)
{
    struct options options = {.id = "a", .port = relay_port, .version = 5, .clean = true};
    struct client *a = connected(&options, false), *b = plain("b", 5), *writer = plain("writer", 5);
    same_number("granted", client_subscribe(a, "$share/g/work", 1, 0), 1);
    same_number("granted", client_subscribe(b, "$share/g/work", 1, 0), 1);
    publish_numbers(writer, "work", 1, 0, 2);
    client_settle(writer);
    long other = strtol(next(b).body, NULL, 10); /* it took the one, a the other */
    same_number("of who has gone", strtol(next(b).body, NULL, 10), 1 - other);
    client_unsubscribe(b, "$share/g/work");
    client_free(a);
    options.clean = false;
    options.session_seconds = 100;
    a = connected(&options, false);
    same_number("granted", client_subscribe(a, "$share/g/work", 1, 0), 1);
    publish_numbers(writer, "work", 1, 2, 1);
    same("first", next(a).body, "2");
    same_number("granted", client_subscribe(b, "$share/g/work", 1, 0), 1);
    same("of who is back", next(a).body, "2");
    nothing_more(b);
    client_free(a);
    client_free(b);
    client_free(writer);
}

void check_takeover(void)
{
    char reference[64];
    for (int version = 3; version <= 5; version++) {
        struct options options = kept("same", version);
        options.port = port;
        struct client *writer = plain("writer", version), *older = connected(&options, false);
        same_number("granted", client_subscribe(older, "mine", 2, 0), 2);
        publish_numbers(writer, "mine", 2, 0, 1);
        same("to the older one", next(older).body, "0");
        struct client *newer = connected(&options, true);
        same_number("farewell", client_farewell(older, reference), version == 5 ? 0x8E : -1);
        publish_numbers(writer, "mine", 2, 1, 1);
        same("to the newer one", next(newer).body, "1");
        nothing_more(newer);
        client_free(older);
        client_free(newer);
        forget(&options);
        client_free(writer);
    }
}

void check_farewell(void)
{
    struct client *clients[] = {plain("3", 3), plain("4", 4), plain("5", 5)};
    char reference[64];
    gateway("stop");
    for (int i = 0; i < 3; i++) {
        same_number("farewell", client_farewell(clients[i], reference), i == 2 ? 0x9C : -1);
        if (i < 2 || client_tells_servers)
            same("another server", reference, i < 2 ? "" : "other.example:1883");
        client_free(clients[i]);
    }
}
