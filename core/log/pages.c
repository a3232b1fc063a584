/* SPDX-License-Identifier: Apache-2.0 */
/* What was read from storage last, kept for others that read the same stretch: many sessions that
 * come back to one backlog read it once, and in steps that grow while each follows the one before.
 * One budget per worker; what was not wanted for longest goes first. */
#include "core/base/heap.h"
#include "core/base/limits.h"
#include "core/log/partition.h"

enum { PAGES_MAX = 128, AHEAD_BYTES = 256 * 1024, NEAR = 4 };

struct page *page_new(uint64_t partition, uint64_t from, uint32_t capacity)
{
    struct page *page = heap_resize(NULL, sizeof *page + capacity * sizeof page->batches[0]);
    *page = (struct page){.partition = partition, .from = from, .end = from};
    return page;
}

void page_add(struct page *page, struct batch *batch)
{
    page->batches[page->count++] = batch;
    page->end = batch_end(batch);
    page->size += batch->bytes->size;
    page->charge += batch_charge(batch);
}

void page_free(struct page *page)
{
    for (uint32_t i = 0; i < page->count; i++)
        batch_unref(page->batches[i]);
    heap_free(page);
}

static void page_drop(struct log_worker *worker, struct page *page)
{
    link_remove(&page->link);
    worker->page_count--;
    worker->page_bytes -= page->charge;
    page_free(page);
}

void pages_keep(struct log_worker *worker, struct page *page)
{
    list_push(&worker->pages, &page->link);
    worker->page_count++;
    worker->page_bytes += page->charge;
    while (worker->page_count > PAGES_MAX || worker->page_bytes > LIMIT_PAGE_BYTES)
        page_drop(worker, container_of(list_first(&worker->pages), struct page, link));
}

struct page *pages_find(struct log_worker *worker, uint64_t partition, uint64_t offset)
{
    const struct list *pages = &worker->pages;
    for (struct link *link = pages->head.previous; link != &pages->head; link = link->previous) {
        struct page *page = container_of(link, struct page, link);
        if (page->partition != partition || offset < page->from || offset >= page->end)
            continue;
        link_remove(link);
        list_push(&worker->pages, link);
        return page;
    }
    return NULL;
}

uint32_t page_find(const struct page *page, uint64_t offset)
{
    uint32_t low = 0, high = page->count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (batch_end(page->batches[middle]) > offset)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

uint32_t pages_ahead(const struct log_worker *worker, uint64_t partition, uint64_t offset)
{
    uint64_t bytes = 0;
    list_each(link, &worker->pages)
    {
        const struct page *page = container_of(link, struct page, link);
        bool follows = page->partition == partition && offset >= page->end &&
                       offset - page->end < (page->end - page->from) * NEAR;
        if (follows && page->size * 2 > bytes)
            bytes = page->size * 2;
    }
    return bytes < AHEAD_BYTES ? (uint32_t)bytes : AHEAD_BYTES;
}

uint64_t pages_next(const struct log_worker *worker, uint64_t partition, uint64_t offset)
{
    uint64_t next = UINT64_MAX;
    list_each(link, &worker->pages)
    {
        const struct page *page = container_of(link, struct page, link);
        if (page->partition == partition && page->from > offset && page->from < next)
            next = page->from;
    }
    return next;
}

void pages_clear(struct log_worker *worker, uint64_t partition)
{
    list_each_safe(link, following, &worker->pages)
    {
        struct page *page = container_of(link, struct page, link);
        if (page->partition == partition)
            page_drop(worker, page);
    }
}
