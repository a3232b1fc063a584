/* SPDX-License-Identifier: Apache-2.0 */
/* CPU, memory and written bytes of another process. */
#include "tests/bench/process.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

uint64_t clock_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* The number that follows a label at the start of a line of /proc/PID/NAME. */
static uint64_t labelled_number(pid_t pid, const char *name, const char *label)
{
    char path[64], line[256];
    snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, name);
    FILE *file = fopen(path, "re");
    if (file == NULL)
        return 0;
    uint64_t number = 0;
    size_t length = strlen(label);
    while (fgets(line, sizeof(line), file) != NULL) {
        if (strncmp(line, label, length) == 0 && sscanf(line + length, "%" SCNu64, &number) == 1)
            break;
    }
    fclose(file);
    return number;
}

/* The process clock is the scheduler's own sum in nanoseconds over live and ended threads; the sum
 * of task/.../schedstat would lose the ended ones, and stat counts in ticks of 10 ms. */
uint64_t process_cpu_ns(pid_t pid)
{
    clockid_t clock;
    struct timespec used;
    if (pid == 0 || clock_getcpuclockid(pid, &clock) != 0 || clock_gettime(clock, &used) != 0)
        return 0;
    return (uint64_t)used.tv_sec * 1000000000u + (uint64_t)used.tv_nsec;
}

/* smaps_rollup walks the pages; the counters of status may lag by some pages per CPU. */
uint64_t process_rss_kb(pid_t pid)
{
    if (pid == 0)
        return 0;
    uint64_t rss_kb = labelled_number(pid, "smaps_rollup", "Rss:");
    return rss_kb != 0 ? rss_kb : labelled_number(pid, "status", "VmRSS:");
}

uint64_t process_written_bytes(pid_t pid)
{
    return pid == 0 ? 0 : labelled_number(pid, "io", "write_bytes:");
}
