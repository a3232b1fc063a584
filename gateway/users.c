/* SPDX-License-Identifier: Apache-2.0 */
/* A client without a connection asks the broker like any other; nothing about rights is decided
 * here but who it logs in as. */
#include "gateway/users.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "core/base/heap.h"
#include "core/broker/administer.h"

enum { GRANTS_PER_LINE = 64, LINE_MAX_BYTES = 8192 };

/* log in -> set user -> end
 *                  \-> log in again -> set grants -> end
 * Again, because the first user ends everybody's right to act without one. */
struct make {
    struct errand errand;
    struct broker_worker *worker;
    const struct new_user *user;
    struct client client;
    struct broker_login login;
    struct broker_admin admin;
};

static void make_end(struct make *make, enum status status)
{
    if (status != STATUS_OK && make->errand.err.text[0] == '\0')
        err_set(&make->errand.err, status, "user %.*s: %s", (int)make->user->name.size,
                (const char *)make->user->name.data,
                make->admin.err.text[0] != '\0' ? make->admin.err.text : status_text(status));
    client_close(&make->client);
    errand_end(&make->errand, status);
}

/* The owner of the store may act as any of its users: the first that may manage all. NULL: nobody
 * may. */
static const char *manager(const struct catalog *catalog)
{
    for (size_t i = 0; i < catalog_principal_count(catalog); i++) {
        const struct principal *principal = catalog_principal_at(catalog, i);
        if (principal_may(principal, ACTION_MANAGE, false, span_from_text("*"), (struct span){0}))
            return principal->name;
    }
    return NULL;
}

static void client_end(struct client *client, enum status why)
{
    (void)client;
    (void)why; /* there is no connection to close, and the change under way goes on */
}

static const struct client_ops local_ops = {.protocol = "local", .end = client_end};

static void log_in(struct make *make, void (*done)(struct request *, enum status))
{
    const struct catalog *catalog = broker_catalog(make->worker);
    const char *acting = manager(catalog);
    if (acting == NULL && !catalog_is_protected(catalog)) {
        err_set(&make->errand.err, STATUS_DENIED, "there are users, but none may manage queue:*");
        make_end(make, STATUS_DENIED);
        return;
    }
    client_close(&make->client);
    client_init(&make->client, make->worker, &local_ops);
    make->login = (struct broker_login){.client = &make->client,
                                        .client_id = span_from_text("local"),
                                        .certificate_subject = acting};
    request_init(&make->login.request, make->errand.loop, done);
    broker_login(&make->login);
}

static void administer(struct make *make, enum admin_action action,
                       void (*done)(struct request *, enum status))
{
    make->admin = (struct broker_admin){.client = &make->client,
                                        .action = action,
                                        .name = make->user->name,
                                        .password = make->user->password,
                                        .grants = make->user->grants,
                                        .grant_count = make->user->grant_count};
    request_init(&make->admin.request, make->errand.loop, done);
    broker_administer(&make->admin);
}

static void grants_are_set(struct request *request, enum status status)
{
    make_end(container_of(request, struct make, admin.request), status);
}

static void is_logged_in_again(struct request *request, enum status status)
{
    struct make *make = container_of(request, struct make, login.request);
    if (status == STATUS_OK)
        administer(make, ADMIN_GRANTS_SET, grants_are_set);
    else
        make_end(make, status);
}

static void user_is_set(struct request *request, enum status status)
{
    struct make *make = container_of(request, struct make, admin.request);
    if (status == STATUS_OK && make->user->grant_count > 0)
        log_in(make, is_logged_in_again);
    else
        make_end(make, status);
}

static void is_logged_in(struct request *request, enum status status)
{
    struct make *make = container_of(request, struct make, login.request);
    if (status == STATUS_OK)
        administer(make, ADMIN_USER_SET, user_is_set);
    else
        make_end(make, status);
}

static void make_run(struct errand *errand)
{
    struct make *make = container_of(errand, struct make, errand);
    if (catalog_principal_by_name(broker_catalog(make->worker), TENANT_DEFAULT, make->user->name) !=
        NULL)
        make_end(make, STATUS_EXISTS);
    else
        log_in(make, is_logged_in);
}

enum status user_make(struct crew *crew, struct broker *broker, const struct new_user *user,
                      struct err *err)
{
    struct make *make = heap_new(sizeof *make);
    errand_init(&make->errand, crew, 0, make_run);
    make->worker = broker_worker(broker, 0);
    make->user = user;
    enum status status = errand_do(&make->errand, true);
    if (status != STATUS_OK)
        err_set(err, status, "%s", make->errand.err.text);
    heap_free(make);
    return status;
}

/* ------------------------------------------------ the file */

static char *next_word(char **at)
{
    return strtok_r(NULL, " \t\r\n", at);
}

static enum status line_apply(struct crew *crew, struct broker *broker, char *line, struct err *err)
{
    char *at;
    char *name = strtok_r(line, " \t\r\n", &at);
    if (name == NULL || *name == '#')
        return STATUS_OK;
    char *password = next_word(&at);
    if (password == NULL)
        return err_set(err, STATUS_INVALID, "user %s has no password", name);

    struct grant grants[GRANTS_PER_LINE];
    uint32_t count = 0;
    enum status status = STATUS_OK;
    char *actions;
    while (status == STATUS_OK && (actions = next_word(&at)) != NULL) {
        char *pattern = next_word(&at);
        if (pattern == NULL || count == GRANTS_PER_LINE)
            status = err_set(err, STATUS_INVALID,
                             pattern == NULL ? "%s has no address pattern behind it"
                                             : "too many grants, from %s on",
                             actions);
        else
            status =
                grant_parse(span_from_text(actions), span_from_text(pattern), &grants[count], err);
        count += status == STATUS_OK;
    }
    struct new_user user = {.name = span_from_text(name),
                            .password = span_from_text(password),
                            .grants = grants,
                            .grant_count = count};
    if (status == STATUS_OK)
        status = user_make(crew, broker, &user, err);
    for (uint32_t i = 0; i < count; i++)
        grant_deinit(&grants[i]);
    return status == STATUS_EXISTS ? STATUS_OK : status;
}

enum status users_make_from_file(struct crew *crew, struct broker *broker, const char *path,
                                 struct err *err)
{
    FILE *file = fopen(path, "re");
    if (file == NULL)
        return err_set(err, STATUS_INVALID, "user.file: %s: %s", path, strerror(errno));
    char *line = heap_new(LINE_MAX_BYTES);
    enum status status = STATUS_OK;
    for (unsigned number = 1; status == STATUS_OK; number++) {
        if (fgets(line, LINE_MAX_BYTES, file) == NULL) {
            if (ferror(file))
                status = err_set(err, STATUS_INVALID, "user.file: %s: %s", path, strerror(errno));
            break;
        }
        struct err reason = {0};
        if (strlen(line) == LINE_MAX_BYTES - 1)
            status = err_set(&reason, STATUS_TOO_LARGE, "the line is too long");
        else
            status = line_apply(crew, broker, line, &reason);
        if (status != STATUS_OK)
            err_set(err, status, "user.file: %.150s:%u: %.300s", path, number, reason.text);
    }
    explicit_bzero(line, LINE_MAX_BYTES);
    heap_free(line);
    fclose(file);
    return status;
}
