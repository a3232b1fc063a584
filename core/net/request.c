/* SPDX-License-Identifier: Apache-2.0 */
/* Completion always travels by mail, even on the home loop: done() never runs inside the call. */
#include "core/net/request.h"

static void request_deliver(struct mail *mail)
{
    struct request *request = container_of(mail, struct request, mail);
    request->done(request, request->status);
}

void request_complete(struct request *request, enum status status)
{
    request->status = status;
    request->mail.deliver = request_deliver;
    mailbox_post(request->home, &request->mail);
}
