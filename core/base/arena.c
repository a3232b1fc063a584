/* SPDX-License-Identifier: Apache-2.0 */
/* Bump allocation in chunks that grow; what is too large for a chunk gets one of its own. */
#include "core/base/arena.h"

#include <stdalign.h>
#include <stdint.h>
#include <string.h>

#include "core/base/heap.h"

enum { ALIGNMENT = 16, CHUNK_MIN = 1024, CHUNK_MAX = 64 * 1024 };

struct arena_chunk {
    struct arena_chunk *next;
    size_t used;
    size_t capacity;
    alignas(ALIGNMENT) uint8_t bytes[];
};

void arena_init(struct arena *arena, size_t limit)
{
    *arena = (struct arena){.limit = limit};
}

static void chunks_free(struct arena_chunk *chunk)
{
    while (chunk != NULL) {
        struct arena_chunk *next = chunk->next;
        heap_free(chunk);
        chunk = next;
    }
}

void arena_deinit(struct arena *arena)
{
    chunks_free(arena->chunks);
    arena_init(arena, arena->limit);
}

/* An oversized chunk is not kept, or one large request would hold its memory for ever. */
void arena_reset(struct arena *arena)
{
    struct arena_chunk *keep = arena->chunks;
    if (keep == NULL || keep->capacity > CHUNK_MAX) {
        arena_deinit(arena);
        return;
    }
    chunks_free(keep->next);
    keep->next = NULL;
    keep->used = 0;
    arena->used = 0;
}

/* The first chunk is the one that bumps; an oversized one goes behind it. */
static struct arena_chunk *chunk_add(struct arena *arena, size_t size)
{
    struct arena_chunk *first = arena->chunks;
    size_t capacity = CHUNK_MIN;
    if (first != NULL)
        capacity = first->capacity * 2 < CHUNK_MAX ? first->capacity * 2 : CHUNK_MAX;
    if (capacity < size)
        capacity = size;
    struct arena_chunk *chunk = heap_try(sizeof *chunk + capacity);
    if (chunk == NULL)
        return NULL;
    chunk->used = 0;
    chunk->capacity = capacity;
    if (first != NULL && capacity > CHUNK_MAX) {
        chunk->next = first->next;
        first->next = chunk;
    } else {
        chunk->next = first;
        arena->chunks = chunk;
    }
    return chunk;
}

void *arena_alloc(struct arena *arena, size_t size)
{
    if (size > arena->limit - arena->used || size > SIZE_MAX - CHUNK_MAX)
        return NULL;
    size_t rounded = (size + ALIGNMENT - 1) & ~(size_t)(ALIGNMENT - 1);
    struct arena_chunk *chunk = arena->chunks;
    if (chunk == NULL || rounded > chunk->capacity - chunk->used) {
        chunk = chunk_add(arena, rounded);
        if (chunk == NULL)
            return NULL;
    }
    uint8_t *memory = chunk->bytes + chunk->used;
    chunk->used += rounded;
    arena->used += size;
    return memset(memory, 0, size);
}

char *arena_text(struct arena *arena, const void *text, size_t size)
{
    if (size == SIZE_MAX)
        return NULL;
    char *copy = arena_alloc(arena, size + 1);
    if (copy != NULL && size != 0)
        memcpy(copy, text, size);
    return copy;
}
