/* SPDX-License-Identifier: Apache-2.0 */
/* Incoming frames looked at, nearly all of them at a glance. */
#include "adapters/amqp/frames.h"
#include "adapters/amqp/codec.h"
#include "core/base/pack.h"

enum {
    HEADER_BYTES = 8,
    PLAIN_BYTES = HEADER_BYTES + 4, /* with the descriptor that everybody writes, and a byte more */
    NO_LIST = 0x45,
    SMALL_LIST = 0xc0,
    SMALL_ULONG = 0x53,
    NO_ULONG = 0x44,
    SMALL_SYMBOL = 0xa3,
    TRANSFER_RESUME = 8, /* field of transfer */
    PROTOCOL_SASL = 3,
    PROTOCOL_AMQP = 0
};

static const uint8_t protocol_name[] = {'A', 'M', 'Q', 'P'}, protocol_version[] = {1, 0, 0};

void amqp_frames_init(struct amqp_frames *frames, uint32_t size_max)
{
    *frames = (struct amqp_frames){.phase = AMQP_PHASE_HEADER, .size_max = size_max};
    buf_init(&frames->attach, size_max);
}

void amqp_frames_deinit(struct amqp_frames *frames)
{
    buf_deinit(&frames->attach);
}

static bool is_list(uint8_t type)
{
    return type == NO_LIST || type == SMALL_LIST || type == AMQP_LIST;
}

static bool is_known(const struct amqp_frames *frames, uint64_t code)
{
    if (frames->phase == AMQP_PHASE_SASL)
        return code == AMQP_SASL_INIT || code == AMQP_SASL_RESPONSE;
    return code >= AMQP_OPEN && code <= AMQP_CLOSE;
}

static void next_phase(struct amqp_frames *frames, const uint8_t *header)
{
    bool ours = memcmp(header, protocol_name, sizeof protocol_name) == 0 &&
                memcmp(header + 5, protocol_version, sizeof protocol_version) == 0;
    if (ours && header[4] == PROTOCOL_AMQP)
        frames->phase = AMQP_PHASE_FRAMES;
    else if (ours && header[4] == PROTOCOL_SASL && frames->phase == AMQP_PHASE_HEADER)
        frames->phase = AMQP_PHASE_SASL;
    else
        frames->phase = AMQP_PHASE_OTHER;
}

static uint32_t is(struct amqp_frames *frames, enum amqp_verdict verdict)
{
    frames->verdict = verdict;
    return 0;
}

/* Bytes of a descriptor of that type; 0: it is none. A symbol would do too, but nobody writes it
 * (1.3.1), and Proton knows none. */
static uint32_t descriptor_bytes(struct amqp_frames *frames, uint8_t type)
{
    switch (type) {
    case SMALL_ULONG:
        return 3;
    case AMQP_ULONG:
        return 10;
    case NO_ULONG:
    case SMALL_SYMBOL:
    case AMQP_SYMBOL:
        return is(frames, AMQP_UNKNOWN);
    default:
        return is(frames, AMQP_UNREADABLE);
    }
}

/* Is the list, as far as it is there, that of a TRANSFER that is resumed? 0: not enough of it is
 * there. */
static uint32_t look_for_resume(struct amqp_frames *frames, uint32_t size, struct span list,
                                bool whole)
{
    struct reader at = reader_of(list);
    struct amqp_value value, field;
    bool read = amqp_value_read(&at, &value);
    if (!read && !whole)
        return 0;
    at = reader_of(value.bytes);
    for (uint32_t i = 0; read && i <= TRANSFER_RESUME; i++)
        read = i < value.count && amqp_value_read(&at, &field);
    frames->is_resumed = read && field.type == AMQP_BOOLEAN && field.number != 0;
    return size;
}

/* A frame's size when its body, as far as there, begins with a performative; 0: it does not, or
 * there is not enough of it yet. */
static uint32_t look_inside(struct amqp_frames *frames, uint32_t size, struct span body, bool whole)
{
    if (body.size > 0 && body.data[0] != 0)
        return is(frames, AMQP_UNREADABLE);
    if (body.size < 2)
        return whole ? is(frames, AMQP_UNREADABLE) : 0;
    uint32_t bytes = descriptor_bytes(frames, body.data[1]);
    if (bytes == 0)
        return 0;
    if (body.size <= bytes)
        return whole ? is(frames, AMQP_UNREADABLE) : 0;
    uint64_t code = bytes == 3 ? body.data[2] : load_u64(body.data + 2);
    if (!is_known(frames, code))
        return is(frames, AMQP_UNKNOWN);
    if (!is_list(body.data[bytes]))
        return is(frames, AMQP_UNREADABLE);
    if (frames->looks && code == AMQP_TRANSFER)
        return look_for_resume(frames, size, span_from(body, bytes), whole);
    frames->is_attach = code == AMQP_ATTACH;
    return size;
}

/* The size of a frame or a protocol header that begins there; 0 as above. */
static uint32_t look(struct amqp_frames *frames, struct span bytes)
{
    if (bytes.size < HEADER_BYTES)
        return 0;
    const uint8_t *at = bytes.data;
    if (frames->phase == AMQP_PHASE_HEADER ||
        (frames->phase == AMQP_PHASE_SASL &&
         memcmp(at, protocol_name, sizeof protocol_name) == 0)) {
        next_phase(frames, at);
        return HEADER_BYTES;
    }
    uint32_t size = load_u32(at), offset = 4 * (uint32_t)at[4];
    uint8_t type = frames->phase == AMQP_PHASE_SASL ? 1 : 0;
    if (size > frames->size_max || offset < HEADER_BYTES || offset > size || at[5] != type)
        return is(frames, AMQP_NO_FRAME);
    if (bytes.size > size)
        bytes.size = size;
    if (bytes.size < offset)
        return 0;
    if (size == offset)
        return size; /* keeps alive */
    return look_inside(frames, size, span_from(bytes, offset), bytes.size == size);
}

/* The same of a frame as nearly all are; 0: it is to be looked at closely. */
static uint32_t glance(const struct amqp_frames *frames, struct span bytes)
{
    const uint8_t *at = bytes.data;
    if (frames->phase != AMQP_PHASE_FRAMES || bytes.size < PLAIN_BYTES)
        return 0;
    uint32_t size = load_u32(at);
    bool plain = at[4] == 2 && at[5] == 0 && at[8] == 0 && at[9] == SMALL_ULONG &&
                 at[10] >= AMQP_OPEN && at[10] <= AMQP_CLOSE && at[10] != AMQP_ATTACH &&
                 is_list(at[11]) && !(frames->looks && at[10] == AMQP_TRANSFER);
    return plain && size >= PLAIN_BYTES && size <= frames->size_max ? size : 0;
}

/* What has come of a frame whose beginning is known; true: its end, and to be dealt with. */
static bool take(struct amqp_frames *frames, struct span bytes)
{
    if (frames->is_attach)
        buf_append(&frames->attach, bytes.data, bytes.size); /* without memory it says less */
    frames->left -= (uint32_t)bytes.size;
    if (frames->left > 0)
        return false;
    bool alone = frames->is_attach || frames->is_resumed || frames->phase == AMQP_PHASE_SASL;
    frames->is_attach = false;
    return alone;
}

size_t amqp_frames_pass(struct amqp_frames *frames, struct span bytes)
{
    size_t at = 0;
    bool alone = false;
    if (frames->phase == AMQP_PHASE_OTHER)
        return bytes.size;
    if (frames->left == 0)
        frames->is_resumed = false;
    while (at < bytes.size && frames->verdict == AMQP_GOOD && !alone) {
        struct span next = span_from(bytes, at);
        if (frames->left == 0) {
            frames->left = glance(frames, next);
            if (frames->left == 0)
                frames->left = look(frames, next);
            if (frames->left == 0 || frames->phase == AMQP_PHASE_OTHER)
                break;
            if (frames->is_resumed && at > 0) { /* what is before it is dealt with first */
                frames->left = 0;
                frames->is_resumed = false;
                break;
            }
            if (frames->is_attach) { /* what is before the descriptor says nothing */
                size_t offset = 4 * (size_t)next.data[4];
                buf_clear(&frames->attach);
                frames->left -= (uint32_t)offset;
                at += offset;
                next = span_from(bytes, at);
            }
        }
        if (next.size > frames->left)
            next.size = frames->left;
        alone = take(frames, next);
        at += next.size;
    }
    return frames->phase == AMQP_PHASE_OTHER ? bytes.size : at;
}
