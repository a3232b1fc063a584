/* SPDX-License-Identifier: Apache-2.0 */
/* The filters of a source, which a record must pass all, as the text of one selector. Pure; each
 * call borrows its value until expression_compile(). INVALID with err: not what such a filter is.
 */
#ifndef ADAPTERS_AMQP_EXPRESSION_H
#define ADAPTERS_AMQP_EXPRESSION_H

#include "adapters/amqp/codec.h"
#include "core/base/pack.h"
#include "core/queue/selector.h"

struct expression {
    struct buf text;
    struct pack to;
    uint32_t count;   /* conditions */
    struct span only; /* a selector that came first: alone it stays as it is */
};

void expression_init(struct expression *expression);
void expression_deinit(struct expression *expression);

enum status expression_selector(struct expression *expression, const struct amqp_value *value,
                                struct err *err);
/* has_words: a pattern of words between dots, with * and #; else the whole subject. */
enum status expression_subject(struct expression *expression, bool has_words,
                               const struct amqp_value *value, struct err *err);
/* application: of application properties. */
enum status expression_properties(struct expression *expression, bool application,
                                  const struct amqp_value *map, struct err *err);

/* *selector: a reference, or NULL where no filter says anything. INVALID: beyond what a selector
 * may be (LIMIT_SELECTOR_*). */
enum status expression_compile(struct expression *expression, struct selector **selector,
                               struct err *err);

#endif
