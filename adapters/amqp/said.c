/* SPDX-License-Identifier: Apache-2.0 */
/* Frames of ours, of which only the heads are looked at. */
#include "adapters/amqp/said.h"
#include "adapters/amqp/channels.h"
#include "core/base/heap.h"
#include "core/base/pack.h"

void amqp_said_deinit(struct amqp_said *said)
{
    heap_free(said->transfers);
    *said = (struct amqp_said){.transfers = NULL};
}

static void take_head(struct amqp_said *said)
{
    uint16_t channel = load_u16(said->head + 6);
    uint8_t performative = said->head[AMQP_SAID_HEAD - 1];
    if (said->head[5] != 0 || (performative != AMQP_BEGIN && performative != AMQP_TRANSFER))
        return;
    if (channel >= said->channel_count) {
        uint32_t count = channel + 1U;
        said->transfers = heap_resize(said->transfers, count * sizeof *said->transfers);
        memset(said->transfers + said->channel_count, 0,
               (count - said->channel_count) * sizeof *said->transfers);
        said->channel_count = count;
    }
    if (performative == AMQP_BEGIN)
        said->transfers[channel] = 0;
    else
        said->transfers[channel]++;
}

/* Header or head are whole: what follows. */
static void look(struct amqp_said *said)
{
    static const uint8_t protocol[] = {'A', 'M', 'Q', 'P'}; /* its header is no frame */
    bool is_frame = memcmp(said->head, protocol, sizeof protocol) != 0;
    uint32_t size = is_frame ? load_u32(said->head) : AMQP_FRAME_HEADER;
    if (said->head_size == AMQP_FRAME_HEADER && size >= AMQP_SAID_HEAD)
        return;
    if (said->head_size == AMQP_SAID_HEAD)
        take_head(said);
    said->left = size > said->head_size ? size - said->head_size : 0;
    said->head_size = 0;
}

void amqp_said_pass(struct amqp_said *said, struct span bytes)
{
    while (bytes.size > 0) {
        bool is_head = said->left == 0;
        uint32_t wanted = !is_head ? said->left
                          : said->head_size < AMQP_FRAME_HEADER
                              ? AMQP_FRAME_HEADER - said->head_size
                              : AMQP_SAID_HEAD - said->head_size;
        uint32_t size = bytes.size < wanted ? (uint32_t)bytes.size : wanted;
        if (is_head) {
            memcpy(said->head + said->head_size, bytes.data, size);
            said->head_size += size;
            if (size == wanted)
                look(said);
        } else {
            said->left -= size;
        }
        bytes = span_from(bytes, size);
    }
}

uint32_t amqp_said_transfers(const struct amqp_said *said, uint16_t channel)
{
    return channel < said->channel_count ? said->transfers[channel] : 0;
}
