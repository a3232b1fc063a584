/* SPDX-License-Identifier: Apache-2.0 */
/* Memory that lives and dies together: bump allocation for one request or one decoded packet. */
#ifndef CORE_BASE_ARENA_H
#define CORE_BASE_ARENA_H

#include <stddef.h>

struct arena_chunk;

struct arena {
    struct arena_chunk *chunks;
    size_t used;  /* bytes handed out since init or reset */
    size_t limit; /* arena_alloc fails (NULL) past it */
};

void arena_init(struct arena *arena, size_t limit);
void arena_deinit(struct arena *arena);
void arena_reset(struct arena *arena); /* keeps one chunk */
/* 16-byte aligned, zeroed; NULL past the limit. */
void *arena_alloc(struct arena *arena, size_t size);
char *arena_text(struct arena *arena, const void *text, size_t size); /* NUL-terminated copy */

#endif
