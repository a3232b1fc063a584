/* SPDX-License-Identifier: Apache-2.0 */
/* When leases that were handed to a peer are over, by the consumer's slots: a list in the order of
 * deadlines that lies in an array, so that a lease costs no allocation and leaves in one step. */
#ifndef CORE_BROKER_LEASE_CLOCK_H
#define CORE_BROKER_LEASE_CLOCK_H

#include <stdbool.h>
#include <stdint.h>

enum { LEASE_CLOCK_NONE = UINT32_MAX };

struct lease_clock {
    struct lease_place {
        uint64_t deadline_ms; /* 0: not in the list */
        uint32_t previous, next;
    } * places;
    uint32_t capacity, first, last;
};

void lease_clock_init(struct lease_clock *clock);
void lease_clock_deinit(struct lease_clock *clock);
/* Adds the slot or moves it. Deadlines mostly rise, so its place is near the end. */
void lease_clock_set(struct lease_clock *clock, uint32_t slot, uint64_t deadline_ms);
void lease_clock_remove(struct lease_clock *clock, uint32_t slot); /* harmless when not in it */
/* The slot whose deadline comes first; LEASE_CLOCK_NONE. */
uint32_t lease_clock_first(const struct lease_clock *clock, uint64_t *deadline_ms);

#endif
