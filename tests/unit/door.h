/* SPDX-License-Identifier: Apache-2.0 */
/* The memory engine behind a door, for tests that say when a write arrives, or that none does. */
#ifndef TESTS_UNIT_DOOR_H
#define TESTS_UNIT_DOOR_H

#include "core/base/check.h"
#include "storage/memory/memory.h"

/* Appends can be held back, or refused; scans are counted. */
struct door {
    struct storage storage;
    struct storage *inner;
    bool hold, hold_units; /* all, or parts of units only */
    enum status refuse;
    struct storage_append *held[256];
    unsigned held_count;
    unsigned scans;
};
static struct door door;

static inline void door_append(struct storage *storage, struct storage_append *append)
{
    (void)storage;
    if (door.hold || (door.hold_units && append->unit != 0)) {
        CHECK(door.held_count < 256);
        door.held[door.held_count++] = append;
    } else if (door.refuse != STATUS_OK) {
        request_complete(&append->request, door.refuse);
    } else {
        door.inner->ops->append(door.inner, append);
    }
}

static inline void door_let_pass(void)
{
    door.hold = door.hold_units = false;
    for (unsigned i = 0; i < door.held_count; i++)
        door_append(NULL, door.held[i]);
    door.held_count = 0;
}

static inline void door_read(struct storage *storage, struct storage_read *read)
{
    (void)storage;
    door.inner->ops->read(door.inner, read);
}
static inline void door_scan(struct storage *storage, struct storage_scan *scan)
{
    (void)storage;
    door.scans++;
    door.inner->ops->scan(door.inner, scan);
}
static inline void door_trim(struct storage *storage, struct storage_trim *trim)
{
    (void)storage;
    door.inner->ops->trim(door.inner, trim);
}
static inline void door_floor(struct storage *storage, struct storage_floor *floor)
{
    (void)storage;
    door.inner->ops->floor(door.inner, floor);
}
static inline void door_bounds(struct storage *storage, struct storage_bounds *bounds)
{
    (void)storage;
    door.inner->ops->bounds(door.inner, bounds);
}

static const struct storage_ops door_ops = {
    .name = "door",
    .append = door_append,
    .read = door_read,
    .scan = door_scan,
    .trim = door_trim,
    .floor = door_floor,
    .bounds = door_bounds,
};

#endif
