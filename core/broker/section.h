/* SPDX-License-Identifier: Apache-2.0 */
/* One kind of thing in the catalog, found by id, by place and by text. Snapshots share a section
 * until one of them changes it, so a new queue does not copy a hundred thousand users. */
#ifndef CORE_BROKER_SECTION_H
#define CORE_BROKER_SECTION_H

#include "core/base/span.h"

struct section;

/* A text that finds a thing: unique within the scope (a tenant, a queue). Of two things with the
 * same text the last one put is found. */
struct section_text {
    uint64_t scope;
    char sort; /* name, UUID, ...: texts of different sorts never meet */
    struct span text;
};

/* A second order beside that of ids. */
struct section_place {
    uint64_t major, minor;
};

struct section *section_new(void (*unref)(void *thing));
struct section *section_ref(struct section *section);
void section_unref(struct section *section);
/* Before a change: true when others hold the section, too, and *section became a copy of its own.
 */
bool section_own(struct section **section);

/* Takes the caller's reference of thing; what has the same id is replaced. The texts are copied. */
void section_put(struct section *section, uint64_t id, void *thing, struct section_place place,
                 const struct section_text *texts, size_t text_count);
bool section_remove(struct section *section, uint64_t id); /* false: not there */

void *section_get(const struct section *section, uint64_t id); /* NULL when missing, as below */
void *section_get_by_text(const struct section *section, struct section_text text);
size_t section_count(const struct section *section);
/* What is not the same in two sections, in order of id, from a step {0} on: before NULL: new; after
 * NULL: gone. False: nothing more. Two that nobody has changed since they were one take no time. */
struct section_step {
    size_t old, new;
};
bool section_difference(const struct section *old, const struct section *new,
                        struct section_step *step, void **before, void **after);
void *section_at(const struct section *section, size_t index); /* in order of id */
/* How many things lie before place; section_placed() of that number is the first that does not. */
size_t section_before(const struct section *section, struct section_place place);
void *section_placed(const struct section *section, size_t index); /* NULL past the end */

#endif
