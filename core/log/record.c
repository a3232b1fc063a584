/* SPDX-License-Identifier: Apache-2.0 */
/* Walking the headers of one record. */
#include "core/log/record.h"

#include "core/log/varint.h"

/* A length and that many bytes. -1 is null, which only values may be. */
static bool take_text(struct reader *at, bool nullable, struct span *text)
{
    int64_t size;
    const uint8_t *data = varint_take(at->at, at->end, &size);
    if (data == NULL || size < (nullable ? -1 : 0) || size > at->end - data)
        return false;
    *text = size < 0 ? (struct span){0} : span_of(data, (size_t)size);
    at->at = size < 0 ? data : data + size;
    return true;
}

bool record_next_header(struct reader *at, struct header *header)
{
    if (at->at == at->end)
        return false;
    if (take_text(at, false, &header->name) && take_text(at, true, &header->value))
        return true;
    at->failed = true;
    at->at = at->end;
    return false;
}

struct span header_stored_name(struct span given, struct arena *arena)
{
    if (!header_begins_as_own(given))
        return given;
    uint8_t *stored = arena_alloc(arena, HEADER_OWN_PREFIX_SIZE + given.size);
    if (stored == NULL)
        return (struct span){0};
    memcpy(stored, HEADER_OWN_PREFIX, HEADER_OWN_PREFIX_SIZE);
    memcpy(stored + HEADER_OWN_PREFIX_SIZE, given.data, given.size);
    return span_of(stored, HEADER_OWN_PREFIX_SIZE + given.size);
}

bool record_find(const struct record *record, const char *name, struct span *value)
{
    struct span wanted = span_from_text(name);
    struct reader at = reader_of(record->headers);
    struct header header;
    while (record_next_header(&at, &header)) {
        if (!span_equal(header.name, wanted))
            continue;
        *value = header.value;
        return true;
    }
    return false;
}
