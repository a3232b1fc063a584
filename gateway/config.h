/* SPDX-License-Identifier: Apache-2.0 */
/* What an operator may set: one table of dotted keys, read from a file and from --set alike. */
#ifndef GATEWAY_CONFIG_H
#define GATEWAY_CONFIG_H

#include "core/base/span.h"
#include "core/base/trace.h"

enum { PORT_OFF = -1, PORT_UNSET = -2 }; /* beside 0, which picks a free one */
enum log_format { LOG_TEXT, LOG_JSON };
enum engine { ENGINE_ROCKSDB, ENGINE_MEMORY };

/* Texts are the config's own; NULL: not set. */
struct config {
    char *data;
    char *listen;
    char *user_file;
    int64_t workers;  /* 0: one per core */
    int64_t io_uring; /* 1: if the kernel allows it */
    int64_t log_level, log_format, engine;
    int64_t min_free_bytes;
    int64_t retention_hours, retention_bytes;
    int64_t limit_subscriptions, limit_publish_rate, limit_topic_levels, limit_resume_rate,
        limit_session_records, limit_session_bytes, limit_session_expiry, limit_transaction_expiry,
        limit_connection_rate, limit_address_rate;
    int64_t limit_dedup_ids, limit_producers;
    char *tls_certificate, *tls_key, *tls_client_ca;
    int64_t tls_client_required;

    int64_t mqtt_port, mqtt_tls_port;
    int64_t mqtt_max_packet, mqtt_receive_max, mqtt_topic_alias_max, mqtt_keep_alive_max;
    int64_t mqtt_inflight_max, mqtt_sys_interval;
    char *mqtt_server_reference;

    int64_t amqp_port, amqp_tls_port, amqp_auto_create;
    char *amqp_anonymous, *amqp_server_reference;

    int64_t http_port, http_tls_port;
    char *http_origins;
    int64_t http_ping_interval, http_echo;

    char *later; /* keys that were set and belong to parts that do not exist yet: "a, b"; or NULL */
};

void config_init(struct config *config); /* every key at its default */
void config_deinit(struct config *config);

/* The file's keys replace what was there. err begins with "PATH:LINE: ". */
enum status config_read_file(struct config *config, const char *path, struct err *err);
/* The same of text that is in memory already; name stands in err for the path. */
enum status config_read_text(struct config *config, struct span text, const char *name,
                             struct err *err);
enum status config_set(struct config *config, const char *name, const char *value, struct err *err);
/* argument: "KEY=VALUE"; err begins with "--set ARGUMENT: ". */
enum status config_set_argument(struct config *config, const char *argument, struct err *err);
/* What no single key can tell: pairs that belong together, and the defaults that follow from
 * others. */
enum status config_finish(struct config *config, struct err *err);

bool config_listens_on_loopback(const struct config *config);

/* Visits all keys in their order: name, default ("" when there is none), one line of explanation.
 */
void config_describe(void (*show)(const char *name, const char *value, const char *text));

#endif
