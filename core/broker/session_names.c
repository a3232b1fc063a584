/* SPDX-License-Identifier: Apache-2.0 */
/* Names and their holders. */
#include "core/broker/session_names.h"

#include "core/base/check.h"
#include "core/base/heap.h"
#include "core/base/list.h"
#include "core/net/loop.h"

struct name_claim {
    struct mail grant, replace;
    struct session_names *names;
    struct loop *loop;
    void *owner; /* NULL: released; used on its loop only */
    void (*granted)(void *owner);
    void (*replaced)(void *owner);
    bool held; /* used on its loop only */
    /* Under the lock: */
    struct name_claim *successor;
    bool let_go, in_use;
    /* The mail that tells of the successor was delivered: it is before the claim goes. */
    bool told;
    struct span key; /* bytes below */
    uint8_t bytes[];
};

struct name_hold {
    uint32_t count;
    struct span key; /* bytes below */
    uint8_t bytes[];
};

void session_names_init(struct session_names *names)
{
    CHECK(pthread_mutex_init(&names->lock, NULL) == 0);
    map_init(&names->claims);
    map_init(&names->holds);
}

void session_names_deinit(struct session_names *names)
{
    struct map_slot *slot;
    for (size_t i = 0; (slot = map_next(&names->claims, &i)) != NULL;)
        heap_free(slot->value);
    for (size_t i = 0; (slot = map_next(&names->holds, &i)) != NULL;)
        heap_free(slot->value);
    map_deinit(&names->claims);
    map_deinit(&names->holds);
    pthread_mutex_destroy(&names->lock);
}

static void let_go(struct name_claim *claim)
{
    struct session_names *names = claim->names;
    pthread_mutex_lock(&names->lock);
    struct name_claim *successor = claim->successor;
    claim->let_go = true;
    if (successor == NULL)
        map_remove(&names->claims, claim->key);
    pthread_mutex_unlock(&names->lock);
    if (successor != NULL)
        mailbox_post(successor->loop, &successor->grant);
    if (successor == NULL || claim->told)
        heap_free(claim);
}

static void grant_deliver(struct mail *mail)
{
    struct name_claim *claim = container_of(mail, struct name_claim, grant);
    claim->held = true;
    if (claim->owner == NULL)
        let_go(claim);
    else
        claim->granted(claim->owner);
}

static void replace_deliver(struct mail *mail)
{
    struct name_claim *claim = container_of(mail, struct name_claim, replace);
    claim->told = true;
    pthread_mutex_lock(&claim->names->lock);
    bool gone = claim->let_go;
    pthread_mutex_unlock(&claim->names->lock);
    if (gone)
        heap_free(claim);
    else if (claim->owner != NULL)
        claim->replaced(claim->owner);
}

static struct span key_pack(uint8_t *bytes, uint64_t tenant, struct span name)
{
    memcpy(bytes, &tenant, sizeof tenant);
    if (name.size > 0)
        memcpy(bytes + sizeof tenant, name.data, name.size);
    return span_of(bytes, sizeof tenant + name.size);
}

static struct name_claim *claim_new(struct session_names *names, struct loop *loop, uint64_t tenant,
                                    struct span name, void *owner, void (*granted)(void *owner),
                                    void (*replaced)(void *owner))
{
    struct name_claim *claim = heap_new(sizeof *claim + sizeof tenant + name.size);
    claim->names = names;
    claim->loop = loop;
    claim->owner = owner;
    claim->granted = granted;
    claim->replaced = replaced;
    claim->grant.deliver = grant_deliver;
    claim->replace.deliver = replace_deliver;
    claim->key = key_pack(claim->bytes, tenant, name);
    return claim;
}

struct name_claim *name_claim(struct session_names *names, struct loop *loop, uint64_t tenant,
                              struct span name, void *owner, void (*granted)(void *owner),
                              void (*replaced)(void *owner))
{
    struct name_claim *claim = claim_new(names, loop, tenant, name, owner, granted, replaced);
    pthread_mutex_lock(&names->lock);
    struct name_claim *older = map_put(&names->claims, claim->key, claim);
    if (older != NULL) {
        older->successor = claim;
        claim->in_use = older->in_use;
        mailbox_post(older->loop, &older->replace);
    }
    pthread_mutex_unlock(&names->lock);
    if (older == NULL)
        mailbox_post(loop, &claim->grant);
    return claim;
}

struct name_claim *name_claim_free(struct session_names *names, struct loop *loop, uint64_t tenant,
                                   struct span name, void *owner, void (*replaced)(void *owner))
{
    struct name_claim *claim = claim_new(names, loop, tenant, name, owner, NULL, replaced);
    claim->held = true;
    pthread_mutex_lock(&names->lock);
    bool taken = map_get(&names->claims, claim->key) != NULL;
    if (!taken)
        map_put(&names->claims, claim->key, claim);
    pthread_mutex_unlock(&names->lock);
    if (taken) {
        heap_free(claim);
        return NULL;
    }
    return claim;
}

void name_use(struct name_claim *claim, bool in_use)
{
    pthread_mutex_lock(&claim->names->lock);
    claim->in_use = in_use;
    pthread_mutex_unlock(&claim->names->lock);
}

bool name_is_in_use(struct session_names *names, uint64_t tenant, struct span name)
{
    uint8_t *bytes = heap_new(sizeof tenant + name.size);
    struct span key = key_pack(bytes, tenant, name);
    pthread_mutex_lock(&names->lock);
    const struct name_claim *claim = map_get(&names->claims, key);
    bool in_use = claim != NULL && claim->in_use;
    pthread_mutex_unlock(&names->lock);
    heap_free(bytes);
    return in_use;
}

static struct name_hold *hold_new(uint64_t tenant, struct span name)
{
    struct name_hold *hold = heap_new(sizeof *hold + sizeof tenant + name.size);
    hold->key = key_pack(hold->bytes, tenant, name);
    return hold;
}

void name_hold(struct session_names *names, uint64_t tenant, struct span name)
{
    struct name_hold *hold = hold_new(tenant, name);
    pthread_mutex_lock(&names->lock);
    struct name_hold *there = map_get(&names->holds, hold->key);
    if (there == NULL)
        map_put(&names->holds, hold->key, hold);
    (there == NULL ? hold : there)->count++;
    pthread_mutex_unlock(&names->lock);
    if (there != NULL)
        heap_free(hold);
}

bool name_unhold(struct session_names *names, uint64_t tenant, struct span name)
{
    struct name_hold *wanted = hold_new(tenant, name);
    pthread_mutex_lock(&names->lock);
    struct name_hold *hold = map_get(&names->holds, wanted->key);
    CHECK(hold != NULL);
    bool last = --hold->count == 0;
    if (last)
        map_remove(&names->holds, hold->key);
    pthread_mutex_unlock(&names->lock);
    heap_free(wanted);
    if (last)
        heap_free(hold);
    return last;
}

bool name_is_held(struct session_names *names, uint64_t tenant, struct span name)
{
    struct name_hold *wanted = hold_new(tenant, name);
    pthread_mutex_lock(&names->lock);
    bool held = map_get(&names->holds, wanted->key) != NULL;
    pthread_mutex_unlock(&names->lock);
    heap_free(wanted);
    return held;
}

void name_release(struct session_names *names, struct name_claim *claim)
{
    CHECK(claim->names == names && claim->owner != NULL);
    claim->owner = NULL;
    if (claim->held)
        let_go(claim);
}
