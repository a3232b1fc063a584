/* SPDX-License-Identifier: Apache-2.0 */
/* SASL by a plugin of our own: Proton's Debian build brings no mechanism that asks for a password.
 * The plugin header is marked internal, so nothing else includes it. */
#include "adapters/amqp/sasl.h"

#include <proton/sasl.h>
#include <proton/sasl_plugin.h>

#include "adapters/amqp/connection.h"
#include "adapters/amqp/events.h"
#include "core/base/heap.h"
#include "core/broker/scram.h"

struct amqp_login {
    struct broker_login login;
    struct amqp_connection *connection;
    bool by_sasl;
    char *user, *password;
};

/* An exchange of several messages; Proton borrows what it is to send until it has. */
struct amqp_exchange {
    struct scram scram;
    struct buf answer;
    bool proven; /* the server's own proof is out; the client's empty answer ends it */
};

static struct amqp_connection *connection_of(pn_transport_t *transport)
{
    return pnx_sasl_get_context(transport);
}

static void login_free(struct amqp_login *login)
{
    if (login->password != NULL)
        explicit_bzero(login->password, login->login.password.size);
    heap_free(login->password);
    heap_free(login->user);
    heap_free(login);
}

static void finish(pn_transport_t *transport, enum status status)
{
    struct amqp_connection *connection = connection_of(transport);
    connection->turned_away = status != STATUS_OK;
    if (status == STATUS_OK)
        pnx_sasl_set_succeeded(transport, connection->user, NULL);
    else if (status == STATUS_BUSY)
        pn_sasl_done(pn_sasl(transport), PN_SASL_TEMP); /* another time */
    else
        pnx_sasl_set_failed(transport);
    pnx_sasl_set_bytes_out(transport, pn_bytes(0, NULL)); /* else the last challenge once more */
    pnx_sasl_set_desired_state(transport, SASL_POSTED_OUTCOME);
}

static void logged_in(struct request *request, enum status status)
{
    struct amqp_login *login = container_of(request, struct amqp_login, login.request);
    struct amqp_connection *connection = login->connection;
    connection->login = NULL;
    if (connection->state != AMQP_DOWN) {
        if (status == STATUS_OK && login->by_sasl) {
            heap_free(connection->user);
            connection->user = login->user;
            login->user = NULL;
        }
        if (login->by_sasl)
            finish(connection->driver.transport, status);
        amqp_logged_in(connection, status);
    }
    login_free(login);
    connection_release(connection);
}

static void start(struct amqp_login *login)
{
    struct amqp_connection *connection = login->connection;
    login->login.client = &connection->client;
    request_init(&login->login.request, amqp_loop(connection), logged_in);
    connection->login = login;
    stream_pause(connection->stream);
    connection_hold(connection);
    broker_login(&login->login);
}

/* user and password are copied; password may be empty. */
static void begin(struct amqp_connection *connection, bool by_sasl, struct span user,
                  struct span password, const char *subject)
{
    struct amqp_login *login = heap_new(sizeof *login);
    login->connection = connection;
    login->by_sasl = by_sasl;
    const char *name = user.size > 0 ? (const char *)user.data : subject == NULL ? "" : subject;
    login->user = heap_text(name, user.size > 0 ? user.size : strlen(name));
    login->password =
        heap_text(password.size > 0 ? (const char *)password.data : "", password.size);
    login->login = (struct broker_login){
        .user = span_of(login->user, user.size),
        .password = span_of(login->password, password.size),
        .certificate_subject = subject,
    };
    start(login);
}

/* Without SASL there is no name: only a gateway without users takes that. */
void amqp_login_anonymous(struct amqp_connection *connection)
{
    begin(connection, false, span_of(NULL, 0), span_of(NULL, 0), NULL);
}

/* ------------------------------------------------ mechanisms */

static bool is_protected(const struct amqp_connection *connection)
{
    return catalog_is_protected(broker_catalog(connection->client.worker));
}

static const char *list_mechanisms(pn_transport_t *transport)
{
    struct amqp_connection *connection = connection_of(transport);
    /* Clients that have a password too take it before all others, and try nothing else. */
    bool certificate =
        client_may_be(&connection->client, stream_certificate_subject(connection->stream));
    if (is_protected(connection))
        return certificate ? "EXTERNAL PLAIN ANONYMOUS" : "PLAIN ANONYMOUS";
    bool anonymous = amqp_settings.anonymous != NULL;
    if (certificate)
        return anonymous ? "EXTERNAL SCRAM-SHA-256 PLAIN ANONYMOUS"
                         : "EXTERNAL SCRAM-SHA-256 PLAIN";
    return anonymous ? "SCRAM-SHA-256 PLAIN ANONYMOUS" : "SCRAM-SHA-256 PLAIN";
}

/* authzid NUL authcid NUL password (RFC 4616); to act as somebody else is not offered. */
static bool split_plain(struct span message, struct span *user, struct span *password)
{
    const uint8_t *first = message.size == 0 ? NULL : memchr(message.data, 0, message.size);
    if (first == NULL)
        return false;
    size_t authzid = (size_t)(first - message.data);
    struct span rest = span_of(first + 1, message.size - authzid - 1);
    const uint8_t *second = rest.size == 0 ? NULL : memchr(rest.data, 0, rest.size);
    if (second == NULL)
        return false;
    *user = span_of(rest.data, (size_t)(second - rest.data));
    *password = span_of(second + 1, rest.size - user->size - 1);
    return user->size > 0 && (authzid == 0 || (authzid == user->size &&
                                               memcmp(message.data, user->data, authzid) == 0));
}

static void refuse(pn_transport_t *transport)
{
    amqp_count_refusal(STATUS_UNAUTHENTICATED);
    finish(transport, STATUS_UNAUTHENTICATED);
}

/* ------------------------------------------------ SCRAM */

void amqp_exchange_free(struct amqp_connection *connection)
{
    struct amqp_exchange *exchange = connection->exchange;
    if (exchange == NULL)
        return;
    scram_deinit(&exchange->scram);
    buf_deinit(&exchange->answer);
    heap_free(exchange);
    connection->exchange = NULL;
}

static void challenge(struct amqp_connection *connection, enum status status)
{
    pn_transport_t *transport = connection->driver.transport;
    struct amqp_exchange *exchange = connection->exchange;
    if (status != STATUS_OK) {
        refuse(transport);
        return;
    }
    pnx_sasl_set_bytes_out(transport,
                           pn_bytes(exchange->answer.size, (const char *)exchange->answer.data));
    pnx_sasl_set_desired_state(transport, SASL_POSTED_CHALLENGE);
}

static void scram_begin(struct amqp_connection *connection, struct span message)
{
    struct amqp_exchange *exchange = connection->exchange = heap_new(sizeof *exchange);
    scram_init(&exchange->scram);
    buf_init(&exchange->answer, 4 * SCRAM_MESSAGE_MAX);
    challenge(connection,
              scram_first(&exchange->scram, &connection->client, message, &exchange->answer));
}

static void scram_end(struct amqp_connection *connection)
{
    struct principal *principal = connection->exchange->scram.principal;
    struct amqp_login *login = heap_new(sizeof *login);
    login->connection = connection;
    login->by_sasl = true;
    login->user = heap_text(principal->name, strlen(principal->name));
    login->login.proven = principal; /* the exchange lives as long as the connection */
    start(login);
}

static void process_response(pn_transport_t *transport, const pn_bytes_t *bytes)
{
    struct amqp_connection *connection = connection_of(transport);
    struct amqp_exchange *exchange = connection->exchange;
    if (exchange == NULL || connection->login != NULL || connection->logged_in) {
        refuse(transport);
    } else if (exchange->proven) {
        scram_end(connection);
    } else {
        buf_clear(&exchange->answer);
        enum status status =
            scram_final(&exchange->scram, span_of(bytes->start, bytes->size), &exchange->answer);
        exchange->proven = status == STATUS_OK;
        challenge(connection, status);
    }
}

static void process_init(pn_transport_t *transport, const char *mechanism, const pn_bytes_t *bytes)
{
    struct amqp_connection *connection = connection_of(transport);
    struct span message = span_of(bytes->start, bytes->size), user, password;
    struct span none = span_of(NULL, 0);
    const char *subject = stream_certificate_subject(connection->stream);
    if (connection->excess) {
        finish(transport, STATUS_BUSY);
    } else if (connection->login != NULL || connection->exchange != NULL || connection->logged_in) {
        /* A second one. */
        refuse(transport);
    } else if (strcmp(mechanism, "PLAIN") == 0) {
        if (split_plain(message, &user, &password))
            begin(connection, true, user, password, NULL);
        else
            refuse(transport);
    } else if (strcmp(mechanism, "SCRAM-SHA-256") == 0 && !is_protected(connection)) {
        scram_begin(connection, message);
    } else if (strcmp(mechanism, "EXTERNAL") == 0 && subject != NULL) {
        begin(connection, true, none, none, subject);
    } else if (strcmp(mechanism, "ANONYMOUS") == 0 &&
               (is_protected(connection) || amqp_settings.anonymous != NULL)) {
        begin(connection, true, none, none, amqp_settings.anonymous);
    } else {
        refuse(transport);
    }
}

/* ------------------------------------------------ what a server does not do, and Proton asks for
 */

static void plugin_free(pn_transport_t *transport)
{
    (void)transport; /* the connection's */
}

static bool init_server(pn_transport_t *transport)
{
    pnx_sasl_set_desired_state(transport, SASL_POSTED_MECHANISMS);
    return true;
}

static bool init_client(pn_transport_t *transport)
{
    (void)transport;
    return false;
}

static void prepare_write(pn_transport_t *transport)
{
    (void)transport;
}

static bool process_mechanisms(pn_transport_t *transport, const char *mechanisms)
{
    (void)transport;
    (void)mechanisms;
    return false;
}

static void process_challenge(pn_transport_t *transport, const pn_bytes_t *bytes)
{
    (void)transport;
    (void)bytes;
}

static bool can_encrypt(pn_transport_t *transport)
{
    (void)transport;
    return false;
}

static ssize_t max_encrypt_size(pn_transport_t *transport)
{
    (void)transport;
    return 0;
}

static ssize_t code(pn_transport_t *transport, pn_bytes_t in, pn_bytes_t *out)
{
    (void)transport;
    (void)in;
    (void)out;
    return 0;
}

static const pnx_sasl_implementation plugin = {
    .free = plugin_free,
    .list_mechanisms = list_mechanisms,
    .init_server = init_server,
    .init_client = init_client,
    .prepare_write = prepare_write,
    .process_init = process_init,
    .process_response = process_response,
    .process_mechanisms = process_mechanisms,
    .process_challenge = process_challenge,
    .process_outcome = process_challenge,
    .can_encrypt = can_encrypt,
    .max_encrypt_size = max_encrypt_size,
    .encode = code,
    .decode = code,
};

void amqp_sasl_init(struct amqp_connection *connection)
{
    pn_transport_t *transport = connection->driver.transport;
    pn_sasl_t *sasl = pn_sasl(transport);
    pn_sasl_set_allow_insecure_mechs(sasl, true);
    pnx_sasl_set_implementation(transport, &plugin, connection);
    pn_transport_require_auth(transport, !is_protected(connection));
}
