/* SPDX-License-Identifier: Apache-2.0 */
/* Changes of the catalog. */
#include "adapters/rest/change.h"

static void refuse(struct change *change, enum status status)
{
    const char *text = change->admin.err.text[0] != 0 ? change->admin.err.text : NULL;
    const struct change_codes *codes = change->codes;
    if (text == NULL)
        text = status_text(status);
    if (status == STATUS_EXISTS && codes->exists != 0)
        call_refuse(&change->call, 400, codes->exists, "%s", text);
    else if (status == STATUS_OVER_QUOTA && codes->over_quota != 0)
        call_refuse(&change->call, 400, codes->over_quota, "%s", text);
    else if (status == STATUS_NOT_FOUND && codes->not_found != 0)
        call_refuse(&change->call, 404, codes->not_found, "%s", text);
    else if (status == STATUS_INVALID && codes->invalid != 0)
        call_refuse(&change->call, 400, codes->invalid, "%s", text);
    else
        call_refuse_status(&change->call, status, text);
}

static void ended(struct request *request, enum status status)
{
    struct broker_admin *admin = container_of(request, struct broker_admin, request);
    struct change *change = container_of(admin, struct change, admin);
    struct queue *queue = admin->queue;
    struct group_spec *group = admin->group;
    if (status != STATUS_OK)
        refuse(change, status);
    else if (change->applied != NULL)
        change->applied(change);
    queue_unref(queue);
    if (group != NULL)
        group_spec_unref(group);
    explicit_bzero(&admin->key, sizeof admin->key);
    call_release(&change->call);
}

void change_start(struct change *change, enum admin_action action)
{
    change->admin.action = action;
    change->admin.client = change->call.client;
    request_init(&change->admin.request, call_loop(&change->call), ended);
    call_hold(&change->call);
    broker_administer(&change->admin);
}

bool call_is_ours(const struct call *call)
{
    return strncmp(call->exchange->route->pattern, "/v1/", 4) == 0;
}
