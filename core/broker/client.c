/* SPDX-License-Identifier: Apache-2.0 */
/* Clients: from accept over login to the end, and what each may do. */
#include "core/broker/share.h"
#include "core/broker/session.h"

#include "core/base/hash.h"
#include "core/base/heap.h"
#include "core/broker/consume.h"
#include "core/broker/follow.h"
#include "core/broker/temporary.h"
#include "core/broker/transaction.h"

enum { CREDENTIAL_MS = 5 * 60 * 1000, PASS_LOOK_MS = 60 * 1000 };

/* How long a client that came with a token may stay. */
struct client_pass {
    struct client *client;
    struct loop_timer timer;
    int64_t expires_ms; /* wall clock */
};

void client_init(struct client *client, struct broker_worker *worker, const struct client_ops *ops)
{
    CHECK(loop_is_home(worker->loop));
    *client = (struct client){.worker = worker,
                              .ops = ops,
                              .tenant = TENANT_DEFAULT,
                              .number = ++worker->clients_made,
                              .since_ms = worker_wall_ms(worker)};
    client->credit = client->credit_max = LIMIT_CLIENT_CREDIT;
    list_init(&client->subscriptions);
    list_init(&client->seats);
    list_init(&client->lags);
    list_init(&client->returned);
    list_init(&client->consumers);
    list_init(&client->lease_takers);
    list_init(&client->walks);
    list_init(&client->followers);
    list_init(&client->transactions);
    list_init(&client->units);
    link_init(&client->waiting);
    client->figures = figures_of(worker, ops->protocol);
    list_push(&worker->clients, &client->link);
    worker->client_count++;
}

void client_set_peer(struct client *client, const char *peer)
{
    client->peer = peer;
}

void client_close(struct client *client)
{
    struct broker_worker *worker = client->worker;
    if (worker == NULL || !link_is_linked(&client->link))
        return;
    CHECK(loop_is_home(worker->loop) && !worker->delivering);
    link_remove(&client->link);
    worker->client_count--;
    client->open = false;
    client_share_id(client);
    transactions_close(client);
    units_close(client);
    consumers_close(client);
    followers_close(client);
    if (client->login != NULL)
        client->login->client = NULL;
    session_detach(client);
    catch_up_close(client);
    recall_close(client);
    subscribe_close(client);
    share_seats_close(client);
    publish_close(client);
    temporary_close(client);
    principal_unref(client->principal);
    client->principal = NULL;
    if (client->pass != NULL)
        loop_timer_stop(worker->loop, &client->pass->timer);
    heap_free(client->pass);
    client->pass = NULL;
    heap_free(client->publisher);
    client->publisher = NULL;
}

void client_set_credit(struct client *client, uint32_t credit_max)
{
    CHECK(client->subscription_count == 0);
    client->credit = client->credit_max = credit_max;
}

bool client_spend(struct client *client)
{
    if (client->credit == 0)
        return false;
    client->credit--;
    return true;
}

void client_settled(struct client *client, uint32_t count)
{
    client->credit += count;
    if (client->credit > client->credit_max)
        client->credit = client->credit_max;
    client_drained(client);
}

void client_allow(struct client *client, uint32_t credit)
{
    client->credit = credit < client->credit_max ? credit : client->credit_max;
    client_drained(client);
}

bool client_is_behind(const struct client *client)
{
    return client->asking > 0 || !list_is_empty(&client->lags) ||
           !list_is_empty(&client->returned) ||
           (session_is_kept(client) && client->session->phase != SESSION_LIVE);
}

void client_put_out(struct client *client)
{
    client->gone = true;
    client->ops->end(client, STATUS_DENIED);
}

void client_drain(struct client *client)
{
    share_seats_ask(client);
    client_caught_up(client);
}

void client_drained(struct client *client)
{
    consumers_go_on(client);
    if (client->follower_count > 0)
        followers_go_on(client);
    if (!list_is_empty(&client->returned))
        recall_go_on(client);
    if (!list_is_empty(&client->lags))
        catch_up_go_on(client);
    if (!list_is_empty(&client->seats))
        share_seats_go_on(client);
    if (!list_is_empty(&client->walks))
        retained_go_on(client);
    if (session_is_kept(client))
        session_go_on(client->session);
}

/* ------------------------------------------------ login */

static void credential_hash(struct span user, struct span password, uint64_t hash[2])
{
    struct buf text;
    buf_init(&text, 16 + LIMIT_USER_NAME + LIMIT_PASSWORD);
    uint64_t size = user.size;
    CHECK(buf_append(&text, &size, sizeof size) == STATUS_OK);
    CHECK(buf_append(&text, user.data, user.size) == STATUS_OK);
    CHECK(buf_append(&text, password.data, password.size) == STATUS_OK);
    hash[0] = hash_bytes(buf_span(&text));
    struct hash_key other = {.k0 = ~hash_process_key.k1, .k1 = hash_process_key.k0};
    hash[1] = hash_keyed(&other, buf_span(&text));
    explicit_bzero(text.data, text.size);
    buf_deinit(&text);
}

static struct credential *credential_slot(struct broker_worker *worker, const uint64_t hash[2])
{
    if (worker->credentials == NULL)
        worker->credentials = heap_array(CREDENTIALS, sizeof *worker->credentials);
    return &worker->credentials[hash[0] % CREDENTIALS];
}

/* Its name in records and grants. */
static void client_name(struct client *client, struct span client_id)
{
    const struct principal *principal = client->principal;
    const char *user = principal == NULL ? "-" : principal->name;
    size_t user_size = strlen(user);
    client->publisher_size = (uint32_t)(user_size + 1 + client_id.size);
    client->publisher = heap_new(client->publisher_size + 1);
    memcpy(client->publisher, user, user_size);
    client->publisher[user_size] = '/';
    if (client_id.size > 0)
        memcpy(client->publisher + user_size + 1, client_id.data, client_id.size);
    client->id = span_of(client->publisher + user_size + 1, client_id.size);
}

void client_set_id(struct client *client, struct span client_id)
{
    CHECK(client->open && client_id.size <= LIMIT_CLIENT_ID_BYTES);
    heap_free(client->publisher);
    client_name(client, client_id);
}

enum status client_own_id(struct client *client)
{
    CHECK(client->open && client->own_id == NULL);
    struct broker_worker *worker = client->worker;
    /* A user's name has no zero byte. */
    const char *user = client->principal == NULL ? "" : client->principal->name;
    struct buf name;
    buf_init(&name, LIMIT_USER_NAME + 1 + LIMIT_CLIENT_ID_BYTES);
    CHECK(buf_append(&name, user, strlen(user) + 1) == STATUS_OK);
    CHECK(buf_append(&name, client->id.data, client->id.size) == STATUS_OK);
    client->own_id = name_claim_free(&worker->broker->own_ids, worker->loop, client->tenant,
                                     buf_span(&name), client, NULL);
    buf_deinit(&name);
    return client->own_id == NULL ? STATUS_EXISTS : STATUS_OK;
}

void client_share_id(struct client *client)
{
    if (client->own_id != NULL)
        name_release(&client->worker->broker->own_ids, client->own_id);
    client->own_id = NULL;
}

static void log_in(struct client *client, struct principal *principal, struct span client_id)
{
    client->principal = principal;
    client_name(client, client_id);
    client->open = true;
}

void client_speak_for(struct client *client, uint64_t tenant, const struct principal *principal,
                      struct span client_id)
{
    client->tenant = tenant;
    client->last_words = true;
    log_in(client, principal == NULL ? NULL : principal_ref(principal), client_id);
}

void client_fork(struct client *client, const struct client_ops *ops, const struct client *of,
                 uint32_t credit)
{
    CHECK(of->open);
    client_init(client, of->worker, ops);
    client->tenant = of->tenant;
    log_in(client, of->principal == NULL ? NULL : principal_ref(of->principal), of->id);
    temporary_fork(client, of);
    client->credit_max = UINT32_MAX / 2;
    client->credit = credit < client->credit_max ? credit : client->credit_max;
}

static void login_end(struct broker_login *login, enum status status)
{
    if (login->client != NULL) {
        login->client->login = NULL;
        if (status != STATUS_OK)
            figures_refused(login->client->figures, status);
    }
    request_complete(&login->request, status);
}

static enum status login_work(struct offload *offload)
{
    struct broker_login *login = container_of(offload, struct broker_login, offload);
    return principal_verify(login->principal, login->password);
}

static void login_verified(struct request *request, enum status status)
{
    struct broker_login *login = container_of(request, struct broker_login, offload.request);
    struct client *client = login->client;
    struct principal *principal = login->principal;
    login->worker->calls--;
    if (client == NULL)
        status = STATUS_CANCELED;
    else if (login->worker->ending)
        status = STATUS_SHUTTING_DOWN;
    if (status == STATUS_OK &&
        catalog_principal(client->worker->catalog, principal->id) != principal)
        status = STATUS_UNAUTHENTICATED; /* changed or removed meanwhile */
    if (status != STATUS_OK) {
        principal_unref(principal);
        login_end(login, status);
        return;
    }
    struct credential *slot = credential_slot(client->worker, login->credential);
    principal_unref(slot->principal);
    *slot = (struct credential){
        .hash = {login->credential[0], login->credential[1]},
        .principal = principal_ref(principal),
        .until_ms = loop_now_ms(client->worker->loop) + CREDENTIAL_MS,
    };
    log_in(client, principal, login->client_id);
    login_end(login, STATUS_OK);
}

static void login_by_password(struct broker_login *login, struct broker_worker *worker)
{
    const struct principal *principal =
        catalog_principal_by_name(worker->catalog, login->client->tenant, login->user);
    credential_hash(login->user, login->password, login->credential);
    struct credential *slot = credential_slot(worker, login->credential);
    if (principal != NULL && slot->principal == principal &&
        slot->hash[0] == login->credential[0] && slot->hash[1] == login->credential[1] &&
        loop_now_ms(worker->loop) < slot->until_ms) {
        log_in(login->client, principal_ref(principal), login->client_id);
        login_end(login, STATUS_OK);
        return;
    }
    login->principal = principal == NULL ? NULL : principal_ref(principal);
    login->worker = worker;
    worker->calls++;
    request_init(&login->offload.request, worker->loop, login_verified);
    login->offload.work = login_work;
    offload_run(&login->offload);
}

/* ------------------------------------------------ tokens */

/* Time is the wall clock's, which may be set, and goes on while the machine sleeps. */
static void pass_arm(struct client_pass *pass, int64_t left_ms)
{
    loop_timer_start(pass->client->worker->loop, &pass->timer,
                     left_ms < PASS_LOOK_MS ? (uint64_t)left_ms : PASS_LOOK_MS);
}

static void pass_fired(struct loop_timer *timer)
{
    struct client_pass *pass = container_of(timer, struct client_pass, timer);
    int64_t left_ms = pass->expires_ms - clock_wall_ms();
    if (left_ms > 0)
        pass_arm(pass, left_ms);
    else
        client_put_out(pass->client);
}

/* False: it is no token that holds for this user. */
static bool login_by_token(struct broker_login *login)
{
    struct client *client = login->client;
    struct broker_worker *worker = client->worker;
    int64_t now_ms = clock_wall_ms(), expires_ms;
    const struct principal *principal =
        token_verify(worker->catalog, login->password, now_ms, &expires_ms);
    if (principal == NULL || principal->tenant != client->tenant ||
        (login->user.size > 0 && !span_is(login->user, principal->name)))
        return false;
    struct client_pass *pass = client->pass = heap_new(sizeof *pass);
    pass->client = client;
    pass->expires_ms = expires_ms;
    pass->timer.fired = pass_fired;
    pass_arm(pass, expires_ms - now_ms);
    log_in(client, principal_ref(principal), login->client_id);
    login_end(login, STATUS_OK);
    return true;
}

enum status broker_make_token(const struct client *client, uint64_t seconds, char token[TOKEN_TEXT],
                              int64_t *expires_ms)
{
    if (client->principal == NULL)
        return STATUS_UNSUPPORTED;
    if (client->pass != NULL)
        return STATUS_DENIED;
    if (seconds == 0 || seconds > LIMIT_TOKEN_S)
        return STATUS_OUT_OF_RANGE;
    *expires_ms = clock_wall_ms() + (int64_t)seconds * 1000;
    token_make(client->principal, *expires_ms, token);
    return STATUS_OK;
}

/* ------------------------------------------------ certificates */

static const struct principal *principal_of_subject(const struct client *client,
                                                    const char *subject)
{
    return catalog_principal_by_name(client->worker->catalog, client->tenant,
                                     span_from_text(subject));
}

bool client_may_be(const struct client *client, const char *certificate_subject)
{
    return certificate_subject != NULL &&
           (catalog_is_protected(client->worker->catalog) ||
            principal_of_subject(client, certificate_subject) != NULL);
}

void broker_login(struct broker_login *login)
{
    struct client *client = login->client;
    struct broker_worker *worker = client->worker;
    CHECK(loop_is_home(worker->loop));
    CHECK(!client->open && client->login == NULL);
    client->login = login;
    if (worker->ending) {
        login_end(login, STATUS_SHUTTING_DOWN);
    } else if (login->client_id.size > LIMIT_CLIENT_ID_BYTES ||
               login->user.size > LIMIT_USER_NAME || login->password.size > LIMIT_PASSWORD) {
        login_end(login, STATUS_UNAUTHENTICATED);
    } else if (login->proven != NULL) {
        /* Not if it was changed or removed meanwhile. */
        bool same = catalog_principal(worker->catalog, login->proven->id) == login->proven;
        if (same)
            log_in(client, principal_ref(login->proven), login->client_id);
        login_end(login, same ? STATUS_OK : STATUS_UNAUTHENTICATED);
    } else if (catalog_is_protected(worker->catalog)) {
        log_in(client, NULL, login->client_id);
        login_end(login, STATUS_OK);
    } else if (login_by_token(login)) {
        return;
    } else if (login->user.size + login->password.size == 0 && login->certificate_subject != NULL) {
        const struct principal *principal =
            principal_of_subject(client, login->certificate_subject);
        if (principal != NULL)
            log_in(client, principal_ref(principal), login->client_id);
        login_end(login, principal != NULL ? STATUS_OK : STATUS_UNAUTHENTICATED);
    } else if (login->user.size == 0) {
        login_end(login, STATUS_UNAUTHENTICATED);
    } else {
        login_by_password(login, worker);
    }
}

enum status broker_check(const struct client *client, enum action action, bool is_topic,
                         struct span address)
{
    if (share_is_reader(client))
        return STATUS_OK; /* its members are checked */
    if (client->gone)
        return STATUS_UNAUTHENTICATED;
    enum temporary_right right = temporary_right(client, is_topic, address);
    if (right == TEMPORARY_OTHERS && action == ACTION_CONSUME)
        return STATUS_DENIED;
    if (client->principal == NULL)
        return catalog_is_protected(client->worker->catalog) ? STATUS_OK : STATUS_UNAUTHENTICATED;
    bool allowed = right == TEMPORARY_OWN
                       ? principal_has_use(client->principal)
                       : principal_may(client->principal, action, is_topic, address, client->id);
    return allowed ? STATUS_OK : STATUS_DENIED;
}

static bool may(const struct client *client, enum action action, const struct queue *queue)
{
    return broker_check(client, action, false, span_from_text(queue->name)) == STATUS_OK;
}

bool broker_may_see(const struct client *client, const struct queue *queue)
{
    return broker_may_see_groups(client, queue) ||
           (queue->tenant == client->tenant && may(client, ACTION_PUBLISH, queue));
}

bool broker_may_see_groups(const struct client *client, const struct queue *queue)
{
    return queue->tenant == client->tenant &&
           (may(client, ACTION_CONSUME, queue) || may(client, ACTION_MANAGE, queue));
}
