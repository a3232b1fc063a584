/* SPDX-License-Identifier: Apache-2.0 */
/* The heap. Own-sized memory aborts the process when there is none; peer-sized memory may fail. */
#ifndef CORE_BASE_HEAP_H
#define CORE_BASE_HEAP_H

#include <stddef.h>

void *heap_new(size_t size);                    /* zeroed; never NULL */
void *heap_array(size_t count, size_t size);    /* zeroed; never NULL; overflow aborts */
void *heap_resize(void *old, size_t size);      /* not zeroed; never NULL */
char *heap_text(const char *text, size_t size); /* copy with a closing NUL; never NULL */
void *heap_try(size_t size);                    /* not zeroed; NULL when refused */
void *heap_try_resize(void *old, size_t size);  /* not zeroed; NULL when refused, old is kept */
void heap_free(void *memory);                   /* NULL is fine */

/* Tests only: the n-th heap_try or heap_try_resize from now fails (1 = the next), 0 = none. */
void heap_fail_after(unsigned n);

#endif
