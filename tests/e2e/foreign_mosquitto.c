/* SPDX-License-Identifier: Apache-2.0 */
/* foreign.h with libmosquitto. */
#include "tests/e2e/foreign.h"

#include <mosquitto.h>
#include <mqtt_protocol.h>
#include <stdlib.h>
#include <stdio.h>
#include <string.h>

enum { MESSAGES_MAX = 4000 };

struct client {
    struct mosquitto *mosquitto;
    struct options options;
    struct message *messages;
    int first, count;
    bool connected, present, answered;
    int suback, reason, pending, farewell;
    char reference[64];
};

const char *client_library = "libmosquitto";
const bool client_takes_aliases = false;
const bool client_tells_servers = false;
const bool client_repeats = true;

static void on_connect(struct mosquitto *mosquitto, void *context, int reason, int flags,
                       const mosquitto_property *properties)
{
    struct client *client = context;
    (void)mosquitto;
    (void)properties;
    if (reason != 0)
        die("CONNACK %d", reason);
    client->connected = true;
    client->present = (flags & 1) != 0;
}

static void on_subscribe(struct mosquitto *mosquitto, void *context, int id, int count,
                         const int *granted)
{
    struct client *client = context;
    (void)mosquitto;
    (void)id;
    (void)count;
    client->suback = granted[0];
    client->answered = true;
}

static void on_unsubscribe(struct mosquitto *mosquitto, void *context, int id)
{
    struct client *client = context;
    (void)mosquitto;
    (void)id;
    client->answered = true;
}

static void on_publish(struct mosquitto *mosquitto, void *context, int id, int reason,
                       const mosquitto_property *properties)
{
    struct client *client = context;
    (void)mosquitto;
    (void)id;
    (void)properties;
    if (reason > client->reason)
        client->reason = reason;
    client->pending--;
}

static void text_of(const mosquitto_property *properties, int name, char *to, size_t size)
{
    char *value = NULL;
    if (mosquitto_property_read_string(properties, name, &value, false) != NULL)
        snprintf(to, size, "%s", value);
    free(value);
}

static void on_disconnect(struct mosquitto *mosquitto, void *context, int reason,
                          const mosquitto_property *properties)
{
    struct client *client = context;
    (void)mosquitto;
    client->connected = false;
    client->farewell = reason;
    text_of(properties, MQTT_PROP_SERVER_REFERENCE, client->reference, sizeof client->reference);
}

static void correlation_of(const mosquitto_property *properties, struct message *message)
{
    void *bytes = NULL;
    uint16_t size = 0;
    if (mosquitto_property_read_binary(properties, MQTT_PROP_CORRELATION_DATA, &bytes, &size,
                                       false) != NULL)
        snprintf(message->correlation, sizeof message->correlation, "%.*s", size, (char *)bytes);
    free(bytes);
}

static void users_of(const mosquitto_property *properties, struct message *message)
{
    const mosquitto_property *at = properties;
    bool skip = false;
    for (;;) {
        char *name = NULL, *value = NULL;
        size_t used = strlen(message->users);
        at = mosquitto_property_read_string_pair(at, MQTT_PROP_USER_PROPERTY, &name, &value, skip);
        if (at == NULL)
            return;
        snprintf(message->users + used, sizeof message->users - used, "%s=%s;", name, value);
        free(name);
        free(value);
        skip = true;
    }
}

static void on_message(struct mosquitto *mosquitto, void *context,
                       const struct mosquitto_message *from, const mosquitto_property *properties)
{
    struct client *client = context;
    (void)mosquitto;
    if (client->first + client->count == MESSAGES_MAX)
        die("too many messages");
    struct message *to = &client->messages[client->first + client->count++];
    memset(to, 0, sizeof *to);
    snprintf(to->topic, sizeof to->topic, "%s", from->topic);
    snprintf(to->body, sizeof to->body, "%.*s", from->payloadlen, (char *)from->payload);
    to->qos = from->qos;
    to->retained = from->retain;
    mosquitto_property_read_int32(properties, MQTT_PROP_MESSAGE_EXPIRY_INTERVAL,
                                  &to->expiry_seconds, false);
    mosquitto_property_read_varint(properties, MQTT_PROP_SUBSCRIPTION_IDENTIFIER,
                                   &to->subscription_id, false);
    text_of(properties, MQTT_PROP_RESPONSE_TOPIC, to->response_topic, sizeof to->response_topic);
    text_of(properties, MQTT_PROP_CONTENT_TYPE, to->content_type, sizeof to->content_type);
    correlation_of(properties, to);
    users_of(properties, to);
}

static mosquitto_property *properties_of(const struct message *message)
{
    mosquitto_property *to = NULL;
    char users[sizeof message->users];
    char *rest = users;
    if (message->expiry_seconds != 0)
        mosquitto_property_add_int32(&to, MQTT_PROP_MESSAGE_EXPIRY_INTERVAL,
                                     message->expiry_seconds);
    if (message->response_topic[0] != '\0')
        mosquitto_property_add_string(&to, MQTT_PROP_RESPONSE_TOPIC, message->response_topic);
    if (message->content_type[0] != '\0')
        mosquitto_property_add_string(&to, MQTT_PROP_CONTENT_TYPE, message->content_type);
    if (message->correlation[0] != '\0')
        mosquitto_property_add_binary(&to, MQTT_PROP_CORRELATION_DATA, message->correlation,
                                      (uint16_t)strlen(message->correlation));
    snprintf(users, sizeof users, "%s", message->users);
    for (char *pair; (pair = strsep(&rest, ";")) != NULL && pair[0] != '\0';) {
        char *name = strsep(&pair, "=");
        mosquitto_property_add_string_pair(&to, MQTT_PROP_USER_PROPERTY, name, pair);
    }
    return to;
}

struct client *client_new(const struct options *options)
{
    struct client *client = calloc(1, sizeof *client);
    client->options = *options;
    client->messages = calloc(MESSAGES_MAX, sizeof *client->messages);
    bool clean = options->clean;
    client->mosquitto = mosquitto_new(options->id, clean, client);
    struct mosquitto *mosquitto = client->mosquitto;
    mosquitto_int_option(mosquitto, MOSQ_OPT_PROTOCOL_VERSION, options->version);
    if (options->receive_max != 0)
        mosquitto_int_option(mosquitto, MOSQ_OPT_RECEIVE_MAXIMUM, options->receive_max);
    mosquitto_connect_v5_callback_set(mosquitto, on_connect);
    mosquitto_disconnect_v5_callback_set(mosquitto, on_disconnect);
    mosquitto_subscribe_callback_set(mosquitto, on_subscribe);
    mosquitto_unsubscribe_callback_set(mosquitto, on_unsubscribe);
    mosquitto_publish_v5_callback_set(mosquitto, on_publish);
    mosquitto_message_v5_callback_set(mosquitto, on_message);
    if (options->will != NULL) {
        const struct message *message = &options->will->message;
        mosquitto_property *properties = properties_of(message);
        if (options->will->delay_seconds != 0)
            mosquitto_property_add_int32(&properties, MQTT_PROP_WILL_DELAY_INTERVAL,
                                         options->will->delay_seconds);
        if (mosquitto_will_set_v5(mosquitto, message->topic, (int)strlen(message->body),
                                  message->body, message->qos, message->retained,
                                  properties) != MOSQ_ERR_SUCCESS)
            die("will");
    }
    return client;
}

static void connect_once(struct client *client)
{
    mosquitto_property *properties = NULL;
    if (client->options.session_seconds != 0)
        mosquitto_property_add_int32(&properties, MQTT_PROP_SESSION_EXPIRY_INTERVAL,
                                     client->options.session_seconds);
    if (client->options.packet_max != 0)
        mosquitto_property_add_int32(&properties, MQTT_PROP_MAXIMUM_PACKET_SIZE,
                                     client->options.packet_max);
    if (mosquitto_connect_bind_v5(client->mosquitto, "127.0.0.1", client->options.port, 30, NULL,
                                  properties) != MOSQ_ERR_SUCCESS)
        die("connect");
    mosquitto_property_free_all(&properties);
    int64_t end = clock_ms() + WAIT_MS;
    while (!client->connected && clock_ms() < end &&
           mosquitto_loop(client->mosquitto, 50, 1) == MOSQ_ERR_SUCCESS)
        continue;
}

static void work(struct client *client, int ms)
{
    if (mosquitto_loop(client->mosquitto, ms, 1) == MOSQ_ERR_SUCCESS)
        return;
    client->connected = false;
    if (client->options.clean)
        die("the connection was lost");
    int64_t end = clock_ms() + WAIT_MS;
    while (!client->connected && clock_ms() < end)
        connect_once(client);
    if (!client->connected)
        die("no connection any more");
}

int client_connect(struct client *client)
{
    connect_once(client);
    if (!client->connected)
        die("no CONNACK");
    return client->present;
}

void client_disconnect(struct client *client)
{
    int64_t end = clock_ms() + WAIT_MS;
    mosquitto_disconnect(client->mosquitto);
    while (client->connected && clock_ms() < end)
        mosquitto_loop(client->mosquitto, 50, 1);
}

int client_farewell(struct client *client, char reference[64])
{
    int64_t end = clock_ms() + WAIT_MS;
    while (client->connected && clock_ms() < end)
        mosquitto_loop(client->mosquitto, 50, 1);
    if (client->connected)
        die("the connection goes on");
    snprintf(reference, sizeof client->reference, "%s", client->reference);
    return client->farewell >= 0x80 ? client->farewell : -1;
}

void client_free(struct client *client)
{
    if (client->connected)
        client_disconnect(client);
    mosquitto_destroy(client->mosquitto);
    free(client->messages);
    free(client);
}

static void wait_answer(struct client *client, const char *what)
{
    int64_t end = clock_ms() + WAIT_MS;
    while (!client->answered && clock_ms() < end)
        work(client, 50);
    if (!client->answered)
        die("no answer to %s", what);
}

int client_subscribe(struct client *client, const char *filter, int qos, uint32_t id)
{
    mosquitto_property *properties = NULL;
    if (id != 0)
        mosquitto_property_add_varint(&properties, MQTT_PROP_SUBSCRIPTION_IDENTIFIER, id);
    client->answered = false;
    if (mosquitto_subscribe_v5(client->mosquitto, NULL, filter, qos, 0, properties) !=
        MOSQ_ERR_SUCCESS)
        die("subscribe");
    mosquitto_property_free_all(&properties);
    wait_answer(client, "SUBSCRIBE");
    return client->suback;
}

int client_unsubscribe(struct client *client, const char *filter)
{
    client->answered = false;
    if (mosquitto_unsubscribe(client->mosquitto, NULL, filter) != MOSQ_ERR_SUCCESS)
        die("unsubscribe");
    wait_answer(client, "UNSUBSCRIBE");
    return 0;
}

void client_publish(struct client *client, const struct message *message)
{
    mosquitto_property *properties = properties_of(message);
    if (!client->options.clean)
        work(client, 0); /* so that it knows whether it is connected */
    client->pending++;
    if (mosquitto_publish_v5(client->mosquitto, NULL, message->topic, (int)strlen(message->body),
                             message->body, message->qos, message->retained,
                             properties) != MOSQ_ERR_SUCCESS)
        die("publish");
    mosquitto_property_free_all(&properties);
}

int client_settle(struct client *client)
{
    int64_t end = clock_ms() + WAIT_MS;
    while (client->pending > 0 && clock_ms() < end)
        work(client, 50);
    if (client->pending > 0)
        die("%d publishes are not answered", client->pending);
    int worst = client->reason;
    client->reason = 0;
    return worst;
}

bool client_next(struct client *client, struct message *message, int ms)
{
    int64_t end = clock_ms() + ms;
    while (client->count == 0 && clock_ms() < end)
        work(client, 10);
    if (client->count == 0)
        return false;
    *message = client->messages[client->first++];
    client->count--;
    return true;
}
