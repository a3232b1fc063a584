/* SPDX-License-Identifier: Apache-2.0 */
/* Rows of shares as bytes. */
#include "core/broker/share_rows.h"

#include "core/base/pack.h"
#include "core/log/table.h"

/* No client has a name with a zero in it. */
static const char PREFIX[7] = {'\0', 's', 'h', 'a', 'r', 'e', '\0'};

void share_row_key(uint64_t share, enum share_kind kind, uint64_t partition, uint64_t offset,
                   uint8_t key[SHARE_ROW_KEY])
{
    key[0] = TABLE_SHARE;
    store_u64(key + 1, share);
    key[9] = (uint8_t)kind;
    store_u64(key + 10, partition);
    store_u64(key + 18, offset);
}

void share_member_key(uint64_t share, uint64_t session, uint8_t key[SHARE_ROW_KEY])
{
    share_row_key(share, SHARE_KIND_MEMBER, session, 0, key);
}

void share_due_key(uint64_t tenant, uint64_t share, uint64_t session, uint8_t key[SESSION_DUE_KEY])
{
    uint8_t text[SHARE_NAME];
    struct session_name name = session_name_of(tenant, share_name(share, text));
    session_due_key(session & UINT32_MAX, &name, key); /* milliseconds: early in 1970 */
}

void share_due_value(uint64_t share, uint8_t value[SHARE_DUE])
{
    store_u64(value, share);
}

uint64_t share_of_due(struct span value)
{
    return value.size == SHARE_DUE ? load_u64(value.data) : 0;
}

bool share_row_decode(struct span key, enum share_kind *kind, struct share_ref *ref)
{
    if (key.size != SHARE_ROW_KEY || key.data[0] != TABLE_SHARE)
        return false;
    *kind = (enum share_kind)key.data[9];
    *ref = (struct share_ref){
        .partition = load_u64(key.data + 10),
        .offset = load_u64(key.data + 18),
        .returned = *kind == SHARE_KIND_RETURNED,
    };
    return *kind == SHARE_KIND_GONE || *kind == SHARE_KIND_RETURNED;
}

struct span share_name(uint64_t share, uint8_t name[SHARE_NAME])
{
    memcpy(name, PREFIX, sizeof PREFIX);
    store_u64(name + sizeof PREFIX, share);
    return span_of(name, SHARE_NAME);
}

uint64_t share_of_name(struct span name)
{
    if (name.size != SHARE_NAME || memcmp(name.data, PREFIX, sizeof PREFIX) != 0)
        return 0;
    return load_u64(name.data + sizeof PREFIX);
}
