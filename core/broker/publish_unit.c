/* SPDX-License-Identifier: Apache-2.0 */
/* Messages that are published together: straight into a unit, which is sent in the same turn, so
 * that nothing of them is kept but what goes to storage. They have one answer. */
#include "core/base/heap.h"
#include "core/broker/answer.h"
#include "core/broker/session.h"
#include "core/broker/transaction.h"

struct broker_unit {
    struct unit *unit;     /* until it has ended */
    struct client *client; /* until it is sent */
    struct link of_client; /* from then on, where it is spread */
    uint32_t count;
    bool is_answered;
    struct answer answer;
};

static void ended(void *context, struct protocol_figures *figures, enum status status)
{
    struct broker_unit *together = context;
    link_remove(&together->of_client);
    if (together->is_answered) {
        answer_settle(&together->answer, status, &(struct answer_place){0});
        answers_return(&together->answer, 1);
    } else if (status != STATUS_OK) {
        figures_refused(figures, status);
    }
    heap_free(together);
}

struct broker_unit *broker_unit_new(struct client *client)
{
    CHECK(loop_is_home(client->worker->loop) && client->open);
    struct broker_unit *together = heap_new(sizeof *together);
    together->client = client;
    link_init(&together->of_client);
    together->unit = unit_new(client, ended, together);
    return together;
}

enum status broker_unit_add(struct broker_unit *together, const struct publish *publish)
{
    CHECK(publish->producer.data == NULL && publish->number == 0);
    enum status status = publish_may_begin(together->client);
    if (status == STATUS_OK && together->count == LIMIT_UNIT_MESSAGES)
        status = STATUS_TOO_LARGE;
    if (status == STATUS_OK)
        status = unit_publish(together->unit, publish);
    if (status == STATUS_OK)
        together->count++;
    else
        figures_refused(together->client->figures, status);
    return status;
}

static struct session *note(struct unit *unit, const struct client *client,
                            const struct publish *publish)
{
    struct buf row;
    buf_init(&row, SESSION_NOTE_ROW);
    struct session *noting = session_note_publish(client, publish, &row);
    if (noting != NULL && !unit_note(unit, buf_span(&row)))
        noting = NULL;
    buf_deinit(&row);
    return noting;
}

void broker_unit_publish(struct broker_unit *together, const struct publish *how)
{
    struct client *client = together->client;
    CHECK(loop_is_home(client->worker->loop) && together->count > 0);
    together->is_answered = how->answer;
    if (how->answer)
        together->answer = answer_owe(client, how->token, unit_bytes(together->unit),
                                      note(together->unit, client, how));
    CHECK(unit_send(together->unit)); /* ended() comes later: it has a part at least */
    if (unit_is_spread(together->unit))
        list_push(&client->units, &together->of_client);
}

void units_close(struct client *client)
{
    while (list_pop(&client->units) != NULL)
        ;
}

void broker_unit_free(struct broker_unit *together)
{
    if (together == NULL)
        return;
    unit_drop(together->unit);
    heap_free(together);
}
