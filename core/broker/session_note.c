/* SPDX-License-Identifier: Apache-2.0 */
/* What adapters keep with a session in words of their own. */
#include "core/base/hash.h"
#include "core/base/pack.h"
#include "core/base/reader.h"
#include "core/broker/session.h"

/* {u8 size of value, key, value} */
static void row_add(struct session *session, enum session_kind kind, uint64_t number,
                    struct span value, struct buf *notes)
{
    uint8_t head[1 + SESSION_STATE_KEY] = {(uint8_t)value.size};
    session_kind_key(session->id, kind, number, head + 1);
    CHECK(buf_append(notes, head, sizeof head) == STATUS_OK &&
          buf_append(notes, value.data, value.size) == STATUS_OK);
}

struct session *session_note_publish(const struct client *client, const struct publish *publish,
                                     struct buf *notes)
{
    const struct client *keeper = publish->keeper;
    if (keeper == NULL && publish->number != 0 && session_is_kept(client))
        row_add(client->session, SESSION_KIND_RECEIVED, publish->number, span_of("\1", 1), notes);
    if (keeper == NULL || !publish->answer || !session_is_kept(keeper))
        return NULL;
    CHECK(publish->note_key.size + publish->note_value.size <= PUBLISH_NOTE_BYTES);
    struct session *session = keeper->session;
    struct buf row;
    buf_init(&row, SESSION_NOTE_ROW);
    CHECK(session_note_encode(publish->note_key, publish->note_value, &row) == STATUS_OK);
    row_add(session, SESSION_KIND_NOTE, hash_stable(publish->note_key), buf_span(&row), notes);
    buf_deinit(&row);
    return session;
}

bool session_note_row(struct span *notes, struct span *key, struct span *value)
{
    struct reader reader = reader_of(*notes);
    size_t size = reader_u8(&reader);
    *key = reader_bytes(&reader, SESSION_STATE_KEY);
    *value = reader_bytes(&reader, size);
    *notes = reader_bytes(&reader, reader_left(&reader));
    return !reader.failed;
}

static void stored(void *context, enum status status, uint64_t commit)
{
    struct broker_note *note = context;
    (void)commit;
    request_complete(&note->request, status);
}

void broker_note(struct broker_note *note)
{
    struct client *client = note->client;
    if (!session_is_kept(client)) {
        request_complete(&note->request, STATUS_OK);
        return;
    }
    struct session_rows *rows = session_rows_new(client->session);
    uint8_t key[SESSION_STATE_KEY];
    struct buf row;
    buf_init(&row, LIMIT_NOTE_BYTES + 5);
    CHECK(session_note_encode(note->key, note->value, &row) == STATUS_OK);
    session_kind_key(client->session->id, SESSION_KIND_NOTE, hash_stable(note->key), key);
    session_rows_add(rows, STORAGE_PUT, span_of(key, sizeof key), buf_span(&row));
    buf_deinit(&row);
    session_rows_send(rows, stored, note);
}

void broker_note_forget(struct client *client, struct span name)
{
    if (!session_is_kept(client))
        return;
    struct session_rows *rows = session_rows_new(client->session);
    uint8_t key[SESSION_STATE_KEY];
    session_kind_key(client->session->id, SESSION_KIND_NOTE, hash_stable(name), key);
    session_rows_add(rows, STORAGE_DELETE, span_of(key, sizeof key), (struct span){0});
    session_rows_send(rows, NULL, NULL);
}

/* In memory each is {u32 size of key, u32 size of value, key, value}. */
enum status session_note_load(struct span row, struct buf *notes)
{
    struct span key, value;
    enum status status = session_note_decode(row, &key, &value);
    if (status != STATUS_OK)
        return status;
    struct pack pack = pack_into(notes);
    pack_u32(&pack, (uint32_t)key.size);
    pack_u32(&pack, (uint32_t)value.size);
    pack_bytes(&pack, key);
    pack_bytes(&pack, value);
    return pack.status;
}

bool broker_note_next(struct span *notes, struct span *key, struct span *value)
{
    struct reader reader = reader_of(*notes);
    uint32_t key_size = reader_u32(&reader), value_size = reader_u32(&reader);
    *key = reader_bytes(&reader, key_size);
    *value = reader_bytes(&reader, value_size);
    *notes = reader_bytes(&reader, reader_left(&reader));
    return !reader.failed;
}
