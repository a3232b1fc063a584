/* SPDX-License-Identifier: Apache-2.0 */
/* A name of a client changes hands: what was under way for it before, and for whom nobody waits. */
#include "tests/unit/late_rig.h"

/* On worker 1, when the append that its name's last client has under way is stored, and not before.
 */
static void attach_behind_append(struct attach_call *call)
{
    await(waiting(&late.append_count) == 1);
    request_init(&call->attach.request, rig.loops[1], attach_call_done);
    on(1, attach_call_run, call);
    usleep(20000);
    assert_false(atomic_load(&call->done));
    appends_go_on();
    rig_await(&call->done);
    assert_int_equal(call->status, STATUS_OK);
}

/* Also where nothing of the client is kept: what it publishes on its next connection comes behind.
 */
static void a_name_changes_hands_when_what_was_published_is_stored(void **state)
{
    (void)state;
    late_rig_open(2);
    restart(NO_SWEEP_MS);
    bool present;
    struct peer *older = peer_attach(0, "one", 0, NULL, &present), *newer = peer_new(1, "one");
    let_appends_wait();
    publish_many(older, "t", GUARANTEE_AT_LEAST_ONCE, 0, 1);
    struct attach_call call = {.attach = {.client = &newer->client}};
    attach_behind_append(&call);
    heap_free(call.attach.received);
    buf_deinit(&call.attach.notes);
    peer_free(older);
    peer_close(newer);
    late_rig_close();
}

static void publish_noted(struct peer *writer, const struct peer *keeper, const char *note,
                          struct publish publish)
{
    publish.guarantee = GUARANTEE_AT_LEAST_ONCE;
    publish.answer = true;
    publish.keeper = &keeper->client;
    publish.note_key = publish.note_value = span_from_text(note);
    struct publish_call call = {.peer = writer, .publish = publish, .count = 1};
    on(writer->worker, publish_call_run, &call);
}

/* Whoever has the keeper's name next finds all of them. */
static void a_note_is_stored_with_its_record_or_not_at_all(void **state)
{
    (void)state;
    late_rig_open(2);
    restart(NO_SWEEP_MS);
    bool present;
    const struct span topic = span_from_text("t");
    struct peer *older = peer_attach(0, "keeper", UINT32_MAX, NULL, &present);
    struct peer *writer = peer_new(0, "writer"), *newer = peer_new(1, "keeper");
    publish_noted(writer, older, "a", (struct publish){.topic = topic});
    publish_noted(writer, older, "b", (struct publish){.topic = span_from_text("#")});
    publish_noted(writer, older, "c",
                  (struct publish){.topic = topic, .dedup_id = span_from_text("id")});
    publish_noted(writer, older, "d", (struct publish){.topic = topic, .delay_ms = 60000});
    await_answers(writer, 4);
    let_appends_wait();
    publish_noted(writer, older, "e", (struct publish){.topic = topic});
    struct attach_call call = {.attach = {.client = &newer->client, .expiry_s = UINT32_MAX}};
    attach_behind_append(&call);
    assert_true(call.attach.present);
    struct span notes = buf_span(&call.attach.notes), key, value;
    unsigned found = 0;
    while (broker_note_next(&notes, &key, &value)) {
        assert_true(span_equal(key, value));
        found |= 1u << (key.data[0] - 'a');
    }
    assert_int_equal(found, 1 | 8 | 16);
    heap_free(call.attach.received);
    buf_deinit(&call.attach.notes);
    peer_free(older);
    peer_close(writer);
    peer_close(newer);
    late_rig_close();
}

static void begin_at_once(struct request *request, enum status status)
{
    struct attach_call *call = container_of(request, struct attach_call, attach.request);
    if (status == STATUS_OK) {
        struct client *client = call->attach.client;
        assert_false(broker_session_is_kept(client));
        broker_session_expiry(client, 7);
        assert_false(broker_session_is_kept(client));
        broker_session_begin(client);
    }
    attach_call_done(request, status);
}

static void attach_two_run(void *context)
{
    struct attach_call *calls = context;
    broker_attach(&calls[0].attach);
    broker_attach(&calls[1].attach);
}

/* The second one comes when the first has been answered, and has not heard that. */
static void a_name_is_lost_before_the_session_begins(void **state)
{
    (void)state;
    late_rig_open(1);
    struct peer *peers[2];
    struct attach_call calls[2] = {0};
    for (unsigned i = 0; i < 2; i++) {
        peers[i] = peer_new(0, "one");
        calls[i].attach.client = &peers[i]->client;
        request_init(&calls[i].attach.request, rig.loops[0], begin_at_once);
    }
    on(0, attach_two_run, calls);
    rig_await(&calls[1].done);
    assert_true(atomic_load(&calls[0].done));
    assert_int_equal(calls[0].status, STATUS_OK);
    assert_int_equal(calls[1].status, STATUS_OK);
    for (unsigned i = 0; i < 2; i++)
        buf_deinit(&calls[i].attach.notes);
    peer_free(peers[0]);
    peer_close(peers[1]);
    late_rig_close();
}

/* An attach whose first write waits when its client goes. */
static void go_while_it_is_written(bool clean, enum status status)
{
    struct peer *peer = peer_new(0, "one");
    struct attach_call call = {
        .attach = {.client = &peer->client, .clean = clean, .expiry_s = UINT32_MAX}};
    request_init(&call.attach.request, rig.loops[0], attach_call_done);
    let_rows_wait();
    on(0, attach_call_run, &call);
    await(waiting(&late.append_count) == 1);
    peer_close(peer);
    rig_await(&call.done);
    assert_int_equal(call.status, STATUS_CANCELED);
    buf_deinit(&call.attach.notes);
    rows_go_on(status);
    rig_calm();
}

/* Of a session that was new nothing stays when its client goes before it begins; one that was there
 * stays, also when it could not be made anew. */
static void a_session_that_nobody_heard_of_leaves_nothing(void **state)
{
    (void)state;
    bool present;
    late_rig_open(1);
    restart(NO_SWEEP_MS);
    go_while_it_is_written(false, STATUS_OK);
    await(rows_of(TABLE_SESSION) == 0);
    struct peer *peer = peer_new(0, "one");
    struct broker_attach attach = {.expiry_s = UINT32_MAX};
    assert_int_equal(session_find(peer, attach, &present), STATUS_OK);
    assert_false(present);
    assert_int_equal(peer_subscribe(peer, "f", GUARANTEE_AT_LEAST_ONCE, 1), STATUS_OK);
    peer_close(peer); /* it has not begun */
    await(rows_of(TABLE_SESSION) == 0);
    assert_int_equal(rows_of(TABLE_SESSION_STATE), 0);
    assert_int_equal(rows_of(TABLE_SESSION_DUE), 0);
    peer = peer_attach(0, "one", UINT32_MAX, NULL, &present);
    assert_false(present);
    assert_int_equal(peer_subscribe(peer, "f", GUARANTEE_AT_LEAST_ONCE, 1), STATUS_OK);
    peer_close(peer);
    rig_calm();
    uint32_t stored = rows_of(TABLE_SESSION_STATE);
    go_while_it_is_written(true, STATUS_NO_SPACE);
    peer = peer_new(0, "one");
    assert_int_equal(session_find(peer, attach, &present), STATUS_OK);
    assert_true(present);
    peer_close(peer);
    rig_calm();
    assert_int_equal(rows_of(TABLE_SESSION), 1);
    assert_int_equal(rows_of(TABLE_SESSION_STATE), stored);
    go_while_it_is_written(true, STATUS_OK);
    await(rows_of(TABLE_SESSION) == 0 && rows_of(TABLE_SESSION_STATE) == 0);
    late_rig_close();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_name_is_lost_before_the_session_begins),
        cmocka_unit_test(a_session_that_nobody_heard_of_leaves_nothing),
        cmocka_unit_test(a_note_is_stored_with_its_record_or_not_at_all),
        cmocka_unit_test(a_name_changes_hands_when_what_was_published_is_stored),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
