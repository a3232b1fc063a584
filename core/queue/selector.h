/* SPDX-License-Identifier: Apache-2.0 */
/* Selectors: the SQL-92 subset of JMS 2.0 (3.8.1) over a record's properties and standard fields,
 * compiled once and evaluated in bounded steps. Immutable after compiling; any thread. */
#ifndef CORE_QUEUE_SELECTOR_H
#define CORE_QUEUE_SELECTOR_H

#include "core/log/record.h"

struct selector;

/* INVALID with err (position and reason) for what is no selector or beyond LIMIT_SELECTOR_*.
 * *selector: one reference. */
enum status selector_compile(struct span text, struct selector **selector, struct err *err);
struct selector *selector_ref(struct selector *selector);
void selector_unref(struct selector *selector); /* NULL is fine */
struct span selector_text(const struct selector *selector);
/* True only when the expression is true (unknown is not). */
bool selector_matches(const struct selector *selector, const struct record *record);

#endif
