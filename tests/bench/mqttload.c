/* SPDX-License-Identifier: Apache-2.0 */
/* Loads an MQTT server from one thread and prints one JSON object about the run. */
#include "tests/bench/mqttload.h"
#include "tests/bench/amqp.h"

#include <errno.h>
#include <getopt.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>

static const char usage_text[] =
    "usage: mqttload --port PORT [--pid SERVER_PID] WORKLOAD [options]\n"
    "workloads\n"
    "  fanin     100 publishers on topics of their own, 1 subscriber on all of them\n"
    "  fanout    1 publisher, 1000 subscribers on its topic\n"
    "  pairs     100 publishers, 100 subscribers, one to one\n"
    "  sessions  pairs whose subscribers have persistent sessions\n"
    "  latency   10 pairs at --rate messages/s; latency counts from the scheduled time\n"
    "  stored    100 publishers, no subscriber: --count messages as fast as acknowledged\n"
    "  offline   100 publishers, --count messages at QoS 1 for each of 10 persistent sessions "
    "that\n"
    "            are away, then return (as many of both: a session hears its own publisher only)\n"
    "  connect   connect, CONNACK, disconnect with --parallel at a time\n"
    "  idle      --connections connections with one subscription each: memory\n"
    "  recall    --count retained messages for each of 100 subscribers at once; latency of a "
    "bystander\n"
    "  wills     --connections clients with a will of --delay seconds lost at once; likewise\n"
    "options\n"
    "  --host ADDRESS (127.0.0.1)  --protocol 4|5 (4)  --qos 0|1|2 (0; sessions, stored, offline "
    "1)  --size BYTES "
    "(100)\n"
    "  --window N (10; latency 1000): messages per publisher neither acknowledged nor delivered\n"
    "  --publishers N  --subscribers N  --rate PER_SECOND (latency 10000)\n"
    "  --seconds S (1.5)  --warmup S (0.3)  --count N (stored 1000000, offline 100000, recall "
    "10000)  --slices N "
    "(20)\n"
    "  --ws: MQTT over WebSocket, on the HTTP port; --pages: and subscribers speak polylog.v1\n"
    "  --amqp PORT: subscribers speak AMQP 1.0 on it\n"
    "  --queues: subscriber N receives from queue load-N, which the route queued/+/N must lead "
    "to,\n"
    "            or without --amqp from queue leased-N, route leased/+/N\n"
    "  --beside: with --amqp or --queues as many pairs again, MQTT to MQTT on topics, at the same "
    "time;\n"
    "            --rate is that of all, the latency of these pairs is beside_p50_us, "
    "beside_p99_us\n"
    "  --connections N (10000)  --parallel N (connect 32, idle, wills 64)  --delay S (0; wills, "
    "protocol 5)\n"
    "  --will: each client of connect has one\n"
    "exit status: 0 fine; 1 loss at QoS 1 or 2, duplicates at QoS 2, or errors; 2 no run\n";

static const struct preset {
    const char *name;
    enum workload workload;
    uint32_t publishers, subscribers, window;
    uint64_t rate, count;
} presets[] = {
    {"fanin", WORKLOAD_FANIN, 100, 1, 10, 0, 0},
    {"fanout", WORKLOAD_FANOUT, 1, 1000, 10, 0, 0},
    {"pairs", WORKLOAD_PAIRS, 100, 100, 10, 0, 0},
    {"sessions", WORKLOAD_SESSIONS, 100, 100, 10, 0, 0},
    {"latency", WORKLOAD_LATENCY, 10, 10, 1000, 10000, 0},
    {"stored", WORKLOAD_STORED, 100, 0, 10, 0, 1000000},
    {"offline", WORKLOAD_OFFLINE, 100, 10, 10, 0, 100000},
    {"connect", WORKLOAD_CONNECT, 0, 0, 1, 0, 0},
    {"idle", WORKLOAD_IDLE, 0, 0, 1, 0, 0},
    {"recall", WORKLOAD_RECALL, 10, 100, 100, 0, 10000},
    {"wills", WORKLOAD_WILLS, 0, 0, 1, 0, 0},
};

static void usage(const char *wrong)
{
    if (wrong != NULL)
        fprintf(stderr, "mqttload: %s\n", wrong);
    fputs(usage_text, wrong != NULL ? stderr : stdout);
    exit(wrong != NULL ? 2 : 0);
}

static double number(const char *name, const char *text, double min, double max)
{
    char *end;
    errno = 0;
    double value = strtod(text, &end);
    if (end == text || *end != '\0' || errno != 0 || !(value >= min && value <= max)) {
        fprintf(stderr, "mqttload: --%s must be between %.0f and %.0f\n", name, min, max);
        exit(2);
    }
    return value;
}

static bool counts(const struct options *options)
{
    return options->workload == WORKLOAD_STORED || options->workload == WORKLOAD_OFFLINE ||
           options->workload == WORKLOAD_RECALL;
}

static void options_preset(struct options *options, const char *name)
{
    for (size_t i = 0; i < sizeof(presets) / sizeof(presets[0]); i++) {
        const struct preset *preset = &presets[i];
        if (name == NULL || strcmp(preset->name, name) != 0)
            continue;
        options->workload_name = preset->name;
        options->workload = preset->workload;
        options->publishers = preset->publishers;
        options->subscribers = preset->subscribers;
        options->window = preset->window;
        options->rate = preset->rate;
        options->count = preset->count;
        options->qos = (counts(options) && preset->workload != WORKLOAD_RECALL) ||
                       preset->workload == WORKLOAD_SESSIONS;
        options->parallel = preset->workload == WORKLOAD_CONNECT ? 32 : 64;
        return;
    }
    usage("name a workload");
}

enum choice {
    CHOICE_HELP,
    CHOICE_HOST,
    CHOICE_PORT,
    CHOICE_PID,
    CHOICE_PROTOCOL,
    CHOICE_QOS,
    CHOICE_SIZE,
    CHOICE_WINDOW,
    CHOICE_PUBLISHERS,
    CHOICE_SUBSCRIBERS,
    CHOICE_RATE,
    CHOICE_SECONDS,
    CHOICE_WARMUP,
    CHOICE_COUNT,
    CHOICE_SLICES,
    CHOICE_CONNECTIONS,
    CHOICE_PARALLEL,
    CHOICE_DELAY,
    CHOICE_WILL,
    CHOICE_WS,
    CHOICE_PAGES,
    CHOICE_AMQP,
    CHOICE_QUEUES,
    CHOICE_BESIDE,
};

static const struct option choices[] = {
    {"help", no_argument, NULL, CHOICE_HELP},
    {"host", required_argument, NULL, CHOICE_HOST},
    {"port", required_argument, NULL, CHOICE_PORT},
    {"pid", required_argument, NULL, CHOICE_PID},
    {"protocol", required_argument, NULL, CHOICE_PROTOCOL},
    {"qos", required_argument, NULL, CHOICE_QOS},
    {"size", required_argument, NULL, CHOICE_SIZE},
    {"window", required_argument, NULL, CHOICE_WINDOW},
    {"publishers", required_argument, NULL, CHOICE_PUBLISHERS},
    {"subscribers", required_argument, NULL, CHOICE_SUBSCRIBERS},
    {"rate", required_argument, NULL, CHOICE_RATE},
    {"seconds", required_argument, NULL, CHOICE_SECONDS},
    {"warmup", required_argument, NULL, CHOICE_WARMUP},
    {"count", required_argument, NULL, CHOICE_COUNT},
    {"slices", required_argument, NULL, CHOICE_SLICES},
    {"connections", required_argument, NULL, CHOICE_CONNECTIONS},
    {"parallel", required_argument, NULL, CHOICE_PARALLEL},
    {"delay", required_argument, NULL, CHOICE_DELAY},
    {"will", no_argument, NULL, CHOICE_WILL},
    {"ws", no_argument, NULL, CHOICE_WS},
    {"pages", no_argument, NULL, CHOICE_PAGES},
    {"amqp", required_argument, NULL, CHOICE_AMQP},
    {"queues", no_argument, NULL, CHOICE_QUEUES},
    {"beside", no_argument, NULL, CHOICE_BESIDE},
    {NULL, 0, NULL, 0},
};

static void options_set(struct options *options, enum choice choice, const char *text)
{
    const char *name = choices[choice].name;
    switch (choice) {
    case CHOICE_HELP:
        usage(NULL);
        break;
    case CHOICE_HOST:
        options->host = text;
        break;
    case CHOICE_PORT:
        options->port = (uint16_t)number(name, text, 1, 65535);
        break;
    case CHOICE_PID:
        options->pid = (pid_t)number(name, text, 1, 1 << 30);
        break;
    case CHOICE_PROTOCOL:
        options->protocol = (int)number(name, text, 4, 5);
        break;
    case CHOICE_QOS:
        options->qos = (int)number(name, text, 0, 2);
        break;
    case CHOICE_SIZE:
        options->size = (uint32_t)number(name, text, MESSAGE_SIZE_MIN, 200000);
        break;
    case CHOICE_WINDOW:
        options->window = (uint32_t)number(name, text, 1, 65535);
        break;
    case CHOICE_PUBLISHERS:
        options->publishers = (uint32_t)number(name, text, 1, 10000);
        break;
    case CHOICE_SUBSCRIBERS:
        options->subscribers = (uint32_t)number(name, text, 0, 10000);
        break;
    case CHOICE_RATE:
        options->rate = (uint64_t)number(name, text, 1, 1e7);
        break;
    case CHOICE_SECONDS:
        options->seconds = number(name, text, 0.1, 3600);
        break;
    case CHOICE_WARMUP:
        options->warmup_seconds = number(name, text, 0, 60);
        break;
    case CHOICE_COUNT:
        options->count = (uint64_t)number(name, text, 1, 1e10);
        break;
    case CHOICE_SLICES:
        options->slices = (uint32_t)number(name, text, 1, 1000);
        break;
    case CHOICE_CONNECTIONS:
        options->connections = (uint32_t)number(name, text, 1, 1000000);
        break;
    case CHOICE_PARALLEL:
        options->parallel = (uint32_t)number(name, text, 1, 10000);
        break;
    case CHOICE_DELAY:
        options->delay_s = (uint32_t)number(name, text, 0, 60);
        break;
    case CHOICE_WILL:
        options->will = true;
        break;
    case CHOICE_WS:
        options->websocket = true;
        break;
    case CHOICE_PAGES:
        options->websocket = options->pages = true;
        break;
    case CHOICE_AMQP:
        options->amqp_port = (uint16_t)number(name, text, 1, 65535);
        break;
    case CHOICE_QUEUES:
        options->queues = true;
        break;
    case CHOICE_BESIDE:
        options->beside = true;
        break;
    }
}

static void options_check(const struct options *options)
{
    if (options->port == 0)
        usage("--port is missing");
    if (options->pages && options->size < 2 * MESSAGE_SIZE_MIN)
        usage("--pages needs --size 48 or more");
    if (options->amqp_port != 0 &&
        (options->websocket || options->workload > WORKLOAD_LATENCY ||
         options->workload == WORKLOAD_SESSIONS || options->size > AMQP_PAYLOAD_MAX))
        usage("--amqp is for fanin, fanout, pairs and latency over TCP, of at most 8192 bytes");
    if (options->queues && (options->pages || options->workload > WORKLOAD_LATENCY ||
                            options->publishers != options->subscribers))
        usage("--queues needs a publisher for each subscriber, by MQTT or AMQP");
    if (options->beside && ((options->amqp_port == 0 && !options->queues) ||
                            options->publishers < 2 || options->publishers != options->subscribers))
        usage("--beside needs pairs with --amqp or --queues");
    if (options->workload == WORKLOAD_STORED && (options->qos == 0 || options->rate > 0))
        usage("stored needs QoS 1 or 2 and no --rate");
    if (options->workload == WORKLOAD_OFFLINE && (options->qos != 1 || options->rate > 0))
        usage("offline is QoS 1 without --rate");
    if (options->delay_s > 0 && options->protocol != 5)
        usage("--delay needs --protocol 5");
    if (options->workload != WORKLOAD_STORED && options->publishers > 0 &&
        options->subscribers == 0)
        usage("only stored does without subscribers");
}

/* The workload's preset comes first, so that options may stand before its name, too. */
static struct options options_parse(int argc, char **argv)
{
    struct options options = {
        .host = "127.0.0.1",
        .protocol = 4,
        .size = 100,
        .seconds = 1.5,
        .warmup_seconds = 0.3,
        .slices = 20,
        .connections = 10000,
    };
    int choice;
    opterr = 0;
    while ((choice = getopt_long(argc, argv, "", choices, NULL)) != -1) {
        if (choice == '?')
            usage("unknown option, or one without its value");
        if (choice == CHOICE_HELP)
            usage(NULL);
    }
    options_preset(&options, argv[optind]);
    if (argv[optind + 1] != NULL)
        usage("one workload per run");
    optind = 0;
    while ((choice = getopt_long(argc, argv, "", choices, NULL)) != -1)
        options_set(&options, (enum choice)choice, optarg);
    options_check(&options);
    if (options.workload == WORKLOAD_STORED)
        options.subscribers = 0;
    if (options.beside)
        options.publishers = options.subscribers *= 2;
    if (!counts(&options))
        options.count = 0;
    return options;
}

int main(int argc, char **argv)
{
    struct options options = options_parse(argc, argv);
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    prctl(PR_SET_TIMERSLACK,
          1000ul); /* the schedule of latency mode is finer than the default 50 us */
    switch (options.workload) {
    case WORKLOAD_CONNECT:
        return storm_run(&options);
    case WORKLOAD_IDLE:
        return idle_run(&options);
    case WORKLOAD_RECALL:
        return recall_run(&options);
    case WORKLOAD_WILLS:
        return wills_run(&options);
    case WORKLOAD_OFFLINE:
        return offline_run(&options);
    case WORKLOAD_FANIN:
    case WORKLOAD_FANOUT:
    case WORKLOAD_PAIRS:
    case WORKLOAD_SESSIONS:
    case WORKLOAD_LATENCY:
    case WORKLOAD_STORED:
        return exchange_run(&options);
    }
    return 2;
}
