/* SPDX-License-Identifier: Apache-2.0 */
/* Selectors: the SQL-92 subset of JMS 2.0 (3.8.1) over a record's properties and standard fields,
 * compiled once and evaluated in bounded steps. Immutable after compiling; any thread.
 *
 * Names. A property is the first header of that name; names that are no identifier go in double
 * quotes ("content-type", a double quote inside doubled); in quotes a name is a property's whatever
 * it is. `key` is the record's key. JMSMessageID, JMSCorrelationID, JMSType (subject), JMSXGroupID:
 * text. JMSPriority (4 when none is set), JMSTimestamp (creation-time, else the publish time, ms),
 * JMSXGroupSeq: numbers. JMSDeliveryMode: 'PERSISTENT', or 'NON_PERSISTENT' when published at most
 * once or as not durable. Other JMS fields
 * are refused, JMSX and JMS_ names are properties. What is missing is NULL.
 *
 * Types. A header that "pl-types" names has that type. Any other is text, and since most protocols
 * know nothing else, it is also a number where it is compared or calculated with a number and reads
 * as one from end to end (decimal, perhaps with fraction and exponent), and a truth value where one
 * is wanted and it reads true or false in any case. `=` and `<>` of two texts compare bytes; order
 * and BETWEEN exist for numbers only. Unlike types are neither equal nor unequal nor ordered: the
 * comparison is false, as JMS says. Arithmetic on what is no number, and division by zero, give
 * NULL; a sum too large for 64 bits goes on as an approximate number.
 *
 * Syntax beyond JMS: quoted names, numbers and truth values in IN. MATCHES, where LIKE may stand,
 * compares words between dots: in subject MATCHES 'a.*.#' the * stands for one word, # for any
 * number. LIKE: `_` stands for one UTF-8 character. Integers as in Java: 017 is octal, 0x1f
 * hexadecimal, L may follow. */
#ifndef CORE_QUEUE_SELECTOR_H
#define CORE_QUEUE_SELECTOR_H

#include "core/log/record.h"

struct selector;

/* INVALID with err (position and reason: "at 17: expected a value"; bytes, from 1) for what is no
 * selector or beyond LIMIT_SELECTOR_*. *selector: one reference. */
enum status selector_compile(struct span text, struct selector **selector, struct err *err);
struct selector *selector_ref(struct selector *selector);
void selector_unref(struct selector *selector); /* NULL is fine */
struct span selector_text(const struct selector *selector);
/* Two of the same text choose the same; NULL is the same as NULL only. */
bool selector_equal(const struct selector *left, const struct selector *right);
/* True only when the expression is true (unknown is not). An evaluation that would have to look at
 * more text than LIMIT_SELECTOR_COMPARES allows is unknown where it stops. */
bool selector_matches(const struct selector *selector, const struct record *record);
/* Likewise; adds to *steps what it has cost: its operations, and the text it has looked at as
 * LIMIT_SELECTOR_COMPARES counts it. */
bool selector_matches_counted(const struct selector *selector, const struct record *record,
                              uint64_t *steps);

#endif
