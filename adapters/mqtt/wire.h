/* SPDX-License-Identifier: Apache-2.0 */
/* MQTT's data types (5.0, 1.5), private to the codec. Reading what is ill-formed fails the reader,
 * so that a decoder asks once; the size of what cannot be written is above that of any packet. */
#ifndef ADAPTERS_MQTT_WIRE_H
#define ADAPTERS_MQTT_WIRE_H

#include "adapters/mqtt/properties.h"
#include "core/base/pack.h"
#include "core/base/reader.h"
#include "core/base/utf8.h"

static inline struct span wire_binary(struct reader *reader)
{
    return reader_bytes(reader, reader_u16(reader));
}

static inline struct span wire_text(struct reader *reader)
{
    struct span text = wire_binary(reader);
    if (!utf8_is_valid_no_nul(text))
        reader->failed = true;
    return text;
}

/* At most four bytes, and no more than the value needs (MQTT-1.5.5-1). */
static inline uint32_t wire_varint(struct reader *reader)
{
    uint32_t value = 0;
    for (unsigned shift = 0; shift < 28; shift += 7) {
        uint8_t byte = reader_u8(reader);
        value |= (uint32_t)(byte & 0x7f) << shift;
        if (byte < 0x80) {
            if (byte == 0 && shift > 0)
                reader->failed = true;
            return value;
        }
    }
    reader->failed = true;
    return 0;
}

/* Above the largest packet, and small enough that sums of it do not overflow. */
#define WIRE_IMPOSSIBLE ((size_t)1 << 29)

static inline size_t wire_text_size(struct span text)
{
    return text.size > UINT16_MAX ? WIRE_IMPOSSIBLE : 2 + text.size;
}

static inline size_t wire_number_size(uint32_t value)
{
    return value > MQTT_VARINT_MAX ? WIRE_IMPOSSIBLE : mqtt_varint_size(value);
}

static inline uint8_t *wire_put_bytes(uint8_t *to, struct span bytes)
{
    if (bytes.size != 0)
        memcpy(to, bytes.data, bytes.size);
    return to + bytes.size;
}

static inline uint8_t *wire_put_text(uint8_t *to, struct span text)
{
    store_u16(to, (uint16_t)text.size);
    return wire_put_bytes(to + 2, text);
}

#endif
