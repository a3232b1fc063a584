/* SPDX-License-Identifier: Apache-2.0 */
/* How long one fdatasync takes after an append, as JSON: the yardstick for acknowledgements that
 * wait for the disk. Virtual disks have spells in which each takes several times as long: their
 * share of the time and the longest one say whether a p99 measured on such a disk is the server's.
 */
#include "tests/bench/histogram.h"
#include "tests/bench/process.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SLOW 2.5 /* times the median */

static struct {
    uint64_t *ns;
    size_t count, room;
} took;

static void took_add(uint64_t ns)
{
    if (took.count == took.room) {
        took.room = took.room == 0 ? 4096 : 2 * took.room;
        took.ns = realloc(took.ns, took.room * sizeof *took.ns);
        if (took.ns == NULL)
            abort();
    }
    took.ns[took.count++] = ns;
}

/* Slow ones: their share of the time, and the longest spell of them. */
static void print_slow(double median_us)
{
    double all_us = 0, slow_us = 0, spell_us = 0, longest_us = 0;
    for (size_t i = 0; i < took.count; i++) {
        double us = (double)took.ns[i] / 1e3;
        bool slow = us > SLOW * median_us;
        all_us += us;
        slow_us += slow ? us : 0;
        spell_us = slow ? spell_us + us : 0;
        if (spell_us > longest_us)
            longest_us = spell_us;
    }
    printf(", \"slow_share\": %.4f, \"slow_spell_ms\": %.1f", all_us > 0 ? slow_us / all_us : 0,
           longest_us / 1e3);
}

int main(int argc, char **argv)
{
    static struct histogram histogram;
    static uint8_t block[1024 * 1024];
    const char *directory = argc > 1 ? argv[1] : ".";
    double seconds = argc > 2 ? strtod(argv[2], NULL) : 1.5;
    size_t bytes = argc > 3 ? strtoul(argv[3], NULL, 10) : 4096;
    if (argc > 4 || directory[0] == '-' || !(seconds > 0) || bytes == 0 || bytes > sizeof(block)) {
        fprintf(stderr, "usage: fsyncload [DIRECTORY (.) [SECONDS (1.5) [BYTES (4096)]]]\n");
        return 2;
    }
    char path[4096];
    snprintf(path, sizeof(path), "%s/fsyncload.XXXXXX", directory);
    int fd = mkstemp(path);
    if (fd < 0 || unlink(path) != 0) {
        perror(path);
        return 2;
    }
    memset(block, 0x5a, sizeof(block));
    uint64_t now_ns = clock_ns(), end_ns = now_ns + (uint64_t)(seconds * 1e9);
    while (now_ns < end_ns) {
        uint64_t from_ns = now_ns;
        if (write(fd, block, bytes) != (ssize_t)bytes || fdatasync(fd) != 0) {
            perror(path);
            return 2;
        }
        now_ns = clock_ns();
        histogram_add(&histogram, now_ns - from_ns);
        took_add(now_ns - from_ns);
    }
    close(fd);
    printf("{\"workload\": \"fdatasync\", \"size\": %zu, \"count\": %" PRIu64
           ", \"p50_us\": %.1f, \"p99_us\": %.1f, \"p999_us\": %.1f",
           bytes, histogram.count, histogram_us(&histogram, 0.5), histogram_us(&histogram, 0.99),
           histogram_us(&histogram, 0.999));
    print_slow(histogram_us(&histogram, 0.5));
    printf("}\n");
    free(took.ns);
    return 0;
}
