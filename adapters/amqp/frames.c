/* SPDX-License-Identifier: Apache-2.0 */
/* Incoming frames looked at, nearly all of them at a glance. */
#include "adapters/amqp/frames.h"
#include "adapters/amqp/codec.h"
#include "core/base/pack.h"

enum {
    /* With the descriptor that everybody writes, and a byte more. */
    PLAIN_BYTES = AMQP_FRAME_HEADER + 4,
    WIDE = 100,
    PROTOCOL_SASL = 3,
    PROTOCOL_AMQP = 0
};

static const uint8_t protocol_name[] = {'A', 'M', 'Q', 'P'}, protocol_version[] = {1, 0, 0};

void amqp_frames_init(struct amqp_frames *frames, uint32_t size_max)
{
    *frames = (struct amqp_frames){.phase = AMQP_PHASE_HEADER, .size_max = size_max};
    buf_init(&frames->attach, size_max);
    amqp_channels_init(&frames->channels);
}

void amqp_frames_deinit(struct amqp_frames *frames)
{
    buf_deinit(&frames->attach);
    amqp_channels_deinit(&frames->channels);
}

static bool is_list(uint8_t type)
{
    return type == AMQP_LIST_0 || type == AMQP_LIST_SMALL || type == AMQP_LIST;
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

/* Which makes it no frame to pass on. */
static bool is(struct amqp_frames *frames, enum amqp_verdict verdict)
{
    frames->verdict = verdict;
    return false;
}

/* Bytes of a descriptor of that type; 0: it is none. A symbol would do too, but nobody writes it
 * (1.3.1), and Proton knows none. */
static uint32_t descriptor_bytes(struct amqp_frames *frames, uint8_t type)
{
    switch (type) {
    case AMQP_ULONG_SMALL:
        return 3;
    case AMQP_ULONG:
        return 10;
    case AMQP_ULONG_0:
    case AMQP_SYMBOL_SMALL:
    case AMQP_SYMBOL:
        return is(frames, AMQP_UNKNOWN);
    default:
        return is(frames, AMQP_UNREADABLE);
    }
}

/* A frame that begins: its size, and where the list of its performative is; 0: it has none. */
struct beginning {
    uint32_t size, list;
    uint8_t performative;
};

/* Its performative, in its body as far as that is there; false: it has none, or there is not enough
 * of it yet. */
static bool look_inside(struct amqp_frames *frames, struct span body, bool whole,
                        struct beginning *beginning)
{
    if (body.size > 0 && body.data[0] != 0)
        return is(frames, AMQP_UNREADABLE);
    if (body.size < 2)
        return whole ? is(frames, AMQP_UNREADABLE) : false;
    uint32_t bytes = descriptor_bytes(frames, body.data[1]);
    if (bytes == 0)
        return false;
    if (body.size <= bytes)
        return whole ? is(frames, AMQP_UNREADABLE) : false;
    uint64_t code = bytes == 3 ? body.data[2] : load_u64(body.data + 2);
    if (!is_known(frames, code))
        return is(frames, AMQP_UNKNOWN);
    if (!is_list(body.data[bytes]))
        return is(frames, AMQP_UNREADABLE);
    beginning->performative = (uint8_t)code;
    beginning->list += bytes;
    return true;
}

/* A frame or a protocol header that begins there; false: as above. */
static bool look(struct amqp_frames *frames, struct span bytes, struct beginning *beginning)
{
    *beginning = (struct beginning){.size = AMQP_FRAME_HEADER};
    if (bytes.size < AMQP_FRAME_HEADER)
        return false;
    const uint8_t *at = bytes.data;
    if (frames->phase == AMQP_PHASE_HEADER ||
        (frames->phase == AMQP_PHASE_SASL &&
         memcmp(at, protocol_name, sizeof protocol_name) == 0)) {
        next_phase(frames, at);
        return true;
    }
    uint32_t size = load_u32(at), offset = 4 * (uint32_t)at[4];
    uint8_t type = frames->phase == AMQP_PHASE_SASL ? 1 : 0;
    if (size > frames->size_max || offset < AMQP_FRAME_HEADER || offset > size || at[5] != type)
        return is(frames, AMQP_NO_FRAME);
    beginning->size = size;
    if (bytes.size > size)
        bytes.size = size;
    if (bytes.size < offset)
        return false;
    if (size == offset) /* keeps alive */
        return true;
    beginning->list = offset;
    return look_inside(frames, span_from(bytes, offset), bytes.size == size, beginning);
}

/* The same of a frame as nearly all are; false: it is to be looked at closely. */
static bool glance(const struct amqp_frames *frames, struct span bytes, struct beginning *beginning)
{
    const uint8_t *at = bytes.data;
    if (frames->phase != AMQP_PHASE_FRAMES || bytes.size < PLAIN_BYTES)
        return false;
    *beginning = (struct beginning){load_u32(at), PLAIN_BYTES - 1, at[10]};
    bool plain = at[4] == 2 && at[5] == 0 && at[8] == 0 && at[9] == AMQP_ULONG_SMALL &&
                 at[10] >= AMQP_OPEN && at[10] <= AMQP_CLOSE && is_list(at[11]);
    return plain && beginning->size >= PLAIN_BYTES && beginning->size <= frames->size_max;
}

/* It may be the end of links (ATTACH of another one of its name), of which TRANSFERs before it may
 * have to wait (amqp_pause()). */
static bool may_end_links(enum amqp_performative performative)
{
    return performative == AMQP_ATTACH || performative == AMQP_DETACH || performative == AMQP_END ||
           performative == AMQP_CLOSE;
}

/* Proton makes an event of each delivery in its range. */
static bool is_wide(const struct amqp_named *named)
{
    return named->performative == AMQP_DISPOSITION && named->last - named->delivery > WIDE;
}

/* What it names is there, or why it is not passed on; false: not now, as too little of it has come
 * or it is not the first, or never. */
static bool may_begin(struct amqp_frames *frames, struct span bytes, bool is_first,
                      const struct beginning *beginning)
{
    struct amqp_named named;
    bool whole = bytes.size >= beginning->size;
    if (whole)
        bytes.size = beginning->size;
    enum amqp_fate fate = amqp_channels_look(
        &frames->channels, (enum amqp_performative)beginning->performative,
        load_u16(bytes.data + 6), span_from(bytes, beginning->list), whole, &named);
    switch (fate) {
    case AMQP_UNFINISHED:
        return false;
    case AMQP_UNDECODABLE:
        return is(frames, AMQP_UNREADABLE);
    case AMQP_CHANNEL_IN_USE:
        return is(frames, AMQP_BEGUN);
    case AMQP_ANSWERS_NONE:
        return is(frames, AMQP_UNASKED);
    case AMQP_PASSES:
    case AMQP_DISCARDED:
    case AMQP_UNATTACHED:
    case AMQP_HANDLE_IN_USE:
    case AMQP_HANDLE_OF_NONE:
    case AMQP_NAME_IN_USE:
    case AMQP_WRONG_WAY:
    case AMQP_WRONG_DELIVERY:
    case AMQP_WRONG_RANGE:
    case AMQP_VALUES_TOO_MANY:
        break;
    }
    bool dropped = fate != AMQP_PASSES;
    bool is_large = !dropped && amqp_lean_is_needed(&named, bytes, beginning->size);
    bool by_itself = dropped || named.resumes || named.format != 0 || is_large ||
                     may_end_links(named.performative);
    if ((by_itself && !is_first) || (is_large && !whole))
        return false;
    amqp_channels_take(&frames->channels, &named);
    frames->is_resumed = named.resumes && !dropped;
    frames->format = dropped ? 0 : named.format;
    frames->is_dropped = dropped;
    frames->fate = fate == AMQP_DISCARDED ? AMQP_PASSES : fate;
    bool asks = !dropped && (named.echo.is_asked || named.echo.drains);
    if (asks)
        frames->echo = named.echo;
    if (fate != AMQP_DISCARDED && (dropped || asks || named.performative == AMQP_BEGIN))
        frames->channel = named.channel;
    if (!dropped && named.performative == AMQP_ATTACH) {
        /* What is before the descriptor says nothing. Without memory it says less. */
        buf_clear(&frames->attach);
        size_t offset = 4 * (size_t)bytes.data[4];
        buf_append(&frames->attach, bytes.data + offset, bytes.size - offset);
    }
    if (is_large)
        amqp_lean_write(&frames->lean, &named, bytes);
    /* Proton would put pieces together before they are taken. */
    bool is_piece = named.performative == AMQP_TRANSFER && named.more;
    frames->is_alone = dropped || asks || is_large || is_piece || is_wide(&named) ||
                       named.resumes || named.format != 0 || named.performative == AMQP_BEGIN ||
                       named.performative == AMQP_ATTACH;
    return true;
}

size_t amqp_frames_pass(struct amqp_frames *frames, struct span bytes)
{
    size_t at = 0;
    if (frames->phase == AMQP_PHASE_OTHER)
        return bytes.size;
    if (frames->left == 0) {
        frames->is_resumed = false;
        frames->format = 0;
        frames->is_dropped = false;
        frames->echo.is_asked = frames->echo.drains = false;
        frames->lean.size = 0;
        frames->lean.payload = frames->lean.detail = span_of(NULL, 0);
    }
    while (at < bytes.size && frames->verdict == AMQP_GOOD) {
        struct span next = span_from(bytes, at);
        if (frames->left == 0) {
            struct beginning beginning;
            if (!glance(frames, next, &beginning) && !look(frames, next, &beginning))
                break;
            if (frames->phase == AMQP_PHASE_OTHER)
                return bytes.size;
            frames->is_alone = frames->phase == AMQP_PHASE_SASL;
            if (frames->phase == AMQP_PHASE_FRAMES && beginning.list > 0 &&
                !may_begin(frames, next, at == 0, &beginning))
                break;
            frames->left = beginning.size;
        }
        size_t size = next.size < frames->left ? next.size : frames->left;
        frames->left -= (uint32_t)size;
        at += size;
        if (frames->left == 0 && frames->is_alone)
            break;
    }
    return at;
}
