/* SPDX-License-Identifier: Apache-2.0 */
/* AMQP frames in their widest encodings: what they weigh is not what is measured. */
#include "tests/bench/amqp.h"

#include <string.h>

enum { CREDIT = 1000, FRAME_BYTES = 16384, WINDOW = 1 << 30, HANDLE = 0, NONE = 0x40, TRUE = 0x41 };

static const uint8_t protocol[8] = {'A', 'M', 'Q', 'P', 0, 1, 0, 0};

static uint8_t *put_u32(uint8_t *at, uint32_t value)
{
    for (int shift = 24; shift >= 0; shift -= 8)
        *at++ = (uint8_t)(value >> shift);
    return at;
}

static uint32_t get_u32(const uint8_t *at)
{
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

static uint8_t *put_uint(uint8_t *at, uint32_t value)
{
    *at++ = 0x70;
    return put_u32(at, value);
}

static uint8_t *put_string(uint8_t *at, const char *string)
{
    size_t length = strnlen(string, AMQP_STRING_MAX);
    *at++ = 0xa1;
    *at++ = (uint8_t)length;
    memcpy(at, string, length);
    return at + length;
}

static uint8_t *put_descriptor(uint8_t *at, uint8_t code)
{
    *at++ = 0x00;
    *at++ = 0x53;
    *at++ = code;
    return at;
}

/* A frame with a list of so many fields, which follow; frame_end() puts the sizes in. */
static uint8_t *frame_begin(uint8_t *at, enum amqp_type type, uint32_t count)
{
    static const uint8_t rest[4] = {2, 0, 0, 0}; /* offset, type, channel */
    memcpy(at + 4, rest, sizeof rest);
    at = put_descriptor(at + 8, (uint8_t)type);
    *at++ = 0xd0;
    return put_u32(at + 4, count);
}

static uint8_t *frame_end(uint8_t *from, uint8_t *end)
{
    put_u32(from, (uint32_t)(end - from));
    put_u32(from + 12, (uint32_t)(end - from) - 16);
    return end;
}

/* A source or target with nothing but an address; NULL: not even that. */
static uint8_t *put_terminus(uint8_t *at, uint8_t code, const char *address)
{
    at = put_descriptor(at, code);
    if (address == NULL) {
        *at++ = 0x45;
        return at;
    }
    *at++ = 0xc0;
    *at++ = (uint8_t)(3 + strnlen(address, AMQP_STRING_MAX));
    *at++ = 1;
    return put_string(at, address);
}

static uint8_t *put_flow(uint8_t *out, uint32_t received)
{
    uint8_t *at = frame_begin(out, AMQP_FLOW, 7);
    at = put_uint(at, received); /* next-incoming-id */
    at = put_uint(at, WINDOW);
    at = put_uint(at, 0);
    at = put_uint(at, WINDOW);
    at = put_uint(at, HANDLE);
    at = put_uint(at, received); /* delivery-count */
    return frame_end(out, put_uint(at, CREDIT));
}

size_t amqp_connect(uint8_t *out, const char *container, const char *address)
{
    uint8_t *at = out, *from;
    memcpy(at, protocol, sizeof protocol);
    from = at + sizeof protocol;
    at = frame_begin(from, AMQP_OPEN, 3);
    at = put_string(at, container);
    *at++ = NONE;
    from = frame_end(from, put_uint(at, FRAME_BYTES));
    at = frame_begin(from, AMQP_BEGIN, 4);
    *at++ = NONE;
    at = put_uint(at, 0);
    at = put_uint(at, WINDOW);
    from = frame_end(from, put_uint(at, WINDOW));
    at = frame_begin(from, AMQP_ATTACH, 7);
    at = put_string(at, "load");
    at = put_uint(at, HANDLE);
    *at++ = TRUE; /* role: receiver */
    *at++ = NONE;
    *at++ = NONE;
    at = put_terminus(at, 0x28, address);
    from = frame_end(from, put_terminus(at, 0x29, NULL));
    return (size_t)(put_flow(from, 0) - out);
}

size_t amqp_close(uint8_t *out)
{
    return (size_t)(frame_end(out, frame_begin(out, AMQP_CLOSE, 0)) - out);
}

ssize_t amqp_frame(const uint8_t *bytes, size_t length, struct frame *frame)
{
    *frame = (struct frame){0};
    if (length < sizeof protocol)
        return 0;
    if (memcmp(bytes, protocol, sizeof protocol) == 0) {
        frame->type = AMQP_HEADER;
        return sizeof protocol;
    }
    uint32_t size = get_u32(bytes), head = 4u * bytes[4];
    if (size < 8 || size > FRAME_BYTES || head < 8 || head > size)
        return -1;
    if (length < size)
        return 0;
    if (size - head < 3)
        return size == head ? (ssize_t)size : -1;
    if (bytes[head] != 0x00 || bytes[head + 1] != 0x53)
        return -1;
    frame->type = bytes[head + 2];
    frame->body = bytes + head + 3;
    frame->length = size - head - 3;
    return size;
}

/* An unsigned integer or null; false: it is something else, or cut short. */
static bool take_uint(const uint8_t **at, const uint8_t *end, uint32_t *value)
{
    static const uint8_t sizes[][2] = {{0x40, 1}, {0x43, 1}, {0x52, 2}, {0x70, 5}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        if (*at == end || **at != sizes[i][0] || end - *at < sizes[i][1])
            continue;
        *value = sizes[i][1] == 5 ? get_u32(*at + 1) : sizes[i][1] == 2 ? (*at)[1] : 0;
        *at += sizes[i][1];
        return true;
    }
    return false;
}

bool amqp_read_transfer(struct amqp_receiver *receiver, const struct frame *frame, uint32_t size,
                        const uint8_t **body)
{
    uint32_t handle, delivery, tag, head = frame->length > 0 && frame->body[0] == 0xc0 ? 3 : 9;
    if (frame->type != AMQP_TRANSFER || frame->length < head + size)
        return false;
    const uint8_t *at = frame->body + head, *end = frame->body + frame->length;
    if (!take_uint(&at, end, &handle) || !take_uint(&at, end, &delivery) || at == end ||
        *at++ != 0xa0 || at == end)
        return false;
    tag = *at++;
    *body = end - size;
    if (handle != HANDLE || delivery != receiver->received || tag + size > (size_t)(end - at))
        return false;
    receiver->received++;
    return true;
}

size_t amqp_settle(struct amqp_receiver *receiver, uint8_t *out)
{
    if (receiver->received == receiver->settled)
        return 0;
    uint8_t *at = frame_begin(out, AMQP_DISPOSITION, 5);
    *at++ = TRUE; /* role: receiver */
    at = put_uint(at, receiver->settled);
    at = put_uint(at, receiver->received - 1);
    *at++ = TRUE; /* settled */
    at = put_descriptor(at, 0x24);
    *at++ = 0x45;
    at = frame_end(out, at);
    receiver->settled = receiver->received;
    if (receiver->received - receiver->credited >= CREDIT / 2) {
        at = put_flow(at, receiver->received);
        receiver->credited = receiver->received;
    }
    return (size_t)(at - out);
}
