/* SPDX-License-Identifier: Apache-2.0 */
/* Points between two packets of an exchange, where a crash is worth most: peers say when they are
 * there, the scenario waits for one of them. On the world loop. */
#ifndef TESTS_SIM_MOMENT_H
#define TESTS_SIM_MOMENT_H

#include <stdbool.h>
#include <stdint.h>

enum moment {
    MOMENT_NONE,
    /* QoS 2 from a client with a kept session. */
    MOMENT_PUBLISH_SENT,
    MOMENT_PUBREC_CAME,
    MOMENT_PUBREL_SENT,
    MOMENT_PUBCOMP_CAME,
    /* And to one. */
    MOMENT_PUBLISH_CAME,
    MOMENT_PUBREC_SENT,
    MOMENT_PUBREL_CAME,
    MOMENT_PUBCOMP_SENT,
    /* Of a session. */
    MOMENT_CONNECT_SENT,
    MOMENT_SUBSCRIBE_SENT,
    MOMENT_SUBACK_CAME,
    MOMENT_UNSUBSCRIBE_SENT,
    MOMENT_UNSUBACK_CAME,
    /* Over AMQP. */
    MOMENT_TRANSFER_SENT,
    MOMENT_OUTCOME_SENT,
    MOMENT_OUTCOME_CONFIRMED,
    MOMENT_DEAL_PART_SENT,
    MOMENT_DISCHARGE_SENT,
    MOMENT_DISCHARGED,
    MOMENT_ATTACH_SENT, /* of a topic that is kept */
    MOMENT_DETACH_SENT,
    MOMENTS
};

void moments_begin(void);
void moment(enum moment which); /* somebody is there */
void moment_wait(enum moment which);
bool moment_came(void *context); /* since moment_wait(), for sim_run() */
unsigned
moments_hit(uint32_t *crashes); /* kinds that were ever waited for and came; and how often */

#endif
