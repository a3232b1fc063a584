/* SPDX-License-Identifier: Apache-2.0 */
/* Users, their links, and the tags sent on them, behind one lock. */
#include "adapters/amqp/unsettled.h"

#include <pthread.h>

#include "core/base/check.h"
#include "core/base/hash.h"
#include "core/base/heap.h"
#include "core/base/limits.h"
#include "core/base/list.h"
#include "core/base/map.h"

enum { TAG_MAX = AMQP_TAG_MAX, STATE_MAX = 128, EXPIRED_AT_ONCE = 256 };

/* Where a tag is found: number of its link's name, tag. */
struct key {
    uint8_t bytes[sizeof(uint64_t) + TAG_MAX];
};

struct user {
    struct map links;
    struct list suspended; /* the longest first */
    uint32_t tags;
    struct span key; /* bytes below */
    uint8_t bytes[];
};

struct named {
    struct user *user;                  /* NULL: it is forgotten */
    struct amqp_attachment *attachment; /* NULL: it is suspended */
    uint32_t refs;                      /* attachments, and to be found */
    uint64_t number;
    struct list sent; /* in order */
    uint32_t sent_count;
    uint32_t owed;               /* of these, may come and are not answered */
    bool gaps;                   /* what is not among these may have come too */
    uint64_t lost_from;          /* what is not among these and may be unsettled is not below */
    struct link of_user, of_all; /* while it is suspended */
    uint64_t until_ms;
    struct span key; /* bytes below */
    uint8_t bytes[];
};

struct amqp_attachment {
    struct named *named;
    uint64_t turn;
    bool settles_second;
    struct list pending; /* in order */
};

/* Freed when it is neither remembered nor pending. */
struct sent {
    struct named *named; /* NULL: not remembered */
    struct link in_order, pending;
    bool answered, told;
    bool may_come; /* again: it is in the client's map */
    bool claimed;  /* its outcome is in ours, so what is resumed under the tag is it */
    bool recalled; /* it is known by amqp_attachment_recall() */
    enum status status;
    uint64_t number;  /* rises in the list; 0: not known, or none */
    uint64_t payload; /* hash_stable() of it */
    struct span tag;  /* in key */
    struct key key;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct map users, tags;
static struct list suspended = {{&suspended.head, &suspended.head}};
static uint32_t link_count;
static uint64_t numbers, turns;

/* ------------------------------------------------ forgetting */

static struct span key_put(struct key *key, const struct named *named, struct span tag)
{
    memcpy(key->bytes, &named->number, sizeof named->number);
    if (tag.size > 0)
        memcpy(key->bytes + sizeof named->number, tag.data, tag.size);
    return span_of(key->bytes, sizeof named->number + tag.size);
}

static struct sent *find(const struct named *named, struct span tag)
{
    struct key key;
    return tag.size > TAG_MAX ? NULL : map_get(&tags, key_put(&key, named, tag));
}

static bool is_owed(const struct sent *sent)
{
    return sent->may_come && !sent->answered;
}

static void forget_sent(struct sent *sent)
{
    struct named *named = sent->named;
    CHECK(map_remove(&tags, key_put(&sent->key, named, sent->tag)) == sent);
    link_remove(&sent->in_order);
    named->owed -= is_owed(sent);
    sent->named = NULL;
    named->sent_count--;
    named->user->tags--;
    if (!link_is_linked(&sent->pending))
        heap_free(sent);
}

static void lose_number(struct named *named, uint64_t number)
{
    if (number < named->lost_from)
        named->lost_from = number;
}

/* Not because it is settled. */
static void lose_sent(struct sent *sent)
{
    lose_number(sent->named, sent->number);
    forget_sent(sent);
}

static void named_unref(struct named *named)
{
    if (--named->refs == 0)
        heap_free(named);
}

static void forget_named(struct named *named)
{
    struct user *user = named->user;
    if (user == NULL)
        return;
    list_each_safe(at, following, &named->sent)
    {
        forget_sent(container_of(at, struct sent, in_order));
    }
    link_remove(&named->of_user);
    link_remove(&named->of_all);
    map_remove(&user->links, named->key);
    link_count--;
    if (user->links.count == 0) {
        map_remove(&users, user->key);
        map_deinit(&user->links);
        heap_free(user);
    }
    named->user = NULL;
    named_unref(named);
}

/* Others wait for the lock: the rest goes at the next call, and is true until then. */
static void forget_expired(uint64_t now_ms)
{
    struct link *first;
    for (uint32_t i = 0; i < EXPIRED_AT_ONCE && (first = list_first(&suspended)) != NULL; i++) {
        struct named *named = container_of(first, struct named, of_all);
        if (named->until_ms > now_ms)
            return;
        if (named->sent_count > 0)
            lose_sent(container_of(list_first(&named->sent), struct sent, in_order));
        else
            forget_named(named);
    }
}

void amqp_unsettled_forget(void)
{
    struct map_slot *slot;
    pthread_mutex_lock(&lock);
    for (size_t i = 0; (slot = map_next(&users, &i)) != NULL; i = 0) {
        struct user *user = slot->value;
        size_t first = 0;
        forget_named(map_next(&user->links, &first)->value);
    }
    map_deinit(&users);
    map_deinit(&tags);
    pthread_mutex_unlock(&lock);
}

/* ------------------------------------------------ a link comes and goes */

/* Room for one more link of the user (NULL: of any); what is suspended makes way, of the user whose
 * part it is. */
static bool make_room(struct user *user, bool (*is_full)(const struct user *user))
{
    while (is_full(user)) {
        struct link *first = list_first(user == NULL ? &suspended : &user->suspended);
        if (first == NULL)
            return false;
        forget_named(user == NULL ? container_of(first, struct named, of_all)
                                  : container_of(first, struct named, of_user));
    }
    return true;
}

static bool links_are_full(const struct user *user)
{
    return user == NULL ? link_count >= LIMIT_RESUME_LINKS
                        : user->links.count >= LIMIT_RESUME_LINKS / 2;
}

static struct user *user_get(struct span key)
{
    struct user *user = map_get(&users, key);
    if (user != NULL)
        return user;
    user = heap_new(sizeof *user + key.size);
    memcpy(user->bytes, key.data, key.size);
    user->key = span_of(user->bytes, key.size);
    map_init(&user->links);
    list_init(&user->suspended);
    map_put(&users, user->key, user);
    return user;
}

static struct named *named_get(struct span user_key, struct span key)
{
    struct user *user = map_get(&users, user_key);
    struct named *named = user == NULL ? NULL : map_get(&user->links, key);
    if (named != NULL)
        return named;
    if (!make_room(NULL, links_are_full))
        return NULL;
    user = user_get(user_key); /* may have gone */
    if (!make_room(user, links_are_full))
        return NULL;
    named = heap_new(sizeof *named + key.size);
    memcpy(named->bytes, key.data, key.size);
    named->key = span_of(named->bytes, key.size);
    named->user = user;
    named->refs = 1;
    named->number = ++numbers;
    named->gaps = true;
    named->lost_from = UINT64_MAX;
    list_init(&named->sent);
    map_put(&user->links, named->key, named);
    link_count++;
    return named;
}

uint64_t amqp_unsettled_turn(void)
{
    pthread_mutex_lock(&lock);
    uint64_t turn = ++turns;
    pthread_mutex_unlock(&lock);
    return turn;
}

struct amqp_attachment *amqp_attachment_new(struct span user, struct span name, bool settles_second,
                                            uint64_t turn, uint64_t now_ms, bool *late)
{
    struct amqp_attachment *attachment = NULL;
    pthread_mutex_lock(&lock);
    forget_expired(now_ms);
    struct named *named = name.size > LIMIT_RESUME_NAME ? NULL : named_get(user, name);
    *late = named != NULL && named->attachment != NULL && named->attachment->turn > turn;
    if (named != NULL && !*late) {
        attachment = heap_new(sizeof *attachment);
        attachment->named = named;
        attachment->settles_second = settles_second;
        attachment->turn = turn;
        list_init(&attachment->pending);
        link_remove(&named->of_user);
        link_remove(&named->of_all);
        named->attachment = attachment;
        named->refs++;
        list_each(at, &named->sent) /* had numbers of another keeper */
        {
            container_of(at, struct sent, in_order)->number = 0;
        }
    }
    pthread_mutex_unlock(&lock);
    return attachment;
}

static void leave(struct amqp_attachment *attachment, bool for_good, uint64_t now_ms)
{
    struct named *named = attachment->named;
    forget_expired(now_ms);
    if (named->attachment != attachment)
        return;
    named->attachment = NULL;
    if (for_good) {
        forget_named(named);
    } else if (named->user != NULL) {
        named->until_ms = now_ms + LIMIT_RESUME_MS;
        list_push(&named->user->suspended, &named->of_user);
        list_push(&suspended, &named->of_all);
    }
}

void amqp_attachment_leave(struct amqp_attachment *attachment, bool for_good, uint64_t now_ms)
{
    pthread_mutex_lock(&lock);
    leave(attachment, for_good, now_ms);
    pthread_mutex_unlock(&lock);
}

void amqp_attachment_free(struct amqp_attachment *attachment, uint64_t now_ms)
{
    struct link *at;
    if (attachment == NULL)
        return;
    pthread_mutex_lock(&lock);
    leave(attachment, false, now_ms);
    while ((at = list_pop(&attachment->pending)) != NULL) {
        struct sent *sent = container_of(at, struct sent, pending);
        if (sent->named != NULL)
            lose_sent(sent);
        else
            heap_free(sent);
    }
    named_unref(attachment->named);
    pthread_mutex_unlock(&lock);
    heap_free(attachment);
}

/* ------------------------------------------------ what the client says is unsettled */

/* What was refused and has been heard of may be looked at anew, unless the client is still to
 * settle it. */
static bool is_over(const struct amqp_attachment *attachment, const struct sent *sent)
{
    return sent->told && sent->status != STATUS_OK && !attachment->settles_second;
}

void amqp_attachment_resume(struct amqp_attachment *attachment,
                            const struct amqp_unsettled_map *map)
{
    struct amqp_unsettled_map at = *map;
    struct span tag;
    pthread_mutex_lock(&lock);
    struct named *named = attachment->named;
    list_each(link, &named->sent)
    {
        struct sent *sent = container_of(link, struct sent, in_order);
        sent->may_come = sent->claimed = false;
    }
    named->owed = 0;
    named->gaps = false;
    while (amqp_unsettled_next(&at, &tag)) {
        struct sent *sent = find(named, tag);
        if (sent == NULL || sent->may_come)
            continue;
        sent->may_come = true;
        named->owed += is_owed(sent);
    }
    list_each_safe(link, following, &named->sent)
    {
        struct sent *sent = container_of(link, struct sent, in_order);
        bool may_be_unsettled = sent->may_come || (map->is_there && map->incomplete);
        if (!may_be_unsettled || is_over(attachment, sent))
            forget_sent(sent);
    }
    pthread_mutex_unlock(&lock);
}

bool amqp_attachment_owed(struct amqp_attachment *attachment, uint32_t *count)
{
    pthread_mutex_lock(&lock);
    bool ours = attachment->named->attachment == attachment;
    *count = attachment->named->owed;
    pthread_mutex_unlock(&lock);
    return ours;
}

/* Told: what it was is not said, as another delivery may have the tag by now; of that nothing has
 * been received. */
static void write_state(struct amqp_writer *writer, const struct sent *sent,
                        const char *(*condition_of)(enum status status))
{
    uint8_t *list;
    if (sent->told) {
        amqp_write_descriptor(writer, AMQP_RECEIVED);
        list = amqp_open(writer);
        amqp_write_uint(writer, 0);
        amqp_write_ulong(writer, 0);
        amqp_close(writer, list, AMQP_LIST, 2, false);
    } else if (sent->status == STATUS_OK) {
        amqp_write_descriptor(writer, AMQP_OUTCOME_ACCEPTED);
        amqp_close(writer, amqp_open(writer), AMQP_LIST, 0, false);
    } else {
        amqp_write_descriptor(writer, AMQP_OUTCOME_REJECTED);
        list = amqp_open(writer);
        amqp_write_descriptor(writer, AMQP_ERROR);
        uint8_t *error = amqp_open(writer);
        amqp_write_bytes(writer, AMQP_SYMBOL, span_from_text(condition_of(sent->status)));
        amqp_close(writer, error, AMQP_LIST, 1, false);
        amqp_close(writer, list, AMQP_LIST, 1, false);
    }
}

/* The map's items, as long as they fit. What another link's client hears is not ours to say. */
static bool write_map(const struct amqp_attachment *attachment, struct amqp_writer *writer,
                      const char *(*condition_of)(enum status status), size_t size_max)
{
    uint32_t count = 0;
    bool whole = true, ours = attachment->named->attachment == attachment;
    uint8_t *map = amqp_open(writer);
    list_each(link, &attachment->named->sent)
    {
        struct sent *sent = container_of(link, struct sent, in_order);
        uint8_t *before = writer->at;
        if (!ours || !sent->may_come || !sent->answered)
            continue;
        amqp_write_bytes(writer, AMQP_BINARY, sent->tag);
        write_state(writer, sent, condition_of);
        if ((size_t)(writer->at - map) > size_max) {
            writer->at = before;
            whole = false;
            break;
        }
        count += 2;
        sent->claimed = !sent->told;
        sent->told = true;
    }
    amqp_close(writer, map, AMQP_MAP, count, false);
    return whole || count == 0;
}

bool amqp_attachment_map(struct amqp_attachment *attachment,
                         const char *(*condition_of)(enum status status), size_t size_max,
                         struct buf *to)
{
    if (buf_reserve(to, size_max + TAG_MAX + STATE_MAX) != STATUS_OK)
        return false;
    struct amqp_writer writer = {.at = to->data + to->size};
    pthread_mutex_lock(&lock);
    bool whole = write_map(attachment, &writer, condition_of, size_max);
    pthread_mutex_unlock(&lock);
    to->size = (size_t)(writer.at - to->data);
    return whole;
}

/* ------------------------------------------------ deliveries */

/* The client hears of its outcome. */
static void tell(const struct amqp_attachment *attachment, struct sent *sent)
{
    sent->told = true;
    if (is_over(attachment, sent))
        forget_sent(sent);
}

/* Is it this one? The client says so, and our map did that or would have; or the bytes do. */
static bool is_same(const struct sent *sent, struct span payload, bool resume)
{
    return (resume && (sent->claimed || !sent->told)) || sent->payload == hash_stable(payload);
}

enum amqp_again amqp_attachment_came(struct amqp_attachment *attachment, struct span tag,
                                     struct span payload, bool resume, enum status *outcome)
{
    enum amqp_again again = AMQP_AGAIN_NEVER;
    pthread_mutex_lock(&lock);
    struct named *named = attachment->named;
    struct sent *sent = find(named, tag);
    if (named->attachment != attachment) {
        again = AMQP_AGAIN_STOLEN;
    } else if (sent == NULL || !sent->may_come) {
        again = resume ? AMQP_AGAIN_UNKNOWN : AMQP_AGAIN_NEVER;
    } else if (!sent->answered) {
        again = AMQP_AGAIN_EARLY;
    } else {
        sent->may_come = false;
        *outcome = sent->status;
        if (is_same(sent, payload, resume)) {
            again = AMQP_AGAIN_KNOWN;
            tell(attachment, sent);
        } else if (resume && payload.size == 0) {
            again = AMQP_AGAIN_UNKNOWN;
        }
    }
    pthread_mutex_unlock(&lock);
    return again;
}

static bool tags_are_full(const struct user *user)
{
    return user == NULL ? tags.count >= LIMIT_RESUME_TAGS : user->tags >= LIMIT_RESUME_TAGS / 2;
}

/* The oldest of the link's own that is answered makes way for that number: it is lost unless a
 * keeper has nothing of it any more either. */
static bool evict(struct named *named, uint64_t number)
{
    list_each(link, &named->sent)
    {
        struct sent *sent = container_of(link, struct sent, in_order);
        if (!sent->answered)
            continue;
        if (sent->number == 0 || sent->number + LIMIT_RESUME_LINK_TAGS > number)
            lose_sent(sent);
        else
            forget_sent(sent);
        return true;
    }
    return false;
}

static void remember(struct named *named, struct sent *sent, struct span tag)
{
    if (named->user == NULL || tag.size > TAG_MAX)
        return;
    if (named->sent_count >= LIMIT_RESUME_LINK_TAGS && !evict(named, sent->number)) {
        lose_number(named, sent->number);
        return;
    }
    if ((!make_room(NULL, tags_are_full) || !make_room(named->user, tags_are_full)) &&
        !evict(named, sent->number)) {
        named->gaps = true;
        lose_number(named, sent->number);
        return;
    }
    struct span key = key_put(&sent->key, named, tag);
    sent->tag = span_of(key.data + sizeof named->number, tag.size);
    sent->named = named;
    map_put(&tags, key, sent);
    list_push(&named->sent, &sent->in_order);
    named->sent_count++;
    named->user->tags++;
}

void amqp_attachment_recall(struct amqp_attachment *attachment, struct span tag, uint64_t payload,
                            uint64_t number)
{
    pthread_mutex_lock(&lock);
    struct named *named = attachment->named;
    struct sent *before = find(named, tag);
    bool more = before != NULL && !before->recalled;
    if (named->attachment == attachment && named->gaps && !more) {
        if (before != NULL)
            forget_sent(before);
        struct sent *sent = heap_new(sizeof *sent);
        sent->payload = payload;
        sent->number = number;
        sent->answered = sent->told = sent->recalled = true;
        remember(named, sent, tag);
        if (sent->named == NULL)
            heap_free(sent);
    }
    pthread_mutex_unlock(&lock);
}

/* Of those with numbers, number being the highest. */
static uint64_t unsettled_from(struct named *named, uint64_t number)
{
    struct link *first = list_first(&named->sent);
    uint64_t from = first == NULL ? number : container_of(first, struct sent, in_order)->number;
    return from < named->lost_from ? from : named->lost_from;
}

bool amqp_attachment_sent(struct amqp_attachment *attachment, struct span tag, uint64_t payload,
                          uint64_t number, uint64_t *from)
{
    struct sent *sent = heap_new(sizeof *sent);
    sent->payload = payload;
    sent->number = number;
    pthread_mutex_lock(&lock);
    struct named *named = attachment->named;
    bool ours = named->attachment == attachment;
    if (ours) {
        struct sent *before = find(named, tag);
        if (before != NULL)
            forget_sent(before);
        list_push(&attachment->pending, &sent->pending);
        remember(named, sent, tag);
        *from = unsettled_from(named, number);
    }
    pthread_mutex_unlock(&lock);
    if (!ours)
        heap_free(sent);
    return ours;
}

void amqp_attachment_answered(struct amqp_attachment *attachment, enum status status, bool settled)
{
    pthread_mutex_lock(&lock);
    struct link *first = list_pop(&attachment->pending);
    CHECK(first != NULL);
    struct sent *sent = container_of(first, struct sent, pending);
    if (sent->named != NULL)
        sent->named->owed -= is_owed(sent);
    sent->answered = true;
    sent->status = status;
    if (sent->named == NULL)
        heap_free(sent);
    else if (status == STATUS_STORAGE_FAILED)
        lose_sent(sent); /* nobody knows */
    else if (settled || status == STATUS_SHUTTING_DOWN)
        forget_sent(sent); /* it is over, or nothing was done */
    else if (sent->named->attachment == attachment)
        tell(attachment, sent);
    pthread_mutex_unlock(&lock);
}

void amqp_attachment_settled(struct amqp_attachment *attachment, struct span tag)
{
    pthread_mutex_lock(&lock);
    struct named *named = attachment->named;
    struct sent *sent = named->attachment == attachment ? find(named, tag) : NULL;
    if (sent != NULL && !sent->may_come)
        forget_sent(sent);
    pthread_mutex_unlock(&lock);
}
