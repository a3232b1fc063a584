/* SPDX-License-Identifier: Apache-2.0 */
/* foreign.h with Eclipse Paho's C client (MQTTClient, which has a thread of its own). */
#include "tests/e2e/foreign.h"

#include <MQTTClient.h>
#include <pthread.h>
#include <stdlib.h>
#include <stdio.h>
#include <string.h>

enum { MESSAGES_MAX = 4000, STEP_MS = 5 };

struct client {
    MQTTClient paho;
    struct options options;
    pthread_mutex_t lock; /* guards what follows */
    struct message *messages;
    int first, count, reason, farewell;
    char reference[64];
};

const char *client_library = "paho-c";
const bool client_takes_aliases = true;
const bool client_tells_servers = true;
const bool client_repeats = false;

/* LeakSanitizer asks. The library may lose track of what was under way when its connection broke,
 * though it was sent again and answered. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void)
{
    return "leak:libpaho-mqtt3c";
}

static void copy_text(const MQTTLenString *from, char *to, size_t size)
{
    snprintf(to, size, "%.*s", from->len, from->data);
}

static void properties_from(const MQTTProperties *from, struct message *to)
{
    for (int i = 0; i < from->count; i++) {
        const MQTTProperty *one = &from->array[i];
        size_t used = strlen(to->users);
        switch ((int)one->identifier) {
        case MQTTPROPERTY_CODE_MESSAGE_EXPIRY_INTERVAL:
            to->expiry_seconds = one->value.integer4;
            break;
        case MQTTPROPERTY_CODE_SUBSCRIPTION_IDENTIFIER:
            to->subscription_id = one->value.integer4;
            break;
        case MQTTPROPERTY_CODE_TOPIC_ALIAS:
            to->alias = one->value.integer2;
            break;
        case MQTTPROPERTY_CODE_RESPONSE_TOPIC:
            copy_text(&one->value.data, to->response_topic, sizeof to->response_topic);
            break;
        case MQTTPROPERTY_CODE_CORRELATION_DATA:
            copy_text(&one->value.data, to->correlation, sizeof to->correlation);
            break;
        case MQTTPROPERTY_CODE_CONTENT_TYPE:
            copy_text(&one->value.data, to->content_type, sizeof to->content_type);
            break;
        case MQTTPROPERTY_CODE_USER_PROPERTY:
            snprintf(to->users + used, sizeof to->users - used, "%.*s=%.*s;", one->value.data.len,
                     one->value.data.data, one->value.value.len, one->value.value.data);
            break;
        default:
            break;
        }
    }
}

static int on_message(void *context, char *topic, int topic_size, MQTTClient_message *from)
{
    struct client *client = context;
    pthread_mutex_lock(&client->lock);
    if (client->first + client->count == MESSAGES_MAX)
        die("too many messages");
    struct message *to = &client->messages[client->first + client->count++];
    memset(to, 0, sizeof *to);
    if (topic_size > 0)
        snprintf(to->topic, sizeof to->topic, "%.*s", topic_size, topic);
    else
        snprintf(to->topic, sizeof to->topic, "%s", topic);
    snprintf(to->body, sizeof to->body, "%.*s", from->payloadlen, (char *)from->payload);
    to->qos = from->qos;
    to->retained = from->retained != 0;
    properties_from(&from->properties, to);
    pthread_mutex_unlock(&client->lock);
    MQTTClient_freeMessage(&from);
    MQTTClient_free(topic);
    return 1;
}

/* Not called for what is answered while the connection is made again: settle asks the library. */
static void on_published(void *context, int token, int packet, MQTTProperties *properties,
                         enum MQTTReasonCodes reason)
{
    struct client *client = context;
    (void)token;
    (void)packet;
    (void)properties;
    pthread_mutex_lock(&client->lock);
    if ((int)reason > client->reason)
        client->reason = (int)reason;
    pthread_mutex_unlock(&client->lock);
}

static void on_lost(void *context, char *cause)
{
    (void)context;
    MQTTClient_free(cause);
}

static void on_farewell(void *context, MQTTProperties *properties, enum MQTTReasonCodes reason)
{
    struct client *client = context;
    MQTTProperty *named =
        MQTTProperties_getProperty(properties, MQTTPROPERTY_CODE_SERVER_REFERENCE);
    pthread_mutex_lock(&client->lock);
    client->farewell = (int)reason;
    if (named != NULL)
        copy_text(&named->value.data, client->reference, sizeof client->reference);
    pthread_mutex_unlock(&client->lock);
}

struct client *client_new(const struct options *options)
{
    struct client *client = calloc(1, sizeof *client);
    char address[64];
    client->options = *options;
    client->messages = calloc(MESSAGES_MAX, sizeof *client->messages);
    pthread_mutex_init(&client->lock, NULL);
    snprintf(address, sizeof address, "tcp://127.0.0.1:%d", options->port);
    MQTTClient_createOptions create = MQTTClient_createOptions_initializer;
    create.MQTTVersion = options->version;
    if (MQTTClient_createWithOptions(&client->paho, address, options->id,
                                     MQTTCLIENT_PERSISTENCE_NONE, NULL,
                                     &create) != MQTTCLIENT_SUCCESS)
        die("create");
    MQTTClient_setCallbacks(client->paho, client, on_lost, on_message, NULL);
    client->farewell = -1;
    if (options->version == 5) {
        MQTTClient_setPublished(client->paho, client, on_published);
        MQTTClient_setDisconnected(client->paho, client, on_farewell);
    }
    return client;
}

static void add_number(MQTTProperties *to, enum MQTTPropertyCodes name, uint32_t value)
{
    MQTTProperty property = {.identifier = name};
    if (value == 0)
        return;
    if (name == MQTTPROPERTY_CODE_TOPIC_ALIAS || name == MQTTPROPERTY_CODE_RECEIVE_MAXIMUM ||
        name == MQTTPROPERTY_CODE_TOPIC_ALIAS_MAXIMUM)
        property.value.integer2 = (uint16_t)value;
    else
        property.value.integer4 = value;
    MQTTProperties_add(to, &property);
}

static void add_text(MQTTProperties *to, enum MQTTPropertyCodes name, const char *text)
{
    MQTTProperty property = {.identifier = name};
    if (text[0] == '\0')
        return;
    property.value.data.len = (int)strlen(text);
    property.value.data.data = (char *)(uintptr_t)text;
    MQTTProperties_add(to, &property);
}

static MQTTProperties properties_of(const struct message *message)
{
    MQTTProperties to = MQTTProperties_initializer;
    char users[sizeof message->users];
    char *rest = users;
    add_number(&to, MQTTPROPERTY_CODE_MESSAGE_EXPIRY_INTERVAL, message->expiry_seconds);
    add_number(&to, MQTTPROPERTY_CODE_TOPIC_ALIAS, message->alias);
    add_text(&to, MQTTPROPERTY_CODE_RESPONSE_TOPIC, message->response_topic);
    add_text(&to, MQTTPROPERTY_CODE_CORRELATION_DATA, message->correlation);
    add_text(&to, MQTTPROPERTY_CODE_CONTENT_TYPE, message->content_type);
    snprintf(users, sizeof users, "%s", message->users);
    for (char *pair; (pair = strsep(&rest, ";")) != NULL && pair[0] != '\0';) {
        char *name = strsep(&pair, "=");
        MQTTProperty property = {.identifier = MQTTPROPERTY_CODE_USER_PROPERTY};
        property.value.data = (MQTTLenString){(int)strlen(name), name};
        property.value.value = (MQTTLenString){(int)strlen(pair), pair};
        MQTTProperties_add(&to, &property);
    }
    return to;
}

static MQTTResponse connect_with(struct client *client, MQTTClient_connectOptions *connect)
{
    const struct options *options = &client->options;
    if (options->version != 5) {
        MQTTResponse response = MQTTResponse_initializer;
        connect->cleansession = options->clean;
        response.reasonCode = (enum MQTTReasonCodes)MQTTClient_connect(client->paho, connect);
        return response;
    }
    MQTTProperties properties = MQTTProperties_initializer;
    MQTTProperties last = MQTTProperties_initializer;
    connect->cleanstart = options->clean;
    add_number(&properties, MQTTPROPERTY_CODE_SESSION_EXPIRY_INTERVAL, options->session_seconds);
    add_number(&properties, MQTTPROPERTY_CODE_RECEIVE_MAXIMUM, options->receive_max);
    add_number(&properties, MQTTPROPERTY_CODE_TOPIC_ALIAS_MAXIMUM, options->alias_max);
    add_number(&properties, MQTTPROPERTY_CODE_MAXIMUM_PACKET_SIZE, options->packet_max);
    if (options->will != NULL) {
        last = properties_of(&options->will->message);
        add_number(&last, MQTTPROPERTY_CODE_WILL_DELAY_INTERVAL, options->will->delay_seconds);
    }
    MQTTResponse response = MQTTClient_connect5(client->paho, connect, &properties,
                                                options->will != NULL ? &last : NULL);
    MQTTProperties_free(&properties);
    MQTTProperties_free(&last);
    return response;
}

static bool connect_once(struct client *client, int *present)
{
    const struct options *options = &client->options;
    MQTTClient_connectOptions connect = MQTTClient_connectOptions_initializer;
    MQTTClient_connectOptions connect5 = MQTTClient_connectOptions_initializer5;
    MQTTClient_willOptions will = MQTTClient_willOptions_initializer;
    if (options->version == 5)
        connect = connect5;
    connect.MQTTVersion = options->version;
    connect.keepAliveInterval = 30;
    connect.reliable = 0;
    connect.maxInflightMessages = 100;
    connect.connectTimeout = WAIT_MS / 1000;
    if (options->will != NULL) {
        will.topicName = options->will->message.topic;
        will.message = options->will->message.body;
        will.qos = options->will->message.qos;
        will.retained = options->will->message.retained;
        connect.will = &will;
    }
    MQTTResponse response = connect_with(client, &connect);
    bool accepted = (int)response.reasonCode == MQTTCLIENT_SUCCESS;
    *present = options->version == 5 ? -1 : connect.returned.sessionPresent;
    MQTTResponse_free(response);
    return accepted;
}

int client_connect(struct client *client)
{
    int present;
    if (!connect_once(client, &present))
        die("not connected");
    return present;
}

/* Connects again where the connection was lost. */
static void keep_up(struct client *client)
{
    int64_t end = clock_ms() + WAIT_MS;
    int present;
    while (!MQTTClient_isConnected(client->paho)) {
        if (client->options.clean)
            die("the connection was lost");
        if (clock_ms() > end)
            die("no connection any more");
        connect_once(client, &present);
    }
}

void client_disconnect(struct client *client)
{
    if (client->options.version == 5)
        MQTTClient_disconnect5(client->paho, 1000, MQTTREASONCODE_NORMAL_DISCONNECTION, NULL);
    else
        MQTTClient_disconnect(client->paho, 1000);
}

int client_farewell(struct client *client, char reference[64])
{
    int64_t end = clock_ms() + WAIT_MS;
    while (MQTTClient_isConnected(client->paho) && clock_ms() < end)
        pause_ms(STEP_MS);
    if (MQTTClient_isConnected(client->paho))
        die("the connection goes on");
    pause_ms(100); /* the library tells what it was from a thread of its own */
    pthread_mutex_lock(&client->lock);
    snprintf(reference, sizeof client->reference, "%s", client->reference);
    int reason = client->farewell;
    pthread_mutex_unlock(&client->lock);
    return reason;
}

void client_free(struct client *client)
{
    if (MQTTClient_isConnected(client->paho))
        client_disconnect(client);
    MQTTClient_destroy(&client->paho);
    pthread_mutex_destroy(&client->lock);
    free(client->messages);
    free(client);
}

int client_subscribe(struct client *client, const char *filter, int qos, uint32_t id)
{
    if (client->options.version != 5)
        return MQTTClient_subscribe(client->paho, filter, qos) == MQTTCLIENT_SUCCESS ? qos : 0x80;
    MQTTProperties properties = MQTTProperties_initializer;
    add_number(&properties, MQTTPROPERTY_CODE_SUBSCRIPTION_IDENTIFIER, id);
    MQTTResponse response = MQTTClient_subscribe5(client->paho, filter, qos, NULL, &properties);
    int reason = (int)response.reasonCode;
    MQTTProperties_free(&properties);
    MQTTResponse_free(response);
    return reason;
}

int client_unsubscribe(struct client *client, const char *filter)
{
    if (client->options.version != 5)
        return MQTTClient_unsubscribe(client->paho, filter);
    MQTTResponse response = MQTTClient_unsubscribe5(client->paho, filter, NULL);
    int reason = (int)response.reasonCode;
    MQTTResponse_free(response);
    return reason;
}

void client_publish(struct client *client, const struct message *message)
{
    MQTTClient_message paho = MQTTClient_message_initializer;
    MQTTClient_deliveryToken token;
    int code;
    paho.payload = (char *)(uintptr_t)message->body;
    paho.payloadlen = (int)strlen(message->body);
    paho.qos = message->qos;
    paho.retained = message->retained;
    paho.properties = properties_of(message);
    /* Without a connection, and when it loses the one on which it waits for its turn to send, the
     * library has not taken the message. */
    do {
        keep_up(client);
        if (client->options.version == 5) {
            MQTTResponse response =
                MQTTClient_publishMessage5(client->paho, message->topic, &paho, &token);
            code = (int)response.reasonCode;
            MQTTResponse_free(response);
        } else {
            code = MQTTClient_publishMessage(client->paho, message->topic, &paho, &token);
        }
    } while (code == MQTTCLIENT_DISCONNECTED || (code == MQTTCLIENT_FAILURE && message->qos > 0));
    if (code != MQTTCLIENT_SUCCESS)
        die("publish: %d", code);
    MQTTProperties_free(&paho.properties);
}

static bool is_pending(struct client *client)
{
    MQTTClient_deliveryToken *tokens = NULL;
    if (MQTTClient_getPendingDeliveryTokens(client->paho, &tokens) != MQTTCLIENT_SUCCESS)
        die("no tokens");
    bool pending = tokens != NULL && tokens[0] != -1;
    MQTTClient_free(tokens);
    return pending;
}

int client_settle(struct client *client)
{
    int64_t end = clock_ms() + WAIT_MS;
    while (is_pending(client) && clock_ms() < end) {
        keep_up(client);
        pause_ms(STEP_MS);
    }
    if (is_pending(client))
        die("publishes are not answered");
    pthread_mutex_lock(&client->lock);
    int worst = client->reason;
    client->reason = 0;
    pthread_mutex_unlock(&client->lock);
    return worst;
}

static bool take(struct client *client, struct message *message)
{
    pthread_mutex_lock(&client->lock);
    bool found = client->count > 0;
    if (found) {
        *message = client->messages[client->first++];
        client->count--;
    }
    pthread_mutex_unlock(&client->lock);
    return found;
}

bool client_next(struct client *client, struct message *message, int ms)
{
    int64_t end = clock_ms() + ms;
    while (!take(client, message)) {
        if (clock_ms() > end)
            return false;
        keep_up(client);
        pause_ms(STEP_MS);
    }
    return true;
}
