/* SPDX-License-Identifier: Apache-2.0 */
/* The end of a durable share: nobody is there, and no session takes part by what is stored. Who has
 * come meanwhile has another one of that name. */
#include "core/broker/session.h"
#include "core/broker/share.h"

#include "core/base/heap.h"
#include "core/base/pack.h"

/* ------------------------------------------------ what nobody needs */

static void look_end(struct share_look *look, enum status status)
{
    request_complete(&look->request, status);
}

static void cleared(struct request *request, enum status status)
{
    struct share_look *look = container_of(request, struct share_look, write.request);
    look->to->calls--;
    look_end(look, status);
}

/* It is kept of nobody: what earlier lives have left goes, before it is ever kept again. */
static void clear(struct share_look *look)
{
    static const enum share_kind kinds[] = {SHARE_KIND_GONE, SHARE_KIND_RETURNED};
    for (unsigned i = 0; i < 2; i++) {
        share_row_key(look->share, kinds[i], 0, 0, look->keys[i][0]);
        share_row_key(look->share, kinds[i], UINT64_MAX, UINT64_MAX, look->keys[i][1]);
        look->rows[i] = (struct storage_row){.change = STORAGE_DELETE_RANGE,
                                             .key = span_of(look->keys[i][0], SHARE_ROW_KEY),
                                             .value = span_of(look->keys[i][1], SHARE_ROW_KEY),
                                             .offset_at = -1};
    }
    look->write = (struct log_rows){.rows = look->rows, .row_count = 2};
    request_init(&look->write.request, look->to->loop, cleared);
    look->write.append.durability = DURABLE_SYNC;
    look->to->calls++;
    log_rows_write(look->to->broker->log, &look->write);
}

/* One that is durable and has members looks who takes part when the last of them goes. */
static void look_deliver(struct mail *mail)
{
    struct share_look *look = container_of(mail, struct share_look, mail);
    const struct share *share =
        map_get(&look->to->shares, span_of((const uint8_t *)&look->share, sizeof look->share));
    if (share == NULL || share->busy || !share->opened || look->to->ending)
        look_end(look, STATUS_BUSY);
    else if (share->durable)
        look_end(look, STATUS_OK);
    else
        clear(look);
}

void share_look(struct broker *broker, struct share_look *look)
{
    look->to = broker_home(broker, look->share);
    look->mail.deliver = look_deliver;
    mailbox_post(look->to->loop, &look->mail);
}

/* ------------------------------------------------ the end */

/* Whoever came while it was found that nobody takes part any more has another share of that name.
 */
static struct share *begin_anew(struct share *share)
{
    struct link *link = list_first(&share->joins);
    struct share *next = share_new(container_of(link, struct share_join, link)->seat);
    while ((link = list_pop(&share->joins)) != NULL)
        list_push(&next->joins, link);
    while ((link = list_pop(&share->members)) != NULL) {
        container_of(link, struct share_member, of_share)->share = next;
        list_push(&next->members, link);
    }
    next->member_count = share->member_count;
    next->active_count = share->active_count;
    return next;
}

/* It has come for another share of that name. */
static bool is_newcomer(const struct share *share, uint64_t session)
{
    list_each(link, &share->joins)
    {
        const struct share_join *join = container_of(link, struct share_join, link);
        if (join->session == session && !join->item->comes_back && !share_agrees(share, join))
            return true;
    }
    return false;
}

/* Sessions take part, by what is stored. */
static bool is_wanted(const struct share_load *load)
{
    struct span key, value;
    bool wanted = load->scan.more;
    for (size_t at = 0; storage_scan_next(&load->scan, &at, &key, &value);)
        wanted |= !is_newcomer(load->share, load_u64(key.data + 10));
    return wanted;
}

static void nobody_has_any(struct session *session)
{
    for (uint32_t i = 1; i <= session->flight_count; i++) {
        struct flight *flight = &session->flights[i];
        if (flight->at.state != FLIGHT_FREE && flight->at.guarantee != GUARANTEE_AT_LEAST_ONCE)
            session_flight_changed(session, flight);
        flight->at.guarantee = GUARANTEE_AT_LEAST_ONCE;
    }
}

static void closed(struct request *request, enum status status)
{
    struct share_load *load = container_of(request, struct share_load, scan.request);
    struct share *share = load->share;
    struct broker_worker *worker = share->reader.worker;
    bool found = status != STATUS_OK || is_wanted(load);
    if (status == STATUS_OK)
        blob_unref(load->scan.rows);
    heap_free(load);
    worker->calls--;
    if (share->member_count > 0 && found) {
        share->wanted = true;
        share_awake(share);
        return;
    }
    map_remove(&worker->shares, span_of(&share->id, sizeof share->id));
    struct share *next = share->member_count > 0 ? begin_anew(share) : NULL;
    nobody_has_any(share->reader.session);
    share->reader.session->expiry_s = found ? UINT32_MAX : 0;
    share->reader.open = false;
    loop_task_cancel(worker->loop, &share->task);
    session_detach(&share->reader);
    catch_up_close(&share->reader);
    subscribe_close(&share->reader);
    share_forget(share);
    share_free(share);
    if (next != NULL)
        share_joins_go_on(next);
}

void share_close(struct share *share)
{
    uint32_t joins = 0;
    list_each(link, &share->joins)
    {
        joins++;
    }
    share->busy = true;
    share_load_begin(share, SHARE_KIND_MEMBER, joins + 1, closed);
}

bool share_is_ending(struct share *share)
{
    uint32_t others = share->member_count, leaving = 0;
    list_each(link, &share->joins)
    {
        others--;
    }
    list_each(link, &share->members)
    {
        leaving += container_of(link, struct share_member, of_share)->leaves;
    }
    if (!share->durable || share->wanted || others > leaving)
        return false;
    if (others == 0)
        share_close(share);
    return true;
}
