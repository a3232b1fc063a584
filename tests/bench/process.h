/* SPDX-License-Identifier: Apache-2.0 */
/* What the measured server has used so far, read from outside. Every call answers 0 for pid 0 or
 * when unreadable. */
#ifndef TESTS_BENCH_PROCESS_H
#define TESTS_BENCH_PROCESS_H

#include <stdint.h>
#include <sys/types.h>

uint64_t clock_ns(void);

/* What was used between two readings; 0 when the process has died in between. */
static inline double used(uint64_t before, uint64_t after)
{
    return after > before ? (double)(after - before) : 0;
}

/* CPU time of all threads, those that have ended included. */
uint64_t process_cpu_ns(pid_t pid);

uint64_t process_rss_kb(pid_t pid);

/* Bytes sent to the block layer (needs the right to trace the process). */
uint64_t process_written_bytes(pid_t pid);

#endif
