/* SPDX-License-Identifier: Apache-2.0 */
/* A stream of AMQP frames that comes byte by byte is judged as the same stream at once: the same
 * verdict at the same place, the same attaches, the same transfers that are resumed, the same
 * frames that are dropped. What is passed on neither kills Proton nor names to it what it does not
 * know. */
#include <proton/condition.h>
#include <proton/connection.h>
#include <proton/connection_driver.h>
#include <proton/delivery.h>
#include <proton/link.h>
#include <proton/session.h>
#include <proton/transport.h>

#include "adapters/amqp/attach.h"
#include "adapters/amqp/frames.h"
#include "core/base/check.h"
#include "core/base/limits.h"
#include "tests/fuzz/fuzz.h"

enum { FRAME_MAX = 1024, SENT_MAX = 4 };

struct outcome {
    enum amqp_verdict verdict;
    size_t passed;
    uint32_t attached;        /* of all attaches' bytes */
    uint32_t resumed;         /* of where such transfers end */
    uint32_t dropped;         /* of what is dropped, where and why */
    struct amqp_default said; /* by the last one */
};

/* ------------------------------------------------ Proton, as adapters/amqp has it */

static void open_proton(pn_connection_driver_t *driver)
{
    CHECK(pn_connection_driver_init(driver, NULL, NULL) == 0);
    pn_transport_set_server(driver->transport);
    pn_transport_set_max_frame(driver->transport, FRAME_MAX);
    pn_transport_set_channel_max(driver->transport, LIMIT_AMQP_CHANNEL);
    pn_connection_driver_bind(driver);
}

/* Whatever comes whole is accepted, and what is sent is settled as its receiver has said. */
static void deliver(pn_delivery_t *delivery)
{
    char bytes[64];
    pn_link_t *link = pn_delivery_link(delivery);
    if (pn_link_is_sender(link)) {
        if (pn_delivery_updated(delivery) && pn_delivery_settled(delivery))
            pn_delivery_settle(delivery);
        return;
    }
    while (pn_delivery_readable(delivery) && pn_link_recv(link, bytes, sizeof bytes) > 0)
        continue;
    if (pn_delivery_partial(delivery) || pn_link_current(link) != delivery)
        return;
    pn_link_advance(link);
    if (!pn_delivery_settled(delivery))
        pn_delivery_update(delivery, PN_ACCEPTED);
    pn_delivery_settle(delivery);
    pn_link_flow(link, 1);
}

static void send_some(pn_link_t *link)
{
    uint8_t number = 0;
    while (pn_link_credit(link) > 0 && number < SENT_MAX && pn_link_unsettled(link) < SENT_MAX) {
        pn_delivery_t *delivery = pn_delivery(link, pn_dtag((char *)&number, 1));
        pn_link_send(link, "message", 7);
        pn_link_advance(link);
        if (number++ % 2 == 0)
            pn_delivery_settle(delivery);
    }
}

static void handle(pn_connection_driver_t *driver, pn_event_t *event)
{
    pn_link_t *link = pn_event_link(event);
    pn_session_t *session = pn_event_session(event);
    switch (pn_event_type(event)) {
    case PN_CONNECTION_REMOTE_OPEN:
        pn_connection_open(driver->connection);
        break;
    case PN_SESSION_REMOTE_OPEN:
        pn_session_open(session);
        pn_connection_driver_write_buffer(driver);
        break;
    case PN_SESSION_REMOTE_CLOSE:
        pn_session_close(session);
        pn_session_free(session);
        break;
    case PN_LINK_REMOTE_OPEN:
        pn_link_open(link);
        if (pn_link_is_receiver(link))
            pn_link_flow(link, 9);
        break;
    case PN_LINK_FLOW:
        if (pn_link_is_sender(link) && (pn_link_state(link) & PN_LOCAL_ACTIVE) != 0)
            send_some(link);
        break;
    case PN_DELIVERY:
        deliver(pn_event_delivery(event));
        break;
    case PN_LINK_REMOTE_CLOSE:
        pn_link_close(link);
        pn_link_free(link);
        break;
    case PN_LINK_REMOTE_DETACH:
        pn_link_detach(link);
        pn_link_free(link);
        break;
    default:
        break;
    }
}

static void pass(pn_connection_driver_t *driver, struct span bytes)
{
    while (bytes.size > 0) {
        pn_event_t *event;
        pn_rwbytes_t room = pn_connection_driver_read_buffer(driver);
        if (room.size == 0)
            return;
        size_t size = bytes.size < room.size ? bytes.size : room.size;
        memcpy(room.start, bytes.data, size);
        bytes = span_from(bytes, size);
        pn_connection_driver_read_done(driver, size);
        while ((event = pn_connection_driver_next_event(driver)) != NULL)
            handle(driver, event);
        pn_bytes_t said = pn_connection_driver_write_buffer(driver);
        pn_connection_driver_write_done(driver, said.size);
    }
}

static void end_proton(pn_connection_driver_t *driver)
{
    static const char *const never[] = {"no such handle",        "link name already",
                                        "sequencing error",      "invalid delivery-id",
                                        "invalid transition",    "illegal delivery range",
                                        "begin reply to unknown"};
    pn_condition_t *condition = pn_transport_condition(driver->transport);
    const char *text = pn_condition_get_description(condition);
    for (size_t i = 0; text != NULL && i < sizeof never / sizeof *never; i++)
        CHECK(strncmp(text, never[i], strlen(never[i])) != 0);
    pn_connection_driver_destroy(driver);
}

/* ------------------------------------------------ what is looked at */

static struct outcome judge(struct span bytes, size_t piece)
{
    struct outcome outcome = {.verdict = AMQP_GOOD};
    struct amqp_frames frames;
    pn_connection_driver_t driver;
    size_t shown = 0;
    bool is_whole = piece >= bytes.size;
    amqp_frames_init(&frames, FRAME_MAX);
    if (is_whole)
        open_proton(&driver);
    while (outcome.passed < bytes.size && frames.verdict == AMQP_GOOD) {
        struct span next = span_of(bytes.data + outcome.passed, shown - outcome.passed);
        size_t passed = next.size == 0 ? 0 : amqp_frames_pass(&frames, next);
        CHECK(passed <= next.size && frames.attach.size <= FRAME_MAX);
        CHECK(frames.lean.size <= sizeof frames.lean.bytes);
        if (frames.fate != AMQP_PASSES) {
            CHECK(frames.is_dropped && passed > 0);
            CHECK(amqp_channels_at(&frames.channels, frames.channel)->state == AMQP_DISCARDING);
            outcome.dropped = outcome.dropped * 31 + (uint32_t)(frames.fate + outcome.passed);
            frames.fate = AMQP_PASSES;
        }
        /* A stream with SASL waits for its outcome, which nobody gives here. */
        if (is_whole && !frames.is_dropped && frames.phase == AMQP_PHASE_FRAMES)
            pass(&driver, frames.lean.size > 0 ? span_of(frames.lean.bytes, frames.lean.size)
                                               : span_of(next.data, passed));
        outcome.passed += passed;
        outcome.dropped += frames.is_dropped ? (uint32_t)passed : 0;
        for (size_t i = 0; i < frames.attach.size && frames.left == 0; i++)
            outcome.attached = outcome.attached * 31 + frames.attach.data[i];
        if (frames.left == 0 && frames.attach.size > 0)
            outcome.said = amqp_default_read(buf_span(&frames.attach));
        if (passed > 0 && frames.left == 0 && frames.is_resumed)
            outcome.resumed = outcome.resumed * 31 + (uint32_t)outcome.passed;
        if (frames.left == 0)
            buf_clear(&frames.attach);
        if (passed == 0 && shown == bytes.size)
            break;
        if (passed == 0)
            shown = bytes.size - shown < piece ? bytes.size : shown + piece;
    }
    outcome.verdict = frames.verdict;
    if (is_whole)
        end_proton(&driver);
    amqp_frames_deinit(&frames);
    return outcome;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct outcome whole = judge(span_of(data, size), size), cut = judge(span_of(data, size), 1);
    CHECK(whole.verdict == cut.verdict && whole.passed == cut.passed);
    CHECK(whole.attached == cut.attached && whole.resumed == cut.resumed);
    CHECK(whole.dropped == cut.dropped);
    CHECK(whole.said.outcome == cut.said.outcome && whole.said.delay_ms == cut.said.delay_ms);
    return 0;
}
