/* SPDX-License-Identifier: Apache-2.0 */
/* A stream cut anywhere has the same packets as the whole stream. The first byte seeds the cuts. */
#include "adapters/mqtt/codec.h"
#include "core/base/buf.h"
#include "core/base/check.h"
#include "tests/fuzz/fuzz.h"

enum { PACKET_MAX = 4096 };

/* Where a reader of a stream is: how far, and what the last answer was. */
struct position {
    size_t consumed;
    unsigned packets;
    uint32_t digest; /* of all headers and bodies so far */
    enum mqtt_need need;
    size_t size; /* what mqtt_frame said of the packet that is not complete */
};

static void digest(struct position *position, uint8_t header, struct span body)
{
    position->digest = position->digest * 31 + header;
    for (size_t i = 0; i < body.size; i++)
        position->digest = position->digest * 31 + body.data[i];
    position->packets++;
}

/* Takes all complete packets; returns how many bytes they have. */
static size_t take(struct position *position, struct span input)
{
    size_t taken = 0;
    for (;;) {
        uint8_t header;
        struct span body;
        size_t size;
        position->need = mqtt_frame(span_from(input, taken), PACKET_MAX, &header, &body, &size);
        position->size = size;
        if (position->need != MQTT_FRAME_READY)
            break;
        CHECK(size <= input.size - taken && size <= PACKET_MAX);
        digest(position, header, body);
        taken += size;
    }
    position->consumed += taken;
    return taken;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    struct span input = span_of(data + 1, size - 1);
    struct position whole = {0}, cut = {0};
    take(&whole, input);

    uint32_t seed = data[0];
    struct buf buf;
    buf_init(&buf, size + 1);
    while (input.size != 0 && cut.need != MQTT_FRAME_MALFORMED &&
           cut.need != MQTT_FRAME_TOO_LARGE) {
        seed = seed * 1664525 + 1013904223;
        size_t chunk = 1 + (seed >> 16) % 7;
        chunk = chunk < input.size ? chunk : input.size;
        CHECK(buf_append(&buf, input.data, chunk) == STATUS_OK);
        input = span_from(input, chunk);
        size_t announced = cut.need == MQTT_FRAME_MORE ? cut.size : 0;
        size_t consumed = cut.consumed;
        buf_consume(&buf, take(&cut, buf_span(&buf)));
        if (announced != 0 && cut.consumed == consumed)
            CHECK(cut.size == announced); /* a size that is known does not change */
    }
    CHECK(cut.consumed == whole.consumed && cut.packets == whole.packets);
    CHECK(cut.digest == whole.digest && cut.need == whole.need && cut.size == whole.size);
    buf_deinit(&buf);
    return 0;
}
