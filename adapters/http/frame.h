/* SPDX-License-Identifier: Apache-2.0 */
/* The frames of WebSocket (RFC 6455): heads, masks, what a Close frame says, and what the two sides
 * agree on in the handshake. Pure functions over peer bytes; core/base only. */
#ifndef ADAPTERS_HTTP_FRAME_H
#define ADAPTERS_HTTP_FRAME_H

#include "core/base/span.h"
#include "core/base/status.h"

enum frame_kind {
    FRAME_CONTINUATION = 0,
    FRAME_TEXT = 1,
    FRAME_BINARY = 2,
    FRAME_CLOSE = 8,
    FRAME_PING = 9,
    FRAME_PONG = 10
};

enum { FRAME_HEAD_MAX = 14, FRAME_OUT_HEAD_MAX = 10, FRAME_CONTROL_MAX = 125 };

/* Why a connection ends (RFC 6455, 7.4.1). */
enum close_code {
    CLOSE_NORMAL = 1000,
    CLOSE_GOING_AWAY = 1001,
    CLOSE_PROTOCOL_ERROR = 1002,
    CLOSE_UNACCEPTABLE = 1003,
    CLOSE_NONE = 1005, /* never sent: the peer gave none */
    CLOSE_NOT_TEXT = 1007,
    CLOSE_POLICY = 1008,
    CLOSE_TOO_LARGE = 1009,
    CLOSE_TRY_LATER = 1013
};

struct frame {
    enum frame_kind kind;
    bool last;       /* of its message */
    bool compressed; /* RSV1 */
    uint64_t size;   /* of the payload, which follows the head */
    uint8_t mask[4];
};

/* The head of a client's frame at the front of bytes. OK: *head is its size, or 0 when it is not
 * complete yet. MALFORMED: reserved bits or kinds, no mask, a fragmented or large control frame, a
 * size that was not written in the shortest way. */
enum status frame_read(struct span bytes, struct frame *frame, size_t *head);

/* The head of a server's frame; to has FRAME_OUT_HEAD_MAX bytes. Returns its size. */
size_t frame_write(enum frame_kind kind, bool last, bool compressed, uint64_t size, uint8_t *to);

/* to[i] = from[i] ^ mask[(begun + i) % 4]; begun: bytes of this payload unmasked before. The two
 * may overlap when to lies at or before from. */
void frame_unmask(uint8_t *to, const uint8_t *from, size_t size, const uint8_t mask[4],
                  uint64_t begun);

/* How the bytes of successive frames make messages. Zero-initialised. */
struct frame_order {
    bool open;       /* a message has begun and not ended */
    bool compressed; /* that message */
    enum frame_kind kind;
};
/* May this data frame come now? compression: agreed on. MALFORMED: a continuation of nothing, a
 * message within another, RSV1 where it does not belong. */
enum status frame_follow(struct frame_order *order, const struct frame *frame, bool compression);

/* The payload of a Close frame: its code (CLOSE_NONE when empty). MALFORMED: one byte, a code that
 * may not be sent, a reason that is not UTF-8. */
enum status close_read(struct span payload, unsigned *code);

/* ---------------------------------------------------------------- the handshake */

/* Takes the next element of a comma-separated list off its front; false: there is none. Commas
 * within quotes do not count. */
bool list_next(struct span *list, struct span *element);
/* Is this 16 bytes in base64? */
bool websocket_key_is_valid(struct span key);

/* permessage-deflate (RFC 7692) as it was agreed on. */
struct deflate_terms {
    bool agreed;
    uint8_t server_window_bits; /* 8 to 15: what we send never reaches back further */
    bool say_server_window;     /* the answer names it */
};
/* The first offer of the list that can be taken. No context is kept between messages, which a
 * server may decide alone (7.1.1), so the client's window needs no limit. */
void deflate_negotiate(struct span offers, struct deflate_terms *terms);

#endif
