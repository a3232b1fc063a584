/* SPDX-License-Identifier: Apache-2.0 */
/* An intrusive doubly linked list: the link lies inside the element, so nothing is allocated. */
#ifndef CORE_BASE_LIST_H
#define CORE_BASE_LIST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct link {
    struct link *previous;
    struct link *next;
};

struct list {
    struct link head; /* a ring; empty when it points to itself */
};

#define container_of(pointer, type, member)                                                        \
    ((type *)(void *)((char *)(pointer)-offsetof(type, member)))

static inline void list_init(struct list *list)
{
    list->head.previous = list->head.next = &list->head;
}

static inline void link_init(struct link *link)
{
    link->previous = link->next = link;
}

static inline bool link_is_linked(const struct link *link)
{
    return link->next != NULL && link->next != link;
}

static inline bool list_is_empty(const struct list *list)
{
    return list->head.next == &list->head;
}

static inline void link_insert_before(struct link *at, struct link *link)
{
    link->previous = at->previous;
    link->next = at;
    at->previous->next = link;
    at->previous = link;
}

static inline void list_push(struct list *list, struct link *link) /* at the end */
{
    link_insert_before(&list->head, link);
}

static inline void link_remove(struct link *link) /* harmless when not linked */
{
    if (link->next == NULL)
        return;
    link->previous->next = link->next;
    link->next->previous = link->previous;
    link_init(link);
}

static inline struct link *list_first(const struct list *list) /* NULL when empty */
{
    return list_is_empty(list) ? NULL : list->head.next;
}

static inline struct link *list_pop(struct list *list) /* the first; NULL when empty */
{
    struct link *first = list_first(list);
    if (first != NULL)
        link_remove(first);
    return first;
}

#define list_each(cursor, list)                                                                    \
    for (struct link *cursor = (list)->head.next; cursor != &(list)->head; cursor = cursor->next)

#define list_each_safe(cursor, following, list)                                                    \
    for (struct link *cursor = (list)->head.next, *following = cursor->next;                       \
         cursor != &(list)->head; cursor = following, following = cursor->next)

static inline uint32_t list_count(const struct list *list) /* walks it */
{
    uint32_t count = 0;
    list_each(link, list) count++;
    return count;
}

#endif
