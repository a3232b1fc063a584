/* SPDX-License-Identifier: Apache-2.0 */
/* What changes of users, their grants and their access keys do to the next snapshot. */
#include "core/base/heap.h"
#include "core/broker/change.h"

static enum status store_principal(struct broker_admin *admin, struct catalog *next,
                                   struct principal *principal)
{
    struct buf row;
    buf_init(&row, CHANGE_ROW_MAX);
    enum status status =
        change_store(admin, TABLE_PRINCIPAL, (uint64_t[]){principal->tenant, principal->id}, 2,
                     &row, principal_encode(principal, &row));
    if (status == STATUS_OK)
        catalog_put_principal(next, principal);
    else
        principal_unref(principal);
    return status;
}

enum status change_user_set(struct broker *broker, struct broker_admin *admin, struct catalog *next)
{
    const struct principal *old = catalog_principal_by_name(next, TENANT_DEFAULT, admin->name);
    if (old == NULL && catalog_principal_count(next) >= LIMIT_PRINCIPALS)
        return err_set(&admin->err, STATUS_OVER_QUOTA, "there are %u users already",
                       LIMIT_PRINCIPALS);
    struct principal *principal = old != NULL ? principal_copy(old) : heap_new(sizeof *principal);
    if (old == NULL) {
        atomic_init(&principal->refs, 1);
        principal->tenant = TENANT_DEFAULT;
        principal->id = broker->next_id++;
        principal->name = heap_text((const char *)admin->name.data, admin->name.size);
        principal->created_ms = clock_wall_ms();
        /* The first user runs the house: without the right to manage nobody could give rights. */
        if (catalog_principal_count(next) == 0) {
            static const char *const all[] = {"topic:#", "topic:$+/#", "queue:*"};
            principal->grants = heap_array(3, sizeof *principal->grants);
            for (unsigned i = 0; i < 3; i++)
                if (grant_parse(span_from_text("publish,consume,manage"), span_from_text(all[i]),
                                &principal->grants[principal->grant_count], NULL) == STATUS_OK)
                    principal->grant_count++;
        }
    }
    /* The slow part was done off the loop, into admin->principal. */
    heap_free(principal->hash);
    principal->hash = admin->principal->hash;
    admin->principal->hash = NULL;
    memcpy(principal->scram_salt, admin->principal->scram_salt, sizeof principal->scram_salt);
    memcpy(principal->scram_stored_key, admin->principal->scram_stored_key,
           sizeof principal->scram_stored_key);
    memcpy(principal->scram_server_key, admin->principal->scram_server_key,
           sizeof principal->scram_server_key);
    principal->scram_iterations = admin->principal->scram_iterations;
    return store_principal(admin, next, principal);
}

enum status change_user_delete(struct broker *broker, struct broker_admin *admin,
                               struct catalog *next)
{
    (void)broker;
    const struct principal *principal =
        catalog_principal_by_name(next, TENANT_DEFAULT, admin->name);
    if (principal == NULL)
        return STATUS_NOT_FOUND;
    if (catalog_principal_count(next) == 1)
        return err_set(
            &admin->err, STATUS_DENIED,
            "the last user cannot be deleted: without users everybody may do everything");
    change_put_row(admin, 0, STORAGE_DELETE, TABLE_PRINCIPAL,
                   (uint64_t[]){principal->tenant, principal->id}, 2, NULL);
    admin->row_count = 1;
    catalog_remove_principal(next, principal->id);
    return STATUS_OK;
}

enum status change_grants_set(struct broker *broker, struct broker_admin *admin,
                              struct catalog *next)
{
    (void)broker;
    const struct principal *old = catalog_principal_by_name(next, TENANT_DEFAULT, admin->name);
    if (old == NULL)
        return STATUS_NOT_FOUND;
    if (admin->grant_count > LIMIT_GRANTS)
        return err_set(&admin->err, STATUS_OVER_QUOTA, "at most %u grants for a user",
                       LIMIT_GRANTS);
    struct principal *principal = principal_copy(old);
    for (uint32_t i = 0; i < principal->grant_count; i++)
        grant_deinit(&principal->grants[i]);
    heap_free(principal->grants);
    principal->grants =
        admin->grant_count == 0 ? NULL : heap_array(admin->grant_count, sizeof(struct grant));
    principal->grant_count = admin->grant_count;
    for (uint32_t i = 0; i < admin->grant_count; i++) {
        principal->grants[i] = admin->grants[i];
        principal->grants[i].pattern =
            heap_text(admin->grants[i].pattern, strlen(admin->grants[i].pattern));
    }
    return store_principal(admin, next, principal);
}

enum status change_key_create(struct broker *broker, struct broker_admin *admin,
                              struct catalog *next)
{
    (void)broker;
    const struct principal *old = catalog_principal_by_name(next, TENANT_DEFAULT, admin->name);
    if (old == NULL)
        return STATUS_NOT_FOUND;
    if (old->key_count >= LIMIT_ACCESS_KEYS)
        return err_set(&admin->err, STATUS_OVER_QUOTA, "at most %u access keys for a user",
                       LIMIT_ACCESS_KEYS);
    struct principal *principal = principal_copy(old);
    principal->keys =
        heap_resize(principal->keys, (principal->key_count + 1) * sizeof *principal->keys);
    access_key_make(&admin->key);
    principal->keys[principal->key_count++] = admin->key;
    return store_principal(admin, next, principal);
}

enum status change_key_delete(struct broker *broker, struct broker_admin *admin,
                              struct catalog *next)
{
    (void)broker;
    const struct principal *old = catalog_principal_by_name(next, TENANT_DEFAULT, admin->name);
    if (old == NULL)
        return STATUS_NOT_FOUND;
    for (uint32_t i = 0; i < old->key_count; i++) {
        if (!span_is(admin->key_id, old->keys[i].id))
            continue;
        struct principal *principal = principal_copy(old);
        memmove(&principal->keys[i], &principal->keys[i + 1],
                (principal->key_count - i - 1) * sizeof *principal->keys);
        principal->key_count--;
        return store_principal(admin, next, principal);
    }
    return STATUS_NOT_FOUND;
}
