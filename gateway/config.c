/* SPDX-License-Identifier: Apache-2.0 */
/* One table says everything about a key. libconfuse splits a file into keys and values; what a
 * value means is decided here, for the file and for --set by the same code. */
#include "gateway/config.h"

#include <confuse.h>
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/check.h"
#include "core/base/heap.h"
#include "core/base/limits.h"

enum { FILE_MAX = 1024 * 1024 };

enum kind { TEXT, NUMBER, BYTES, PORT, CHOICE, LATER };

struct key {
    const char *name;
    enum kind kind;
    size_t offset; /* of the char * or int64_t in struct config */
    const char *initial;
    int64_t lowest, highest;
    const char *const *choices; /* by number, closed by NULL */
    const char *text;
};

static const char *const levels[] = {"debug", "info", "warn", "error", NULL};
static const char *const formats[] = {"text", "json", NULL};
static const char *const truths[] = {"false", "true", NULL};
static const char *const attempts[] = {"off", "auto", NULL};
static const char *const engines[] = {"rocksdb", "memory", NULL};

#define AT(field)        .offset = offsetof(struct config, field)
#define RANGE(low, high) .lowest = (low), .highest = (high)

/* clang-format off */
static const struct key keys[] = {
    {"data", TEXT, AT(data), "data", .text = "directory of the store; made when missing"},
    {"workers", NUMBER, AT(workers), "0", RANGE(0, LIMIT_WORKERS), .text = "threads; 0: one per core but one"},
    {"net.io_uring", CHOICE, AT(io_uring), "auto", .choices = attempts, .text = "auto: the writes of a turn by one system call, if the kernel allows it; off"},
    {"listen", TEXT, AT(listen), "127.0.0.1", .text = "address of every listener; * is all"},
    {"user.file", TEXT, AT(user_file), NULL, .text = "users to make at start when they are missing"},
    {"log.level", CHOICE, AT(log_level), "info", .choices = levels, .text = "debug, info, warn or error"},
    {"log.format", CHOICE, AT(log_format), "text", .choices = formats, .text = "text or json"},
    {"storage.engine", CHOICE, AT(engine), "rocksdb", .choices = engines, .text = "rocksdb or memory"},
    {"storage.min_free", BYTES, AT(min_free_bytes), "256M", RANGE(0, INT64_MAX), .text = "free bytes below which publishes are refused"},
    {"retention.hours", NUMBER, AT(retention_hours), "72", RANGE(1, 24 * 3650), .text = "how long new queues keep records"},
    {"retention.bytes", BYTES, AT(retention_bytes), "0", RANGE(0, INT64_MAX), .text = "how much new queues keep; 0: no limit"},
    {"limit.subscriptions", NUMBER, AT(limit_subscriptions), "1000", RANGE(1, 100000), .text = "of one client"},
    {"limit.publish_rate", NUMBER, AT(limit_publish_rate), "0", RANGE(0, 1000000), .text = "publishes of one client per second; 0: no limit"},
    {"limit.topic_levels", NUMBER, AT(limit_topic_levels), "128", RANGE(1, LIMIT_TOPIC_LEVELS), .text = "of a topic or filter"},
    {"limit.resume_rate", NUMBER, AT(limit_resume_rate), "0", RANGE(0, 1000000), .text = "kept records to a session that comes back, per second; 0: no limit"},
    {"limit.session_records", NUMBER, AT(limit_session_records), "0", RANGE(0, INT32_MAX), .text = "kept for a session while it is away, the oldest go; 0: no limit"},
    {"limit.session_bytes", BYTES, AT(limit_session_bytes), "0", RANGE(0, INT64_MAX), .text = "likewise in bytes; 0: no limit"},
    {"limit.session_expiry", NUMBER, AT(limit_session_expiry), "0", RANGE(0, UINT32_MAX - 1), .text = "seconds that sessions, and AMQP links that outlive theirs, are kept at most; 0: as asked for"},
    {"limit.transaction_expiry", NUMBER, AT(limit_transaction_expiry), "300", RANGE(1, 24 * 3600), .text = "seconds from the beginning of a transaction to its commit"},
    {"limit.connection_rate", NUMBER, AT(limit_connection_rate), "0", RANGE(0, 1000000), .text = "connections per second, of all protocols; 0: no limit"},
    {"limit.address_rate", NUMBER, AT(limit_address_rate), "0", RANGE(0, 1000000), .text = "connections per second from one address; 0: no limit"},
    {"limit.dedup_ids", NUMBER, AT(limit_dedup_ids), "2097152", RANGE(1, 1 << 26), .text = "ids of messages remembered by one worker, 64 bytes each"},
    {"limit.producers", NUMBER, AT(limit_producers), "100000", RANGE(1, 1 << 24), .text = "producers with numbers remembered by one worker"},
    {"tls.cert", TEXT, AT(tls_certificate), NULL, .text = "certificate chain, PEM; turns the TLS listeners on"},
    {"tls.key", TEXT, AT(tls_key), NULL, .text = "private key, PEM"},
    {"tls.client_ca", TEXT, AT(tls_client_ca), NULL, .text = "authority of client certificates, PEM"},
    {"tls.client_required", CHOICE, AT(tls_client_required), "true", .choices = truths, .text = "false: who shows no certificate may come in as others do"},
    {"mqtt.port", PORT, AT(mqtt_port), "1883", .text = "0 picks a free one; off: no listener"},
    {"mqtt.tls_port", PORT, AT(mqtt_tls_port), NULL, .text = "8883 when tls.cert is set, else off"},
    {"mqtt.max_packet", BYTES, AT(mqtt_max_packet), "0", RANGE(0, 268435460), .text = "largest packet; 0: what the largest record needs"},
    {"mqtt.receive_max", NUMBER, AT(mqtt_receive_max), "65535", RANGE(1, 65535), .text = "unanswered publishes of a client"},
    {"mqtt.inflight_max", NUMBER, AT(mqtt_inflight_max), "1000", RANGE(1, LIMIT_CLIENT_CREDIT), .text = "unanswered deliveries to a client, whatever it would take"},
    {"mqtt.topic_alias_max", NUMBER, AT(mqtt_topic_alias_max), "16", RANGE(0, 65535), .text = "topic aliases a client may set"},
    {"mqtt.keep_alive_max", NUMBER, AT(mqtt_keep_alive_max), "0", RANGE(0, 65535), .text = "seconds; 0: as the client asks"},
    {"mqtt.sys_interval", NUMBER, AT(mqtt_sys_interval), "10", RANGE(0, 3600), .text = "seconds between statistics on $SYS; 0: none"},
    {"mqtt.server_reference", TEXT, AT(mqtt_server_reference), NULL, .text = "where clients shall go when this server ends"},
    {"http.port", PORT, AT(http_port), "8080", .text = "0 picks a free one; off: no listener"},
    {"http.tls_port", PORT, AT(http_tls_port), NULL, .text = "8443 when tls.cert is set, else off"},
    {"http.origins", TEXT, AT(http_origins), NULL, .text = "foreign origins that may call while there is no user"},
    {"http.ping_interval", NUMBER, AT(http_ping_interval), "30", RANGE(1, 3600), .text = "seconds of silence before a WebSocket is pinged; it ends after as many more"},
    {"http.echo", CHOICE, AT(http_echo), "false", .choices = truths, .text = "true: /echo, for conformance suites of WebSocket"},
    {"amqp.port", PORT, AT(amqp_port), "5672", .text = "0 picks a free one; off: no listener"},
    {"amqp.tls_port", PORT, AT(amqp_tls_port), NULL, .text = "5671 when tls.cert is set, else off"},
    {"amqp.auto_create", CHOICE, AT(amqp_auto_create), "false", .choices = truths, .text = "an address that names no queue makes one"},
    {"amqp.server_reference", TEXT, AT(amqp_server_reference), NULL, .text = "host:port where clients shall go when this server ends"},
    {"amqp.anonymous", TEXT, AT(amqp_anonymous), NULL, .text = "user that SASL ANONYMOUS acts as; none: refused"},
    {"kafka.port", LATER, .text = "not there yet"},
};
/* clang-format on */

enum { KEYS = sizeof keys / sizeof *keys };

static const struct key *key_by_name(const char *name)
{
    for (size_t i = 0; i < KEYS; i++)
        if (strcmp(keys[i].name, name) == 0)
            return &keys[i];
    return NULL;
}

static char **text_of(struct config *config, const struct key *key)
{
    return (char **)(void *)((char *)config + key->offset);
}

static int64_t *number_of(struct config *config, const struct key *key)
{
    return (int64_t *)(void *)((char *)config + key->offset);
}

/* ------------------------------------------------ values */

static void replace_text(char **to, const char *value)
{
    heap_free(*to);
    *to = heap_text(value, strlen(value));
}

/* Digits, then for bytes one of K M G T. -1: not a number, or too large. */
static int64_t number_parse(const char *value, bool bytes)
{
    if (*value < '0' || *value > '9')
        return -1;
    errno = 0;
    char *rest;
    int64_t number = strtoll(value, &rest, 10);
    if (errno != 0)
        return -1;
    static const char units[] = "KMGT";
    const char *unit = bytes && *rest != '\0' ? strchr(units, *rest) : NULL;
    if (unit != NULL) {
        unsigned shift = 10 * (unsigned)(unit - units + 1);
        if (number > INT64_MAX >> shift)
            return -1;
        number <<= shift;
        rest++;
    }
    return *rest == '\0' ? number : -1;
}

static enum status set_number(struct config *config, const struct key *key, const char *value,
                              struct err *err)
{
    int64_t number = number_parse(value, key->kind == BYTES);
    if (number < key->lowest || number > key->highest)
        return err_set(err, STATUS_INVALID, "%s is a %s of %lld to %lld, not \"%s\"", key->name,
                       key->kind == BYTES ? "number of bytes (K, M, G or T may follow)" : "number",
                       (long long)key->lowest, (long long)key->highest, value);
    *number_of(config, key) = number;
    return STATUS_OK;
}

static enum status set_port(struct config *config, const struct key *key, const char *value,
                            struct err *err)
{
    int64_t port = strcmp(value, "off") == 0 ? PORT_OFF : number_parse(value, false);
    if (port > 65535 || (port < 0 && strcmp(value, "off") != 0))
        return err_set(err, STATUS_INVALID,
                       "%s is a port number, 0 to pick one, or off, not \"%s\"", key->name, value);
    *number_of(config, key) = port;
    return STATUS_OK;
}

static enum status set_choice(struct config *config, const struct key *key, const char *value,
                              struct err *err)
{
    for (int64_t i = 0; key->choices[i] != NULL; i++) {
        if (strcmp(key->choices[i], value) == 0) {
            *number_of(config, key) = i;
            return STATUS_OK;
        }
    }
    return err_set(err, STATUS_INVALID, "%s is %s, not \"%s\"", key->name, key->text, value);
}

static void note_later(struct config *config, const char *name)
{
    char names[256];
    if (config->later == NULL)
        snprintf(names, sizeof names, "%s", name);
    else if (strstr(config->later, name) == NULL)
        snprintf(names, sizeof names, "%s, %s", config->later, name);
    else
        return;
    replace_text(&config->later, names);
}

static enum status set_key(struct config *config, const struct key *key, const char *value,
                           struct err *err)
{
    switch (key->kind) {
    case TEXT:
        if (*value == '\0')
            return err_set(err, STATUS_INVALID, "%s may not be empty", key->name);
        replace_text(text_of(config, key), value);
        return STATUS_OK;
    case NUMBER:
    case BYTES:
        return set_number(config, key, value, err);
    case PORT:
        return set_port(config, key, value, err);
    case CHOICE:
        return set_choice(config, key, value, err);
    case LATER:
        note_later(config, key->name);
        return STATUS_OK;
    }
    return STATUS_INTERNAL;
}

/* ------------------------------------------------ life */

void config_init(struct config *config)
{
    *config = (struct config){
        .mqtt_tls_port = PORT_UNSET, .amqp_tls_port = PORT_UNSET, .http_tls_port = PORT_UNSET};
    for (size_t i = 0; i < KEYS; i++)
        if (keys[i].initial != NULL)
            CHECK(set_key(config, &keys[i], keys[i].initial, NULL) == STATUS_OK);
}

void config_deinit(struct config *config)
{
    for (size_t i = 0; i < KEYS; i++)
        if (keys[i].kind == TEXT)
            heap_free(*text_of(config, &keys[i]));
    heap_free(config->later);
    *config = (struct config){0};
}

void config_describe(void (*show)(const char *name, const char *value, const char *text))
{
    for (size_t i = 0; i < KEYS; i++)
        show(keys[i].name, keys[i].initial == NULL ? "" : keys[i].initial, keys[i].text);
}

/* ------------------------------------------------ the file */

/* libconfuse calls back without a context. Configuration is read by one thread, one text at a
 * time. */
static struct parse {
    struct config *config;
    const char *name;
    struct err *err;
    bool failed;
} * running;

__attribute__((format(printf, 2, 0))) static void report(cfg_t *cfg, const char *format,
                                                         va_list arguments)
{
    char text[400];
    vsnprintf(text, sizeof text, format, arguments);
    if (!running->failed) /* the first reason is the one that helps */
        err_set(running->err, STATUS_INVALID, "%s:%d: %s", running->name, cfg->line, text);
    running->failed = true;
}

static int take_value(cfg_t *cfg, cfg_opt_t *option)
{
    const char *value = cfg_opt_getnstr(option, 0);
    struct err err = {0};
    const struct key *key = key_by_name(cfg_opt_name(option));
    if (set_key(running->config, key, value == NULL ? "" : value, &err) == STATUS_OK)
        return 0;
    cfg_error(cfg, "%s", err.text);
    return -1;
}

/* libconfuse 3.3 counts a line twice when a comment ends it, so comments go before it sees them. */
static void blank_comments(char *text)
{
    char quote = '\0';
    for (char *at = text; *at != '\0'; at++) {
        if (quote != '\0') {
            if (*at == '\\' && at[1] != '\0')
                at++;
            else if (*at == quote)
                quote = '\0';
        } else if (*at == '"' || *at == '\'') {
            quote = *at;
        } else if (*at == '#') {
            while (*at != '\0' && *at != '\n')
                *at++ = ' ';
            if (*at == '\0')
                return;
        }
    }
}

enum status config_read_text(struct config *config, struct span text, const char *name,
                             struct err *err)
{
    if (text.size > FILE_MAX)
        return err_set(err, STATUS_TOO_LARGE, "%s: longer than %d bytes", name, FILE_MAX);
    if (text.size > 0 && memchr(text.data, '\0', text.size) != NULL)
        return err_set(err, STATUS_INVALID, "%s: not a text file", name);
    cfg_opt_t options[KEYS + 1];
    for (size_t i = 0; i < KEYS; i++)
        options[i] = (cfg_opt_t)CFG_STR(keys[i].name, NULL, CFGF_NODEFAULT);
    options[KEYS] = (cfg_opt_t)CFG_END();
    cfg_t *cfg = cfg_init(options, CFGF_NONE);
    CHECK(cfg != NULL);
    struct parse parse = {.config = config, .name = name, .err = err};
    running = &parse;
    cfg_set_error_function(cfg, report);
    for (size_t i = 0; i < KEYS; i++)
        cfg_set_validate_func(cfg, keys[i].name, take_value);

    char *copy = heap_text((const char *)text.data, text.size);
    blank_comments(copy);
    int parsed = cfg_parse_buf(cfg, copy);
    heap_free(copy);
    cfg_free(cfg);
    running = NULL;
    if (parsed == CFG_SUCCESS && !parse.failed)
        return STATUS_OK;
    if (!parse.failed)
        err_set(err, STATUS_INVALID, "%s: cannot be understood", name);
    return STATUS_INVALID;
}

static enum status read_all(int fd, const char *path, struct span *text, struct err *err)
{
    struct stat stat;
    if (fstat(fd, &stat) != 0)
        return err_set(err, STATUS_INVALID, "%s: %s", path, strerror(errno));
    if (S_ISDIR(stat.st_mode))
        return err_set(err, STATUS_INVALID, "%s: is a directory", path);
    uint8_t *bytes = heap_new(FILE_MAX + 1);
    size_t size = 0;
    ssize_t got;
    while ((got = read(fd, bytes + size, FILE_MAX + 1 - size)) > 0)
        size += (size_t)got;
    if (got < 0) {
        err_set(err, STATUS_INVALID, "%s: %s", path, strerror(errno));
        heap_free(bytes);
        return STATUS_INVALID;
    }
    *text = span_of(bytes, size);
    return STATUS_OK;
}

enum status config_read_file(struct config *config, const char *path, struct err *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return err_set(err, STATUS_INVALID, "%s: %s", path, strerror(errno));
    struct span text;
    enum status status = read_all(fd, path, &text, err);
    close(fd);
    if (status != STATUS_OK)
        return status;
    status = config_read_text(config, text, path, err);
    heap_free((void *)(uintptr_t)text.data);
    return status;
}

/* ------------------------------------------------ arguments and the whole */

enum status config_set(struct config *config, const char *name, const char *value, struct err *err)
{
    const struct key *key = key_by_name(name);
    if (key == NULL)
        return err_set(err, STATUS_INVALID, "no such option '%s'", name);
    return set_key(config, key, value, err);
}

enum status config_set_argument(struct config *config, const char *argument, struct err *err)
{
    struct err reason = {0};
    enum status status;
    const char *equals = strchr(argument, '=');
    if (equals == NULL) {
        status = err_set(&reason, STATUS_INVALID, "a key, '=' and a value are wanted");
    } else {
        char *name = heap_text(argument, (size_t)(equals - argument));
        status = config_set(config, name, equals + 1, &reason);
        heap_free(name);
    }
    return status == STATUS_OK
               ? STATUS_OK
               : err_set(err, status, "--set %.200s: %.250s", argument, reason.text);
}

enum status config_finish(struct config *config, struct err *err)
{
    bool tls = config->tls_certificate != NULL;
    if (tls != (config->tls_key != NULL))
        return err_set(err, STATUS_INVALID, "tls.cert and tls.key belong together: %s is missing",
                       tls ? "tls.key" : "tls.cert");
    if (config->tls_client_ca != NULL && !tls)
        return err_set(err, STATUS_INVALID, "tls.client_ca needs tls.cert and tls.key");
    if (!tls &&
        (config->mqtt_tls_port >= 0 || config->amqp_tls_port >= 0 || config->http_tls_port >= 0))
        return err_set(err, STATUS_INVALID, "%s needs tls.cert and tls.key",
                       config->mqtt_tls_port >= 0   ? "mqtt.tls_port"
                       : config->amqp_tls_port >= 0 ? "amqp.tls_port"
                                                    : "http.tls_port");
    if (config->mqtt_tls_port == PORT_UNSET)
        config->mqtt_tls_port = tls ? 8883 : PORT_OFF;
    if (config->amqp_tls_port == PORT_UNSET)
        config->amqp_tls_port = tls ? 5671 : PORT_OFF;
    if (config->http_tls_port == PORT_UNSET)
        config->http_tls_port = tls ? 8443 : PORT_OFF;
    return STATUS_OK;
}

bool config_listens_on_loopback(const struct config *config)
{
    return strcmp(config->listen, "::1") == 0 || strncmp(config->listen, "127.", 4) == 0;
}
