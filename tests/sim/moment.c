/* SPDX-License-Identifier: Apache-2.0 */
/* See moment.h. */
#include "tests/sim/moment.h"

static enum moment wanted;
static bool came;
static uint32_t hits[MOMENTS]; /* of all seeds */

void moments_begin(void)
{
    wanted = MOMENT_NONE;
    came = false;
}

void moment(enum moment which)
{
    if (which != wanted || came)
        return;
    came = true;
    hits[which]++;
}

void moment_wait(enum moment which)
{
    wanted = which;
    came = false;
}

bool moment_came(void *context)
{
    (void)context;
    return came;
}

unsigned moments_hit(uint32_t *crashes)
{
    unsigned kinds = 0;
    *crashes = 0;
    for (unsigned i = 1; i < MOMENTS; i++) {
        kinds += hits[i] > 0;
        *crashes += hits[i];
    }
    return kinds;
}
