/* SPDX-License-Identifier: Apache-2.0 */
/* Users, their grants and access keys. No answer holds a hash; a key's secret is shown once, when
 * it is made. */
#include "adapters/rest/admin.h"
#include "adapters/rest/change.h"
#include "core/base/heap.h"

static const struct change_codes user_codes = {
    .not_found = 10240405, .invalid = 10540010, .exists = 10540010};

/* ---------------------------------------------------------------- show */

static void write_grants(const struct principal *principal, struct buf *to)
{
    struct buf text;
    buf_init(&text, 2 * LIMIT_TOPIC_BYTES);
    json_put(to, "\"grants\":[");
    for (uint32_t i = 0; i < principal->grant_count; i++) {
        buf_clear(&text);
        grant_format(&principal->grants[i], &text);
        if (i > 0)
            json_put(to, ",");
        json_put_text(to, buf_span(&text));
    }
    json_put(to, "]");
    buf_deinit(&text);
}

static void write_keys(const struct principal *principal, struct buf *to)
{
    json_put(to, "\"keys\":[");
    for (uint32_t i = 0; i < principal->key_count; i++) {
        json_put(to, i > 0 ? ",{\"id\":" : "{\"id\":");
        json_put_text(to, span_from_text(principal->keys[i].id));
        json_put(to, "}");
    }
    json_put(to, "]");
}

static void write_user(const struct principal *principal, struct buf *to)
{
    json_put(to, "{\"name\":");
    json_put_text(to, span_from_text(principal->name));
    json_put(to, ",\"created\":");
    json_put_number(to, principal->created_ms);
    json_put(to, ",");
    write_grants(principal, to);
    json_put(to, ",");
    write_keys(principal, to);
    json_put(to, "}");
}

/* Users are seen by who may manage all, and by themselves. */
static bool may_see(const struct call *call, struct span name)
{
    return broker_check(call->client, ACTION_MANAGE, false, span_from_text("*")) == STATUS_OK ||
           (call->client->principal != NULL && span_is(name, call->client->principal->name));
}

static const struct principal *find_user(struct call *call)
{
    struct span name = call_parameter(call, 1);
    if (!may_see(call, name)) {
        call_refuse_status(call, STATUS_DENIED, NULL);
        return NULL;
    }
    const struct principal *principal =
        catalog_principal_by_name(call_catalog(call), call->client->tenant, name);
    if (principal == NULL)
        call_refuse(call, 404, 10240405, "There is no such user.");
    return principal;
}

static void run_list(struct call *call)
{
    if (!call_check_project(call) || !call_check(call, ACTION_MANAGE, false, span_from_text("*")))
        return;
    const struct catalog *catalog = call_catalog(call);
    struct buf *to = call_out(call);
    json_put(to, "{\"users\":[");
    for (size_t i = 0; i < catalog_principal_count(catalog); i++) {
        if (i > 0)
            json_put(to, ",");
        write_user(catalog_principal_at(catalog, i), to);
    }
    json_put(to, "]}");
    call_answer(call, 200);
}

static void show_part(struct call *call, void (*write)(const struct principal *, struct buf *))
{
    const struct principal *principal = call_check_project(call) ? find_user(call) : NULL;
    if (principal == NULL)
        return;
    json_put(call_out(call), "{");
    write(principal, call_out(call));
    json_put(call_out(call), "}");
    call_answer(call, 200);
}

static void run_show(struct call *call)
{
    const struct principal *principal = call_check_project(call) ? find_user(call) : NULL;
    if (principal == NULL)
        return;
    write_user(principal, call_out(call));
    call_answer(call, 200);
}

static void run_show_grants(struct call *call)
{
    show_part(call, write_grants);
}

static void run_list_keys(struct call *call)
{
    show_part(call, write_keys);
}

/* ---------------------------------------------------------------- change */

/* The user's name, kept beyond the exchange. */
static void take_name(struct change *change, struct span name)
{
    change->admin.name = span_of(arena_text(&change->call.arena, name.data, name.size), name.size);
}

static void answer_user(struct change *change, unsigned http)
{
    struct call *call = &change->call;
    if (call->exchange == NULL)
        return;
    const struct principal *principal =
        catalog_principal_by_name(call_catalog(call), TENANT_DEFAULT, change->admin.name);
    if (principal == NULL) {
        call_answer(call, 204);
        return;
    }
    write_user(principal, call_out(call));
    call_answer(call, http);
}

static void was_created(struct change *change)
{
    answer_user(change, 201);
}

static void was_set(struct change *change)
{
    answer_user(change, 200);
}

static void was_deleted(struct change *change)
{
    call_answer(&change->call, 204);
}

static bool read_password(struct change *change)
{
    const json_t *password = json_object_get(change->call.body, "password");
    if (!json_is_string(password)) {
        call_refuse(&change->call, 400, 10540010, "password must be a string.");
        return false;
    }
    change->admin.password = json_span(password);
    return true;
}

static bool user_exists(const struct change *change)
{
    return catalog_principal_by_name(call_catalog(&change->call), TENANT_DEFAULT,
                                     change->admin.name) != NULL;
}

static void run_create(struct call *call)
{
    struct change *change = change_of(call);
    if (!call_check_project(call) || !call_read_object(call, 10540012))
        return;
    const json_t *name = json_object_get(call->body, "name");
    if (!json_is_string(name)) {
        call_refuse(call, 400, 10540010, "name must be a string.");
        return;
    }
    change->admin.name = json_span(name);
    change->codes = &user_codes;
    change->applied = was_created;
    if (!read_password(change) || !call_check(call, ACTION_MANAGE, false, span_from_text("*")))
        return;
    if (user_exists(change))
        call_refuse(call, 400, 10540010, "The user exists already.");
    else
        change_start(change, ADMIN_USER_SET);
}

static void run_set(struct call *call)
{
    struct change *change = change_of(call);
    if (!call_check_project(call) || !call_read_object(call, 10540012) || !read_password(change))
        return;
    take_name(change, call_parameter(call, 1));
    change->codes = &user_codes;
    change->applied = user_exists(change) ? was_set : was_created;
    change_start(change, ADMIN_USER_SET);
}

static void run_delete(struct call *call)
{
    struct change *change = change_of(call);
    if (!call_check_project(call))
        return;
    take_name(change, call_parameter(call, 1));
    change->codes = &user_codes;
    change->applied = was_deleted;
    change_start(change, ADMIN_USER_DELETE);
}

/* ---------------------------------------------------------------- grants */

struct grants_call {
    struct change change;
    struct grant grants[LIMIT_GRANTS];
    uint32_t count;
};

/* "publish,consume topic:a/#" */
static bool read_grant(struct grants_call *grants, const json_t *entry)
{
    struct call *call = &grants->change.call;
    struct span text = json_is_string(entry) ? json_span(entry) : (struct span){0};
    const uint8_t *blank = text.size == 0 ? NULL : memchr(text.data, ' ', text.size);
    struct err err = {"a grant is text like \"publish,consume topic:a/#\""};
    if (blank != NULL) {
        size_t actions = (size_t)(blank - text.data);
        if (grant_parse(span_of(text.data, actions), span_from(text, actions + 1),
                        &grants->grants[grants->count], &err) == STATUS_OK) {
            grants->count++;
            return true;
        }
    }
    call_refuse(call, 400, 10540010, "%s", err.text);
    return false;
}

static void run_set_grants(struct call *call)
{
    struct change *change = change_of(call);
    struct grants_call *grants = container_of(change, struct grants_call, change);
    if (!call_check_project(call) || !call_read_object(call, 10540012))
        return;
    const json_t *entries = json_object_get(call->body, "grants");
    if (!json_is_array(entries) || json_array_size(entries) > LIMIT_GRANTS) {
        call_refuse(call, 400, 10540010, "grants must be an array of at most %u grants.",
                    LIMIT_GRANTS);
        return;
    }
    for (size_t i = 0; i < json_array_size(entries); i++) {
        if (!read_grant(grants, json_array_get(entries, i)))
            return;
    }
    take_name(change, call_parameter(call, 1));
    change->codes = &user_codes;
    change->applied = was_set;
    change->admin.grants = grants->grants;
    change->admin.grant_count = grants->count;
    change_start(change, ADMIN_GRANTS_SET);
}

static void deinit_grants(struct call *call)
{
    struct grants_call *grants = container_of(change_of(call), struct grants_call, change);
    for (uint32_t i = 0; i < grants->count; i++)
        grant_deinit(&grants->grants[i]);
}

/* ---------------------------------------------------------------- keys */

static void key_was_created(struct change *change)
{
    struct call *call = &change->call;
    if (call->exchange == NULL)
        return;
    struct buf *to = call_out(call);
    json_put(to, "{\"id\":");
    json_put_text(to, span_from_text(change->admin.key.id));
    json_put(to, ",\"secret\":");
    json_put_text(to, span_from_text(change->admin.key.secret));
    json_put(to, "}");
    http_header(call->exchange, "Cache-Control", "no-store");
    call_answer(call, 201);
}

static void run_create_key(struct call *call)
{
    struct change *change = change_of(call);
    if (!call_check_project(call))
        return;
    take_name(change, call_parameter(call, 1));
    change->codes = &user_codes;
    change->applied = key_was_created;
    change_start(change, ADMIN_KEY_CREATE);
}

static void run_delete_key(struct call *call)
{
    struct change *change = change_of(call);
    if (!call_check_project(call))
        return;
    struct span id = call_parameter(call, 2);
    take_name(change, call_parameter(call, 1));
    change->admin.key_id = span_of(arena_text(&call->arena, id.data, id.size), id.size);
    change->codes = &user_codes;
    change->applied = was_deleted;
    change_start(change, ADMIN_KEY_DELETE);
}

/* ---------------------------------------------------------------- routes */

void users_list(struct http_exchange *exchange)
{
    static const struct call_kind kind = {.size = sizeof(struct call), .run = run_list};
    call_start(exchange, &kind);
}

void users_show(struct http_exchange *exchange)
{
    static const struct call_kind kind = {.size = sizeof(struct call), .run = run_show};
    call_start(exchange, &kind);
}

void users_create(struct http_exchange *exchange)
{
    static const struct call_kind kind = {.size = sizeof(struct change), .run = run_create};
    call_start(exchange, &kind);
}

void users_set(struct http_exchange *exchange)
{
    static const struct call_kind kind = {.size = sizeof(struct change), .run = run_set};
    call_start(exchange, &kind);
}

void users_delete(struct http_exchange *exchange)
{
    static const struct call_kind kind = {.size = sizeof(struct change), .run = run_delete};
    call_start(exchange, &kind);
}

void users_show_grants(struct http_exchange *exchange)
{
    static const struct call_kind kind = {.size = sizeof(struct call), .run = run_show_grants};
    call_start(exchange, &kind);
}

void users_set_grants(struct http_exchange *exchange)
{
    static const struct call_kind kind = {
        .size = sizeof(struct grants_call), .run = run_set_grants, .deinit = deinit_grants};
    call_start(exchange, &kind);
}

void users_list_keys(struct http_exchange *exchange)
{
    static const struct call_kind kind = {.size = sizeof(struct call), .run = run_list_keys};
    call_start(exchange, &kind);
}

void users_create_key(struct http_exchange *exchange)
{
    static const struct call_kind kind = {.size = sizeof(struct change), .run = run_create_key};
    call_start(exchange, &kind);
}

void users_delete_key(struct http_exchange *exchange)
{
    static const struct call_kind kind = {.size = sizeof(struct change), .run = run_delete_key};
    call_start(exchange, &kind);
}
