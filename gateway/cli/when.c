/* SPDX-License-Identifier: Apache-2.0 */
/* Durations and times as people write them. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/base/clock.h"
#include "gateway/cli/cli.h"

enum { SECOND_MS = 1000, MINUTE_MS = 60 * 1000, HOUR_MS = 3600 * 1000, DAY_MS = 24 * 3600 * 1000 };

/* "1500", "1500ms", "10s", "5m", "2h", "7d". */
static bool read_duration(const char *text, json_int_t *ms)
{
    static const struct {
        const char *unit;
        json_int_t ms;
    } units[] = {{"", 1},          {"ms", 1},      {"s", SECOND_MS},
                 {"m", MINUTE_MS}, {"h", HOUR_MS}, {"d", DAY_MS}};
    char *rest;
    errno = 0;
    long long number = strtoll(text, &rest, 10);
    if (errno != 0 || rest == text || *text < '0' || *text > '9')
        return false;
    for (size_t i = 0; i < sizeof units / sizeof *units; i++) {
        if (strcmp(rest, units[i].unit) == 0)
            return !__builtin_mul_overflow((json_int_t)number, units[i].ms, ms);
    }
    return false;
}

/* "2026-05-01", "2026-05-01T12:30", with seconds, a blank for T, or a Z: always UTC. */
static bool read_date(const char *text, json_int_t *ms)
{
    static const char *const forms[] = {"%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S",
                                        "%Y-%m-%d %H:%M", "%Y-%m-%d %H:%M:%S"};
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
        struct tm parts = {0};
        const char *rest = strptime(text, forms[i], &parts);
        if (rest == NULL || (strcmp(rest, "") != 0 && strcmp(rest, "Z") != 0))
            continue;
        *ms = (json_int_t)timegm(&parts) * SECOND_MS;
        return true;
    }
    return false;
}

enum outcome cli_duration(const struct cli *cli, const char *name, json_int_t highest_ms,
                          json_int_t *ms)
{
    const char *given = cli_option(cli, name, 0);
    json_int_t value;
    if (given == NULL)
        return OUTCOME_OK;
    if (!read_duration(given, &value) || value > highest_ms)
        return cli_say(OUTCOME_USAGE,
                       "--%s is a duration such as 1500ms, 10s, 5m, 2h or 7d, at "
                       "most %lldms",
                       name, (long long)highest_ms);
    *ms = value;
    return OUTCOME_OK;
}

enum outcome cli_time(const struct cli *cli, const char *name, json_int_t *ms)
{
    const char *given = cli_option(cli, name, 0);
    json_int_t value;
    if (given == NULL)
        return OUTCOME_OK;
    bool number = *given != '\0' && given[strspn(given, "0123456789")] == '\0';
    if (read_date(given, &value) || (number && read_duration(given, &value)))
        *ms = value;
    else if (read_duration(given, &value) && value <= clock_wall_ms())
        *ms = clock_wall_ms() - value;
    else
        return cli_say(OUTCOME_USAGE,
                       "--%s is a time such as 2026-05-01T12:30Z (UTC), ms since 1970, or a "
                       "duration ago such as 10m",
                       name);
    return OUTCOME_OK;
}
