/* SPDX-License-Identifier: Apache-2.0 */
/* What an attach to a source says beside its address: its filter set, and how long leases last. */
#ifndef ADAPTERS_AMQP_FILTER_H
#define ADAPTERS_AMQP_FILTER_H

#include <proton/codec.h>
#include <proton/terminus.h>

#include "adapters/amqp/codec.h"
#include "core/queue/group.h"

/* What a source's filter set asks for. */
struct amqp_filter {
    struct selector *selector; /* a reference; NULL: all */
    bool of_group;             /* in: whose consumers are not asked who they are */
    bool no_local;
    bool has_position; /* where to begin reading along */
    enum seek_to from;
    uint64_t offset;
    int64_t time_ms;
    bool last; /* the last record there is */
};

/* OK; INVALID with err for a filter that is none. What is not known, or does not apply,
 * is left out of the answer. */
enum status amqp_filter_read(pn_terminus_t *remote, pn_terminus_t *local,
                             struct amqp_filter *filter, struct err *err);
/* The same of a set as bytes; echo has room for them and AMQP_HEAD_MAX more. */
enum status amqp_filter_decode(struct span bytes, struct amqp_filter *filter,
                               struct amqp_writer *echo, struct err *err);
void amqp_filter_deinit(struct amqp_filter *filter);
/* The link property x-opt-lease (ms), where it is set: INVALID out of bounds. */
enum status amqp_lease_read(pn_data_t *properties, uint32_t *lease_ms);

#endif
