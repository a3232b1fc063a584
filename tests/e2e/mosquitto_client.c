/* SPDX-License-Identifier: Apache-2.0 */
/* libmosquitto as publisher and subscriber in one: everything published at each QoS and version
 * comes back once, in order, with its properties. */
#include <mosquitto.h>
#include <mqtt_protocol.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { MESSAGES = 5000, SECONDS_MAX = 30 };

struct run {
    int version, qos;
    int subscribed, published, received;
    const char *problem;
};

static void fail(struct run *run, const char *problem)
{
    if (run->problem == NULL)
        run->problem = problem;
}

static void on_connect(struct mosquitto *client, void *context, int reason)
{
    struct run *run = context;
    char topic[64];
    if (reason != 0)
        fail(run, "not accepted");
    snprintf(topic, sizeof topic, "c/%d/%d/+", run->version, run->qos);
    mosquitto_subscribe(client, NULL, topic, run->qos);
}

static void on_subscribe(struct mosquitto *client, void *context, int id, int count,
                         const int *granted)
{
    struct run *run = context;
    (void)client;
    (void)id;
    if (count != 1 || granted[0] != run->qos)
        fail(run, "not subscribed as asked");
    run->subscribed = 1;
}

static void on_publish(struct mosquitto *client, void *context, int id, int reason,
                       const mosquitto_property *properties)
{
    struct run *run = context;
    (void)client;
    (void)id;
    (void)properties;
    if (reason != 0)
        fail(run, "a publish was refused");
    run->published++;
}

static bool has_properties(const mosquitto_property *properties, int number)
{
    char *name = NULL, *value = NULL;
    char expected[16];
    snprintf(expected, sizeof expected, "%d", number);
    bool right = mosquitto_property_read_string_pair(properties, MQTT_PROP_USER_PROPERTY, &name,
                                                     &value, false) != NULL &&
                 strcmp(name, "number") == 0 && strcmp(value, expected) == 0;
    free(name);
    free(value);
    return right;
}

static void on_message(struct mosquitto *client, void *context,
                       const struct mosquitto_message *message,
                       const mosquitto_property *properties)
{
    struct run *run = context;
    char expected[32];
    (void)client;
    snprintf(expected, sizeof expected, "message %d", run->received);
    if (message->payloadlen != (int)strlen(expected) ||
        memcmp(message->payload, expected, strlen(expected)) != 0)
        fail(run, "a message is missing, double or out of order");
    if (message->qos != run->qos)
        fail(run, "another QoS");
    if (run->version == MQTT_PROTOCOL_V5 && !has_properties(properties, run->received))
        fail(run, "a user property is missing");
    run->received++;
}

static void publish_next(struct mosquitto *client, struct run *run, int number)
{
    char topic[64], text[32], value[16];
    mosquitto_property *properties = NULL;
    snprintf(topic, sizeof topic, "c/%d/%d/x", run->version, run->qos);
    snprintf(text, sizeof text, "message %d", number);
    snprintf(value, sizeof value, "%d", number);
    if (run->version == MQTT_PROTOCOL_V5)
        mosquitto_property_add_string_pair(&properties, MQTT_PROP_USER_PROPERTY, "number", value);
    if (mosquitto_publish_v5(client, NULL, topic, (int)strlen(text), text, run->qos, false,
                             properties) != MOSQ_ERR_SUCCESS)
        fail(run, "publish");
    mosquitto_property_free_all(&properties);
}

static struct mosquitto *client_new(struct run *run)
{
    struct mosquitto *client = mosquitto_new(NULL, true, run);
    mosquitto_int_option(client, MOSQ_OPT_PROTOCOL_VERSION, run->version);
    mosquitto_int_option(client, MOSQ_OPT_RECEIVE_MAXIMUM, 100);
    mosquitto_int_option(client, MOSQ_OPT_SEND_MAXIMUM, 100);
    mosquitto_connect_callback_set(client, on_connect);
    mosquitto_subscribe_callback_set(client, on_subscribe);
    mosquitto_publish_v5_callback_set(client, on_publish);
    mosquitto_message_v5_callback_set(client, on_message);
    return client;
}

static void go_round(struct run *run, int port)
{
    struct mosquitto *client = client_new(run);
    int sent = 0;
    time_t end = time(NULL) + SECONDS_MAX;
    if (mosquitto_connect(client, "127.0.0.1", port, 30) != MOSQ_ERR_SUCCESS)
        fail(run, "connect");
    while (run->problem == NULL && (run->received < MESSAGES || run->published < MESSAGES)) {
        /* At most 500 on their way: QoS 0 has no credit of its own. */
        while (run->subscribed && sent < MESSAGES && sent - run->received < 500)
            publish_next(client, run, sent++);
        if (mosquitto_loop(client, 100, 1) != MOSQ_ERR_SUCCESS)
            fail(run, "the connection was lost");
        if (time(NULL) > end)
            fail(run, "nothing comes any more");
    }
    mosquitto_disconnect(client);
    mosquitto_destroy(client);
}

int main(int count, char **words)
{
    static const int versions[] = {MQTT_PROTOCOL_V31, MQTT_PROTOCOL_V311, MQTT_PROTOCOL_V5};
    if (count != 2) {
        fputs("usage: mosquitto_client PORT\n", stderr);
        return 2;
    }
    mosquitto_lib_init();
    int failed = 0;
    for (int i = 0; i < 9; i++) {
        struct run run = {.version = versions[i / 3], .qos = i % 3};
        go_round(&run, (int)strtol(words[1], NULL, 10));
        failed += run.problem != NULL;
        printf("version %d QoS %d: %d published, %d received, %s\n", run.version, run.qos,
               run.published, run.received, run.problem == NULL ? "good" : run.problem);
    }
    mosquitto_lib_cleanup();
    return failed != 0;
}
