/* SPDX-License-Identifier: Apache-2.0 */
/* The input draws an expression and records; the expression is written with few and with all
 * parentheses, and both texts must compile and say of each record what the naive model says. */
#include "core/queue/selector.h"
#include "tests/fuzz/fuzz.h"
#include "tests/unit/selector_model.h"

static uint32_t next_below(struct draw *draw, uint32_t bound)
{
    if (draw->size == 0)
        return 0;
    draw->size--;
    return *draw->data++ % bound;
}

static struct selector *compile(struct buf *text, const struct model_node *root, bool all)
{
    struct selector *selector;
    buf_clear(text);
    model_write(text, root, all);
    CHECK(selector_compile(buf_span(text), &selector, NULL) == STATUS_OK);
    return selector;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct draw draw = {next_below, data, size};
    static struct model_expression expression;
    const struct model_node *root = model_expression_draw(&expression, &draw);
    struct buf text;
    buf_init(&text, 1 << 20);
    struct selector *few = compile(&text, root, false), *all = compile(&text, root, true);
    for (unsigned i = 0; i < 4; i++) {
        struct model_record model = model_record_draw(&draw);
        struct batch *batch = model_record_batch(&model);
        struct record record;
        batch_record(batch, 0, &record);
        bool wanted = model_matches(root, &model);
        CHECK(selector_matches(few, &record) == wanted);
        CHECK(selector_matches(all, &record) == wanted);
        batch_unref(batch);
    }
    selector_unref(few);
    selector_unref(all);
    buf_deinit(&text);
    return 0;
}
