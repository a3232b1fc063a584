/* SPDX-License-Identifier: Apache-2.0 */
/* links: gateway_config */
/* The configuration: keys, values, and what is said about wrong ones. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

#include "gateway/config.h"

static struct config config;
static struct err err;

static int set_up(void **state)
{
    (void)state;
    err.text[0] = '\0';
    config_init(&config);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    config_deinit(&config);
    return 0;
}

static enum status read_text(const char *text)
{
    return config_read_text(&config, span_from_text(text), "x.conf", &err);
}

static void refuses(const char *text, const char *reason)
{
    assert_int_equal(read_text(text), STATUS_INVALID);
    assert_string_equal(err.text, reason);
}

static void refuses_argument(const char *argument, const char *reason)
{
    assert_int_equal(config_set_argument(&config, argument, &err), STATUS_INVALID);
    assert_string_equal(err.text, reason);
}

static void defaults_are_as_documented(void **state)
{
    (void)state;
    assert_int_equal(config_finish(&config, &err), STATUS_OK);
    assert_string_equal(config.data, "data");
    assert_string_equal(config.listen, "127.0.0.1");
    assert_int_equal(config.workers, 0);
    assert_int_equal(config.mqtt_port, 1883);
    assert_int_equal(config.http_port, 8080);
    assert_int_equal(config.mqtt_tls_port, PORT_OFF);
    assert_int_equal(config.http_tls_port, PORT_OFF);
    assert_int_equal(config.retention_hours, 72);
    assert_int_equal(config.log_level, TRACE_INFO);
    assert_int_equal(config.engine, ENGINE_ROCKSDB);
    assert_null(config.later);
    assert_true(config_listens_on_loopback(&config));
}

static void a_file_sets_every_kind_of_key(void **state)
{
    (void)state;
    assert_int_equal(read_text("# a comment with a \" in it\n"
                               "data = /var/lib/polylog\n"
                               "listen = \"*\"   # all\n"
                               "workers=4\n"
                               "log.level = debug\n"
                               "log.format = 'json'\n"
                               "storage.engine = memory\n"
                               "storage.min_free = 2G\n"
                               "mqtt.port = off\n"
                               "http.port = 0\n"
                               "mqtt.server_reference = \"a # b\"\n"),
                     STATUS_OK);
    assert_string_equal(config.data, "/var/lib/polylog");
    assert_string_equal(config.listen, "*");
    assert_false(config_listens_on_loopback(&config));
    assert_int_equal(config.workers, 4);
    assert_int_equal(config.log_level, TRACE_DEBUG);
    assert_int_equal(config.log_format, LOG_JSON);
    assert_int_equal(config.engine, ENGINE_MEMORY);
    assert_int_equal(config.min_free_bytes, (int64_t)2 << 30);
    assert_int_equal(config.mqtt_port, PORT_OFF);
    assert_int_equal(config.http_port, 0);
    assert_string_equal(config.mqtt_server_reference, "a # b");
}

static void a_wrong_file_is_refused_with_its_line(void **state)
{
    (void)state;
    refuses("# one\n\n# three\nworkers = 65\n",
            "x.conf:4: workers is a number of 0 to 64, not \"65\"");
    refuses("data = x\nmqtt.prot = 5\n", "x.conf:2: no such option 'mqtt.prot'");
    refuses("data = x # c\nlisten = \"a\"\nlog.level = loud",
            "x.conf:3: log.level is debug, info, warn or error, not \"loud\"");
    refuses("mqtt.port = 65536",
            "x.conf:1: mqtt.port is a port number, 0 to pick one, or off, not \"65536\"");
    refuses("\nmqtt.port 5", "x.conf:2: missing equal sign after option 'mqtt.port'");
    refuses("mqtt { port = 5 }", "x.conf:1: no such option 'mqtt'");
    refuses("data =", "x.conf:1: premature end of file");
    refuses("data = \"\"", "x.conf:1: data may not be empty");
    refuses("data = \"abc", "x.conf:1: premature end of file");
}

static void files_that_are_none_are_refused(void **state)
{
    (void)state;
    assert_int_equal(config_read_file(&config, "/nowhere/x.conf", &err), STATUS_INVALID);
    assert_string_equal(err.text, "/nowhere/x.conf: No such file or directory");
    assert_int_equal(config_read_file(&config, "/", &err), STATUS_INVALID);
    assert_string_equal(err.text, "/: is a directory");
    assert_int_equal(config_read_text(&config, span_of("a\0b", 3), "x.conf", &err), STATUS_INVALID);
    assert_string_equal(err.text, "x.conf: not a text file");
    size_t size = 2 * 1024 * 1024;
    uint8_t *large = calloc(size, 1);
    assert_int_equal(config_read_text(&config, span_of(large, size), "x.conf", &err),
                     STATUS_TOO_LARGE);
    free(large);
}

static void a_file_is_read_from_disk(void **state)
{
    (void)state;
    char path[] = "/tmp/polylog-config-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, "http.port = 81\n", 15), 15);
    close(fd);
    assert_int_equal(config_read_file(&config, path, &err), STATUS_OK);
    unlink(path);
    assert_int_equal(config.http_port, 81);
}

static void arguments_win_and_are_named_when_wrong(void **state)
{
    (void)state;
    assert_int_equal(read_text("mqtt.port = 1"), STATUS_OK);
    assert_int_equal(config_set_argument(&config, "mqtt.port=2", &err), STATUS_OK);
    assert_int_equal(config.mqtt_port, 2);
    assert_int_equal(config_set_argument(&config, "http.origins=a=b", &err), STATUS_OK);
    assert_string_equal(config.http_origins, "a=b");
    refuses_argument("mqtt.port=-1", "--set mqtt.port=-1: mqtt.port is a port number, 0 to pick "
                                     "one, or off, not \"-1\"");
    refuses_argument("mqtt.prot=5", "--set mqtt.prot=5: no such option 'mqtt.prot'");
    refuses_argument("=5", "--set =5: no such option ''");
    refuses_argument("mqtt.port", "--set mqtt.port: a key, '=' and a value are wanted");
    refuses_argument("workers=9999999999999999999999",
                     "--set workers=9999999999999999999999: workers is a number of 0 to 64, not "
                     "\"9999999999999999999999\"");
    refuses_argument("retention.hours=0",
                     "--set retention.hours=0: retention.hours is a number of 1 to 87600, not "
                     "\"0\"");
    assert_int_equal(config_set_argument(&config, "storage.min_free=9999999T", &err),
                     STATUS_INVALID);
    assert_int_equal(config.mqtt_port, 2);
}

static void keys_of_later_parts_are_collected(void **state)
{
    (void)state;
    assert_int_equal(read_text("kafka.port = 9092\nmqtt.port = 5\nkafka.port = 1\n"), STATUS_OK);
    assert_string_equal(config.later, "kafka.port");
}

static void tls_keys_belong_together(void **state)
{
    (void)state;
    assert_int_equal(config_set_argument(&config, "tls.cert=a", &err), STATUS_OK);
    assert_int_equal(config_finish(&config, &err), STATUS_INVALID);
    assert_string_equal(err.text, "tls.cert and tls.key belong together: tls.key is missing");
    assert_int_equal(config_set_argument(&config, "tls.key=b", &err), STATUS_OK);
    assert_int_equal(config_finish(&config, &err), STATUS_OK);
    assert_int_equal(config.mqtt_tls_port, 8883);
    assert_int_equal(config.http_tls_port, 8443);
}

static void a_tls_port_needs_a_certificate(void **state)
{
    (void)state;
    assert_int_equal(config_set_argument(&config, "http.tls_port=0", &err), STATUS_OK);
    assert_int_equal(config_finish(&config, &err), STATUS_INVALID);
    assert_string_equal(err.text, "http.tls_port needs tls.cert and tls.key");
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(defaults_are_as_documented),
        TEST(a_file_sets_every_kind_of_key),
        TEST(a_wrong_file_is_refused_with_its_line),
        TEST(files_that_are_none_are_refused),
        TEST(a_file_is_read_from_disk),
        TEST(arguments_win_and_are_named_when_wrong),
        TEST(keys_of_later_parts_are_collected),
        TEST(tls_keys_belong_together),
        TEST(a_tls_port_needs_a_certificate),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
