/* SPDX-License-Identifier: Apache-2.0 */
/* The gateway: the one file that names every adapter and every engine, and the order in which they
 * start and stop. */
#include <errno.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "adapters/amqp/amqp.h"
#include "adapters/http/http.h"
#include "adapters/http/websocket.h"
#include "adapters/mqtt/mqtt.h"
#include "adapters/rest/rest.h"
#include "adapters/ws/ws.h"
#include "core/base/check.h"
#include "core/net/listener.h"
#include "core/net/tls.h"
#include "gateway/arguments.h"
#include "gateway/config.h"
#include "gateway/crew.h"
#include "gateway/notify.h"
#include "gateway/port.h"
#include "gateway/users.h"
#include "storage/memory/memory.h"
#include "storage/rocksdb/rocksdb.h"

enum { TRIM_BYTES = 256 * 1024 * 1024, MMAP_BYTES = 16 * 1024 * 1024 };
enum { EXIT_REFUSED = 1, STOP_SECONDS_MAX = 29 };

/* ------------------------------------------------ parts */

/* A kind of listener: every worker has one listener of each open door. */
struct door {
    const char *name; /* in the ready line */
    void (*accepted)(void *place, int socket);
    int64_t wanted_port;
    uint16_t port; /* the real one, after the first worker has it */
};

enum { DOOR_MQTT, DOOR_MQTT_TLS, DOOR_AMQP, DOOR_AMQP_TLS, DOOR_HTTP, DOOR_HTTP_TLS, DOORS };

/* What one worker has of the gateway. */
struct place {
    struct gateway *gateway;
    struct broker_worker *worker;
    struct http *http;
    struct rest *rest;
    struct listener *listeners[DOORS];
};

struct gateway {
    struct config config;
    struct crew crew;
    struct storage *storage;
    struct broker *broker;
    struct tls_context *tls;
    struct door doors[DOORS];
    struct place places[LIMIT_WORKERS];
    struct errand ready;  /* may outlive the wait for it */
    bool serves_loopback; /* nobody else can reach a listener */
};

static const struct storage_ops *const engines[] = {
    [ENGINE_ROCKSDB] = &rocksdb_storage_ops,
    [ENGINE_MEMORY] = &memory_storage_ops,
};

/* By subprotocol; any of them runs on /ws, /mqtt and /amqp. */
static const struct websocket_protocol websocket_protocols[] = {
    {.name = "mqtt", .adapter = &mqtt_adapter},
    {.name = "mqttv3.1", .adapter = &mqtt_adapter},
    {.name = "polylog.v1", .adapter = &ws_adapter, .messages = true},
    {.name = "amqp", .adapter = &amqp_adapter},
};

/* ------------------------------------------------ connections */

/* CLOSED: the socket is. The last user may be deleted while the gateway listens to the world: then
 * nobody gets in. */
static enum entry enter(const struct place *place, const char *protocol, int socket)
{
    enum entry entry = ENTRY_CLOSED;
    char peer[STREAM_PEER_BYTES];
    if (place->gateway->serves_loopback || !catalog_is_protected(broker_catalog(place->worker))) {
        stream_name_peer(socket, peer);
        entry = broker_may_connect(place->worker, protocol, peer);
    }
    if (entry == ENTRY_CLOSED)
        close(socket);
    return entry;
}

static void open_connection(const struct place *place, const struct adapter *adapter, int socket,
                            struct tls_context *tls)
{
    enum entry entry = enter(place, adapter->name, socket);
    if (entry != ENTRY_CLOSED)
        connection_open(adapter, place->worker, socket, tls, entry);
}

static void mqtt_accepted(void *context, int socket)
{
    open_connection(context, &mqtt_adapter, socket, NULL);
}

static void mqtt_tls_accepted(void *context, int socket)
{
    struct place *place = context;
    open_connection(place, &mqtt_adapter, socket, place->gateway->tls);
}

static void amqp_accepted(void *context, int socket)
{
    open_connection(context, &amqp_adapter, socket, NULL);
}

static void amqp_tls_accepted(void *context, int socket)
{
    struct place *place = context;
    open_connection(place, &amqp_adapter, socket, place->gateway->tls);
}

static void open_http(const struct place *place, int socket, bool tls)
{
    enum entry entry = enter(place, "http", socket);
    if (entry != ENTRY_CLOSED)
        http_accept(place->http, socket, tls, entry);
}

static void http_accepted(void *context, int socket)
{
    open_http(context, socket, false);
}

static void http_tls_accepted(void *context, int socket)
{
    open_http(context, socket, true);
}

static void doors_init(struct gateway *gateway)
{
    const struct config *config = &gateway->config;
    gateway->doors[DOOR_MQTT] =
        (struct door){"mqtt", mqtt_accepted, .wanted_port = config->mqtt_port};
    gateway->doors[DOOR_MQTT_TLS] =
        (struct door){"mqtts", mqtt_tls_accepted, .wanted_port = config->mqtt_tls_port};
    gateway->doors[DOOR_AMQP] =
        (struct door){"amqp", amqp_accepted, .wanted_port = config->amqp_port};
    gateway->doors[DOOR_AMQP_TLS] =
        (struct door){"amqps", amqp_tls_accepted, .wanted_port = config->amqp_tls_port};
    gateway->doors[DOOR_HTTP] =
        (struct door){"http", http_accepted, .wanted_port = config->http_port};
    gateway->doors[DOOR_HTTP_TLS] =
        (struct door){"https", http_tls_accepted, .wanted_port = config->http_tls_port};
}

/* ------------------------------------------------ start */

static struct place *place_of(struct gateway *gateway, const struct errand *errand)
{
    for (unsigned i = 0; i < gateway->crew.count; i++)
        if (gateway->crew.loops[i] == errand->loop)
            return &gateway->places[i];
    return NULL;
}

static struct gateway *gateway_of(const struct errand *errand)
{
    return container_of(errand->crew, struct gateway, crew);
}

static void raise_descriptor_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur == limit.rlim_max)
        return;
    limit.rlim_cur = limit.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &limit) != 0)
        trace(TRACE_WARN, "the limit of open files stays as it is: %s", strerror(errno));
}

/* One core is left to the store's threads and the kernel: measured on two cores, a second worker
 * costs 10 to 30 percent more CPU per message and brings no more throughput (docs/architecture.md).
 */
static unsigned worker_count(const struct config *config)
{
    long count = config->workers > 0 ? (long)config->workers : sysconf(_SC_NPROCESSORS_ONLN) - 1;
    return count < 1 ? 1 : count > LIMIT_WORKERS ? LIMIT_WORKERS : (unsigned)count;
}

static enum status open_store(struct gateway *gateway, struct err *err)
{
    const struct config *config = &gateway->config;
    struct storage_options options = {
        .directory = config->data,
        .min_free_bytes = (uint64_t)config->min_free_bytes,
    };
    return engines[config->engine]->open(&options, &gateway->storage, err);
}

static enum status open_broker(struct gateway *gateway, struct err *err)
{
    struct broker_options options = {
        .storage = gateway->storage,
        .workers = gateway->crew.count,
        .loops = gateway->crew.loops,
        .built_in_queue = "mqtt",
        .retention_hours = (uint32_t)gateway->config.retention_hours,
        .retention_bytes = (uint64_t)gateway->config.retention_bytes,
        .subscription_limit = (uint32_t)gateway->config.limit_subscriptions,
        .dedup_key_limit = (uint32_t)gateway->config.limit_dedup_ids,
        .producer_limit = (uint32_t)gateway->config.limit_producers,
        .publish_rate = (uint32_t)gateway->config.limit_publish_rate,
        .topic_levels = (uint32_t)gateway->config.limit_topic_levels,
        .resume_rate = (uint32_t)gateway->config.limit_resume_rate,
        .session_records = (uint32_t)gateway->config.limit_session_records,
        .session_bytes = (uint64_t)gateway->config.limit_session_bytes,
        .session_expiry_s = (uint32_t)gateway->config.limit_session_expiry,
        .transaction_ms = (uint32_t)gateway->config.limit_transaction_expiry * 1000,
        .reserved_topics = "$SYS/broker/",
        .reserved_except = "$SYS/broker/connection/+/state", /* where Mosquitto's bridges tell */
        .connection_rate = (uint32_t)gateway->config.limit_connection_rate,
        .address_rate = (uint32_t)gateway->config.limit_address_rate,
    };
    gateway->broker = broker_open(&options, err);
    return gateway->broker == NULL ? STATUS_INVALID : STATUS_OK;
}

static enum status open_tls(struct gateway *gateway, struct err *err)
{
    const struct config *config = &gateway->config;
    if (config->tls_certificate == NULL)
        return STATUS_OK;
    gateway->tls = tls_context_open(config->tls_certificate, config->tls_key, config->tls_client_ca,
                                    config->tls_client_required != 0, err);
    return gateway->tls == NULL ? STATUS_INVALID : STATUS_OK;
}

static void configure_mqtt(const struct config *config)
{
    mqtt_configure(&(struct mqtt_options){
        .max_packet = (uint32_t)config->mqtt_max_packet,
        .receive_max = (uint16_t)config->mqtt_receive_max,
        .topic_alias_max = (uint16_t)config->mqtt_topic_alias_max,
        .keep_alive_max = (uint16_t)config->mqtt_keep_alive_max,
        .inflight_max = (uint16_t)config->mqtt_inflight_max,
        .server_reference = config->mqtt_server_reference,
    });
}

static void configure_amqp(const struct config *config)
{
    amqp_configure(&(struct amqp_options){
        .auto_create = config->amqp_auto_create != 0,
        .anonymous = config->amqp_anonymous,
        .server_reference = config->amqp_server_reference,
    });
}

static void open_places(struct gateway *gateway)
{
    struct http_options options = {
        .tls = gateway->tls,
        .origins = gateway->config.http_origins,
        .ping_s = (uint32_t)gateway->config.http_ping_interval,
    };
    for (unsigned i = 0; i < gateway->crew.count; i++) {
        struct place *place = &gateway->places[i];
        place->gateway = gateway;
        place->worker = broker_worker(gateway->broker, i);
        place->http = http_open(place->worker, &options);
        http_serve_websockets(place->http, websocket_protocols,
                              sizeof websocket_protocols / sizeof *websocket_protocols);
        events_serve(place->http, place->worker);
        if (gateway->config.http_echo)
            http_serve_echo(place->http);
        place->rest = rest_open(place->http, gateway->broker, place->worker);
    }
}

static void wait_until_ready(struct errand *errand)
{
    broker_when_ready(gateway_of(errand)->broker, &errand->request);
}

/* Without a user everybody may do everything, so only this machine is served. */
static void check_protection(struct errand *errand)
{
    struct gateway *gateway = gateway_of(errand);
    gateway->serves_loopback = config_listens_on_loopback(&gateway->config);
    bool safe = gateway->serves_loopback ||
                !catalog_is_protected(broker_catalog(place_of(gateway, errand)->worker));
    errand_end(errand,
               safe ? STATUS_OK
                    : err_set(&errand->err, STATUS_DENIED,
                              "listen is %s, but there is no user yet, and without one only "
                              "loopback is served. Make the first user (echo PASSWORD | polylog "
                              "user add NAME --data %s), or set listen to 127.0.0.1",
                              gateway->config.listen, gateway->config.data));
}

/* On each worker in turn: the first may pick a port, the others use the same one. */
static void open_listeners(struct errand *errand)
{
    struct gateway *gateway = gateway_of(errand);
    struct place *place = place_of(gateway, errand);
    for (unsigned i = 0; i < DOORS; i++) {
        struct door *door = &gateway->doors[i];
        if (door->wanted_port < 0)
            continue;
        uint16_t port = door->port != 0 ? door->port : (uint16_t)door->wanted_port;
        place->listeners[i] = listener_open(errand->loop, gateway->config.listen, &port,
                                            door->accepted, place, &errand->err);
        if (place->listeners[i] == NULL) {
            errand_end(errand, STATUS_INVALID);
            return;
        }
        door->port = port;
    }
    errand_end(errand, STATUS_OK);
}

static enum status do_on(struct gateway *gateway, unsigned worker, void (*run)(struct errand *),
                         struct err *err)
{
    struct errand errand;
    errand_init(&errand, &gateway->crew, worker, run);
    enum status status = errand_do(&errand, true);
    if (status != STATUS_OK)
        err_set(err, status, "%s",
                errand.err.text[0] != '\0' ? errand.err.text : status_text(status));
    return status;
}

static void say_ready(const struct gateway *gateway)
{
    const char *listen = gateway->config.listen;
    bool ip6 = strchr(listen, ':') != NULL;
    fputs("ready", stdout);
    for (unsigned i = 0; i < DOORS; i++)
        if (gateway->doors[i].wanted_port >= 0)
            printf(" %s=%s%s%s:%u", gateway->doors[i].name, ip6 ? "[" : "", listen, ip6 ? "]" : "",
                   gateway->doors[i].port);
    putchar('\n');
    fflush(stdout);
    notify("READY=1");
}

static enum status check_ports(const struct gateway *gateway, struct err *err)
{
    enum status status = STATUS_OK;
    for (unsigned i = 0; status == STATUS_OK && i < DOORS; i++)
        if (gateway->doors[i].wanted_port > 0)
            status = port_check_free(gateway->config.listen,
                                     (uint16_t)gateway->doors[i].wanted_port, err);
    return status;
}

static enum status serve(struct gateway *gateway, struct err *err)
{
    errand_init(&gateway->ready, &gateway->crew, 0, wait_until_ready);
    enum status status = errand_do(&gateway->ready, false);
    if (status != STATUS_OK)
        return err_set(err, status, "the store did not become ready: %s", status_text(status));
    const char *user_file = gateway->config.user_file;
    if (user_file != NULL)
        status = users_make_from_file(&gateway->crew, gateway->broker, user_file, err);
    if (status == STATUS_OK)
        status = do_on(gateway, 0, check_protection, err);
    doors_init(gateway);
    if (status == STATUS_OK)
        status = check_ports(gateway, err);
    for (unsigned i = 0; status == STATUS_OK && i < gateway->crew.count; i++)
        status = do_on(gateway, i, open_listeners, err);
    if (status == STATUS_OK)
        say_ready(gateway);
    return status;
}

static void gather_sends(struct gateway *gateway)
{
    for (unsigned i = 0; gateway->config.io_uring != 0 && i < gateway->crew.count; i++)
        worker_gather_sends(gateway->crew.workers[i]);
}

static enum status start(struct gateway *gateway, struct err *err)
{
    const struct config *config = &gateway->config;
    if (config->later != NULL)
        trace(TRACE_WARN, "set, but not there yet, and ignored: %s", config->later);
    raise_descriptor_limit();
    offload_open();
    enum status status = open_tls(gateway, err);
    if (status == STATUS_OK)
        status = open_store(gateway, err);
    if (status == STATUS_OK)
        status = open_broker(gateway, err);
    if (status != STATUS_OK)
        return status;
    configure_mqtt(config);
    configure_amqp(config);
    mqtt_announce_statistics(broker_worker(gateway->broker, 0),
                             (uint32_t)config->mqtt_sys_interval);
    open_places(gateway);
    gather_sends(gateway);
    crew_start(&gateway->crew);
    return serve(gateway, err);
}

/* ------------------------------------------------ stop */

static void too_late(int signal)
{
    static const char text[] = "polylogd: could not end in time; what was acknowledged is kept\n";
    (void)signal;
    ssize_t written = write(STDERR_FILENO, text, sizeof text - 1);
    (void)written;
    _exit(EXIT_REFUSED);
}

static void close_doors(struct errand *errand)
{
    struct place *place = place_of(gateway_of(errand), errand);
    for (unsigned i = 0; i < DOORS; i++) {
        listener_close(place->listeners[i]);
        place->listeners[i] = NULL;
    }
    http_shut_down(place->http);
    errand_end(errand, STATUS_OK);
}

static void shut_broker_down(struct errand *errand)
{
    broker_shut_down(gateway_of(errand)->broker, &errand->request);
}

static void close_http(struct errand *errand)
{
    http_close(place_of(gateway_of(errand), errand)->http, &errand->request);
}

static void stop_serving(struct gateway *gateway)
{
    struct crew *crew = &gateway->crew;
    for (unsigned i = 0; i < crew->count; i++)
        do_on(gateway, i, close_doors, NULL);
    do_on(gateway, 0, shut_broker_down, NULL);
    for (unsigned i = 0; i < crew->count; i++)
        do_on(gateway, i, close_http, NULL);
}

static void stop(struct gateway *gateway)
{
    notify("STOPPING=1");
    signal(SIGALRM, too_late);
    alarm(STOP_SECONDS_MAX);
    if (gateway->broker != NULL)
        stop_serving(gateway);
    crew_stop(&gateway->crew);
    for (unsigned i = 0; i < gateway->crew.count; i++)
        rest_free(gateway->places[i].rest);
    offload_close();
    if (gateway->storage != NULL)
        gateway->storage->ops->close(gateway->storage);
    broker_free(gateway->broker); /* after storage, which may still complete what is the log's */
    crew_close(&gateway->crew);
    tls_context_free(gateway->tls);
}

/* ------------------------------------------------ while it runs */

/* Certificates and the level of diagnostics; whatever fails stays as it was. */
static void reload(struct gateway *gateway, const struct arguments *arguments)
{
    struct config config;
    struct err err = {0};
    if (arguments_read(arguments, &config, &err) == STATUS_OK)
        trace_set_level((enum trace_level)config.log_level);
    else
        trace(TRACE_ERROR, "reload: %s", err.text);
    config_deinit(&config);
    if (gateway->tls == NULL)
        return;
    if (tls_context_reload(gateway->tls, &err) == STATUS_OK)
        trace(TRACE_INFO, "certificates are reloaded");
    else
        trace(TRACE_ERROR, "reload: %s", err.text);
}

static int run(const struct arguments *arguments, struct gateway *gateway)
{
    struct err err = {0};
    signal(SIGPIPE, SIG_IGN);
    enum status status = crew_open(&gateway->crew, worker_count(&gateway->config), true, &err);
    if (status == STATUS_OK)
        status = start(gateway, &err);
    while (status == STATUS_OK && !gateway->crew.stop_asked) {
        crew_wait_for_signal(&gateway->crew);
        if (gateway->crew.reload_asked)
            reload(gateway, arguments);
        gateway->crew.reload_asked = false;
    }
    bool asked = gateway->crew.stop_asked;
    if (status != STATUS_OK && !asked)
        fprintf(stderr, "polylogd: %s\n", err.text);
    stop(gateway);
    return asked ? EXIT_SUCCESS : EXIT_REFUSED;
}

static enum status check_config(struct gateway *gateway, struct err *err)
{
    enum status status = open_tls(gateway, err);
    tls_context_free(gateway->tls);
    if (status == STATUS_OK)
        puts("configuration is good");
    return status;
}

int main(int count, char **words)
{
    static struct gateway gateway;
    /* Buffers of a busy turn are needed again in the next: giving them back to the kernel each time
     * costs a few percent, and the caps on what is buffered bound them anyway. */
    mallopt(M_TRIM_THRESHOLD, TRIM_BYTES);
    mallopt(M_MMAP_THRESHOLD, MMAP_BYTES);
    struct arguments arguments;
    arguments_parse(&arguments, count, words);
    struct err err = {0};
    enum status status = arguments_read(&arguments, &gateway.config, &err);
    trace_set_level((enum trace_level)gateway.config.log_level);
    trace_set_json(gateway.config.log_format == LOG_JSON);
    int code = EXIT_SUCCESS;
    if (status == STATUS_OK && !arguments.check_only) {
        code = run(&arguments, &gateway);
    } else if (status != STATUS_OK || check_config(&gateway, &err) != STATUS_OK) {
        fprintf(stderr, "polylogd: %s\n", err.text);
        code = EXIT_REFUSED;
    }
    config_deinit(&gateway.config);
    arguments_deinit(&arguments);
    return code;
}
