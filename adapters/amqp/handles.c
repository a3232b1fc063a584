/* SPDX-License-Identifier: Apache-2.0 */
/* Channels and handles that a peer has in use, and what its frames change of that. */
#include "adapters/amqp/channels.h"
#include "core/base/hash.h"
#include "core/base/heap.h"
#include "core/base/limits.h"

enum { SLOTS_FIRST = 8 };

void amqp_channels_init(struct amqp_channels *channels)
{
    *channels = (struct amqp_channels){.channels = NULL};
}

void amqp_channels_deinit(struct amqp_channels *channels)
{
    heap_free(channels->channels);
    heap_free(channels->handles);
}

struct amqp_channel *amqp_channels_at(const struct amqp_channels *channels, uint16_t channel)
{
    if (channel >= channels->channel_count || channels->channels[channel].state == AMQP_UNMAPPED)
        return NULL;
    return &channels->channels[channel];
}

/* ------------------------------------------------ handles */

static uint32_t slot_of(const struct amqp_channels *channels, uint16_t channel, uint32_t handle)
{
    uint64_t key = (uint64_t)channel << 32 | handle;
    return (uint32_t)hash_u64(key ^ hash_process_key.k0) & (channels->slots - 1);
}

struct amqp_handle *amqp_handle_find(const struct amqp_channels *channels, uint16_t channel,
                                     uint32_t handle)
{
    if (channels->slots == 0)
        return NULL;
    uint32_t at = slot_of(channels, channel, handle);
    while (channels->handles[at].is_used) {
        struct amqp_handle *found = &channels->handles[at];
        if (found->handle == handle && found->channel == channel)
            return found;
        at = (at + 1) & (channels->slots - 1);
    }
    return NULL;
}

bool amqp_handle_is_named(const struct amqp_channels *channels, const struct amqp_named *named)
{
    for (uint32_t i = 0; i < channels->slots; i++) {
        const struct amqp_handle *at = &channels->handles[i];
        if (at->is_used && at->name == named->name && at->channel == named->channel &&
            at->receives == named->receives)
            return true;
    }
    return false;
}

static void put(struct amqp_channels *channels, const struct amqp_handle *handle)
{
    uint32_t at = slot_of(channels, handle->channel, handle->handle);
    while (channels->handles[at].is_used)
        at = (at + 1) & (channels->slots - 1);
    channels->handles[at] = *handle;
}

static void add(struct amqp_channels *channels, const struct amqp_handle *handle)
{
    if (channels->handle_count >= LIMIT_AMQP_HANDLES)
        return;
    if (2 * (channels->handle_count + 1) > channels->slots) {
        struct amqp_handle *before = channels->handles;
        uint32_t slots = channels->slots;
        channels->slots = slots == 0 ? SLOTS_FIRST : 2 * slots;
        channels->handles = heap_array(channels->slots, sizeof *before);
        for (uint32_t i = 0; i < slots; i++)
            if (before[i].is_used)
                put(channels, &before[i]);
        heap_free(before);
    }
    put(channels, handle);
    channels->handle_count++;
}

/* What stands behind it and would have stood in its place moves up. */
static void take_out(struct amqp_channels *channels, struct amqp_handle *handle)
{
    uint32_t mask = channels->slots - 1, free = (uint32_t)(handle - channels->handles);
    for (uint32_t at = (free + 1) & mask; channels->handles[at].is_used; at = (at + 1) & mask) {
        struct amqp_handle *next = &channels->handles[at];
        uint32_t wanted = slot_of(channels, next->channel, next->handle);
        if (((at - wanted) & mask) >= ((at - free) & mask)) {
            channels->handles[free] = *next;
            free = at;
        }
    }
    channels->handles[free].is_used = false;
    channels->handle_count--;
}

static void take_out_all(struct amqp_channels *channels, uint16_t channel)
{
    for (uint32_t i = 0; i < channels->slots; i++)
        while (channels->handles[i].is_used && channels->handles[i].channel == channel)
            take_out(channels, &channels->handles[i]);
}

/* ------------------------------------------------ what changes */

static void begin(struct amqp_channels *channels, uint16_t channel)
{
    if (channel > LIMIT_AMQP_CHANNEL) /* which Proton refuses */
        return;
    if (channel >= channels->channel_count) {
        uint32_t count = channel + 1U;
        channels->channels = heap_resize(channels->channels, count * sizeof *channels->channels);
        memset(channels->channels + channels->channel_count, 0,
               (count - channels->channel_count) * sizeof *channels->channels);
        channels->channel_count = count;
    }
    channels->channels[channel] = (struct amqp_channel){.state = AMQP_MAPPED};
}

static void transfer(struct amqp_channels *channels, const struct amqp_named *named)
{
    struct amqp_channel *channel = &channels->channels[named->channel];
    struct amqp_handle *at = named->at;
    if (!at->more) {
        channel->has_delivered = true;
        channel->delivery = named->delivery + 1;
        at->delivery = named->delivery;
    }
    at->more = named->more;
    at->settled = named->settled;
}

/* Those under way, too: what comes of them does not say otherwise. */
static void settle(struct amqp_channels *channels, const struct amqp_named *named)
{
    for (uint32_t i = 0; i < channels->slots; i++) {
        struct amqp_handle *at = &channels->handles[i];
        if (at->is_used && at->more && at->channel == named->channel &&
            at->delivery - named->delivery <= named->last - named->delivery)
            at->settled = true;
    }
}

void amqp_channels_take(struct amqp_channels *channels, const struct amqp_named *named)
{
    struct amqp_channel *channel = amqp_channels_at(channels, named->channel);
    if (named->fate != AMQP_PASSES) {
        channel->state = AMQP_DISCARDING;
        return;
    }
    if (named->performative == AMQP_BEGIN)
        begin(channels, named->channel);
    if (channel == NULL)
        return;
    switch (named->performative) {
    case AMQP_ATTACH:
        add(channels, &(struct amqp_handle){.handle = named->handle,
                                            .channel = named->channel,
                                            .is_used = true,
                                            .receives = named->receives,
                                            .name = named->name});
        break;
    case AMQP_TRANSFER:
        transfer(channels, named);
        break;
    case AMQP_DISPOSITION:
        if (named->settled)
            settle(channels, named);
        break;
    case AMQP_DETACH:
        take_out(channels, named->at);
        break;
    case AMQP_END:
        take_out_all(channels, named->channel);
        *channel = (struct amqp_channel){.state = AMQP_UNMAPPED};
        break;
    case AMQP_OPEN:
    case AMQP_BEGIN:
    case AMQP_FLOW:
    case AMQP_CLOSE:
    case AMQP_SASL_INIT:
    case AMQP_SASL_RESPONSE:
        break;
    }
}
