/* SPDX-License-Identifier: Apache-2.0 */
/* Shapes of which no filter is left are forgotten: on worker 0, one place is looked at in each
 * round of the sweep, all of them when somebody has found none. A shape goes from all workers'
 * sight, then its row, then the place is free; who comes meanwhile with such a filter brings it
 * anew. */
#ifndef CORE_BROKER_FILTER_FORGET_H
#define CORE_BROKER_FILTER_FORGET_H

struct broker;
struct broker_worker;

void filter_forget_start(struct broker_worker *worker); /* does nothing but on worker 0 */
void filter_forget_round(struct broker *broker);
void filter_forget_free(struct broker *broker); /* after the loops */

#endif
