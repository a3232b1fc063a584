/* SPDX-License-Identifier: Apache-2.0 */
/* Evaluating a selector: three-valued logic on a small stack, every operation once at most. */
#include "core/queue/selector.h"

#include <math.h>

#include "core/base/check.h"
#include "core/base/heap.h"
#include "core/queue/selector_impl.h"

struct selector *selector_ref(struct selector *selector)
{
    atomic_fetch_add_explicit(&selector->refs, 1, memory_order_relaxed);
    return selector;
}

void selector_unref(struct selector *selector)
{
    if (selector == NULL)
        return;
    unsigned before = atomic_fetch_sub_explicit(&selector->refs, 1, memory_order_acq_rel);
    CHECK(before != 0);
    if (before != 1)
        return;
    heap_free(selector->ops);
    heap_free(selector->constants);
    heap_free(selector->slots);
    heap_free(selector);
}

struct span selector_text(const struct selector *selector)
{
    return span_of(selector->memory, selector->text_size);
}

bool selector_equal(const struct selector *left, const struct selector *right)
{
    if (left == right || left == NULL || right == NULL)
        return left == right;
    return span_equal(selector_text(left), selector_text(right));
}

/* Truth values, ordered so that AND is the least and OR the greatest of two. */
enum truth { IS_FALSE, IS_UNKNOWN, IS_TRUE };

struct machine {
    const struct selector *selector;
    const struct value *slots;
    uint32_t compares_left;
    unsigned top; /* the last value; 0: none */
    struct value stack[1 + LIMIT_SELECTOR_DEPTH];
};

static inline struct value value_of_truth(enum truth truth)
{
    if (truth == IS_UNKNOWN)
        return (struct value){.kind = VALUE_NULL};
    return (struct value){.kind = VALUE_TRUTH, .truth = truth == IS_TRUE};
}

static inline enum truth truth_of(bool is_true)
{
    return is_true ? IS_TRUE : IS_FALSE;
}

static inline bool is_null(const struct value *value)
{
    return value->kind <= VALUE_NULL;
}

static inline bool is_number(const struct value *value)
{
    return value->kind == VALUE_INTEGER || value->kind == VALUE_REAL;
}

static inline bool is_text(const struct value *value)
{
    return value->kind == VALUE_TEXT || value->kind == VALUE_STRING;
}

static bool text_is_word(struct span text, const char *lower)
{
    size_t i = 0;
    while (i < text.size && lower[i] != '\0' && (text.data[i] | 0x20) == (uint8_t)lower[i])
        i++;
    return i == text.size && lower[i] == '\0';
}

/* A value where a truth value is wanted. */
static enum truth value_as_truth(const struct value *value)
{
    if (value->kind == VALUE_TRUTH)
        return truth_of(value->truth);
    if (value->kind == VALUE_TEXT && text_is_word(value->text, "true"))
        return IS_TRUE;
    if (value->kind == VALUE_TEXT && text_is_word(value->text, "false"))
        return IS_FALSE;
    return IS_UNKNOWN;
}

static inline double real_of(const struct value *value)
{
    return value->kind == VALUE_REAL ? value->real : (double)value->integer;
}

/* False: this evaluation has looked at enough. */
static bool spend(struct machine *machine, size_t compares)
{
    if (compares > machine->compares_left)
        return false;
    machine->compares_left -= (uint32_t)compares;
    return true;
}

/* Comparisons */

/* -1, 0 or 1. */
static int order_of(const struct value *a, const struct value *b)
{
    if (a->kind == VALUE_INTEGER && b->kind == VALUE_INTEGER)
        return (a->integer > b->integer) - (a->integer < b->integer);
    double left = real_of(a), right = real_of(b);
    return (left > right) - (left < right);
}

static bool holds(enum op_code code, int order)
{
    switch (code) {
    case OP_EQUAL:
        return order == 0;
    case OP_NOT_EQUAL:
        return order != 0;
    case OP_LESS:
        return order < 0;
    case OP_LESS_EQUAL:
        return order <= 0;
    case OP_GREATER:
        return order > 0;
    default:
        return order >= 0;
    }
}

/* = and <> of values that are not NULL. */
static enum truth compare_equal(struct machine *machine, enum op_code code, const struct value *a,
                                const struct value *b)
{
    if (is_text(a) && is_text(b)) {
        if (a->text.size == b->text.size && !spend(machine, a->text.size / 32))
            return IS_UNKNOWN;
        return truth_of(holds(code, !span_equal(a->text, b->text)));
    }
    if (a->kind == VALUE_TRUTH || b->kind == VALUE_TRUTH) {
        enum truth left = value_as_truth(a), right = value_as_truth(b);
        return truth_of(left != IS_UNKNOWN && right != IS_UNKNOWN && holds(code, left != right));
    }
    struct value left = value_as_number(a), right = value_as_number(b);
    return truth_of(!is_null(&left) && !is_null(&right) && holds(code, order_of(&left, &right)));
}

static enum truth compare(struct machine *machine, enum op_code code, const struct value *a,
                          const struct value *b)
{
    if (is_null(a) || is_null(b))
        return IS_UNKNOWN;
    if (is_number(a) && is_number(b))
        return truth_of(holds(code, order_of(a, b)));
    if (code == OP_EQUAL || code == OP_NOT_EQUAL)
        return compare_equal(machine, code, a, b);
    struct value left = value_as_number(a), right = value_as_number(b);
    return truth_of(!is_null(&left) && !is_null(&right) && holds(code, order_of(&left, &right)));
}

static enum truth truth_and(enum truth a, enum truth b)
{
    return a < b ? a : b;
}

static enum truth truth_or(enum truth a, enum truth b)
{
    return a > b ? a : b;
}

static enum truth truth_not(enum truth truth)
{
    return (enum truth)(IS_TRUE - truth);
}

/* a >= b AND a <= c, or a < b OR a > c. */
static enum truth between(struct machine *machine, enum op_code code, const struct value *args)
{
    if (code == OP_BETWEEN)
        return truth_and(compare(machine, OP_GREATER_EQUAL, &args[0], &args[1]),
                         compare(machine, OP_LESS_EQUAL, &args[0], &args[2]));
    return truth_or(compare(machine, OP_LESS, &args[0], &args[1]),
                    compare(machine, OP_GREATER, &args[0], &args[2]));
}

/* Never unknown but for what is NULL: literals are not. */
static enum truth is_in(struct machine *machine, const struct value *value,
                        const struct value *members, unsigned count)
{
    enum truth found = is_null(value) ? IS_UNKNOWN : IS_FALSE;
    for (unsigned i = 0; i < count && found == IS_FALSE; i++)
        found = compare(machine, OP_EQUAL, value, &members[i]);
    return found;
}

/* The byte behind the character at. What is no UTF-8 counts byte by byte. */
static const uint8_t *character_end(const uint8_t *at, const uint8_t *end)
{
    unsigned more = *at < 0xc0 ? 0 : *at < 0xe0 ? 1 : *at < 0xf0 ? 2 : 3;
    for (at++; more > 0 && at < end && (*at & 0xc0) == 0x80; more--)
        at++;
    return at;
}

/* Goes back only to the last run: what an earlier one could take over, the last can as well. */
static enum truth like(struct machine *machine, struct span text, struct span pattern)
{
    const uint8_t *at = text.data, *end = at + text.size;
    const uint8_t *want = pattern.data, *want_end = want + pattern.size;
    const uint8_t *run = NULL, *run_at = NULL; /* behind the last run; where its rest was tried */
    while (at < end || want < want_end) {
        if (!spend(machine, 1))
            return IS_UNKNOWN;
        if (want < want_end && *want == LIKE_RUN) {
            run = ++want;
            run_at = at;
            if (want == want_end)
                return IS_TRUE;
        } else if (want < want_end && at < end && (*want == LIKE_ONE || *want == *at)) {
            at = *want == LIKE_ONE ? character_end(at, end) : at + 1;
            want++;
        } else if (run != NULL && run_at < end) {
            run_at = character_end(run_at, end);
            at = run_at;
            want = run;
        } else {
            return IS_FALSE;
        }
    }
    return IS_TRUE;
}

/* The word that begins there, up to the next dot. */
static struct span word_at(struct span text, size_t at)
{
    struct span rest = span_from(text, at);
    const uint8_t *dot = rest.size == 0 ? NULL : memchr(rest.data, '.', rest.size);
    return span_of(rest.data, dot == NULL ? rest.size : (size_t)(dot - rest.data));
}

/* Word by word, as like() does byte by byte: * stands for one word, # for any number of them. A
 * place behind the end says that there is no word left, as even an empty text is one. */
static enum truth match_words(struct machine *machine, struct span text, struct span pattern)
{
    enum { NO_RUN = SIZE_MAX };
    size_t at = 0, want = 0, run = NO_RUN, run_at = 0;
    while (at <= text.size || want <= pattern.size) {
        bool wanted = want <= pattern.size;
        struct span word = at <= text.size ? word_at(text, at) : (struct span){0};
        struct span need = wanted ? word_at(pattern, want) : (struct span){0};
        if (!spend(machine, 1 + word.size / 32 + need.size / 32))
            return IS_UNKNOWN;
        if (wanted && span_is(need, "#")) {
            run = want += need.size + 1;
            run_at = at;
            if (run > pattern.size)
                return IS_TRUE;
        } else if (wanted && at <= text.size && (span_is(need, "*") || span_equal(need, word))) {
            at += word.size + 1;
            want += need.size + 1;
        } else if (run != NO_RUN && run_at <= text.size) {
            run_at += word_at(text, run_at).size + 1;
            at = run_at;
            want = run;
        } else {
            return IS_FALSE;
        }
    }
    return IS_TRUE;
}

/* Arithmetic */

static struct value number_of_real(double real)
{
    if (!isfinite(real))
        return (struct value){.kind = VALUE_NULL};
    return (struct value){.kind = VALUE_REAL, .real = real};
}

static bool calculate_exactly(enum op_code code, int64_t a, int64_t b, int64_t *result)
{
    switch (code) {
    case OP_ADD:
        return !__builtin_add_overflow(a, b, result);
    case OP_SUBTRACT:
        return !__builtin_sub_overflow(a, b, result);
    case OP_MULTIPLY:
        return !__builtin_mul_overflow(a, b, result);
    default:
        if (b == 0 || (a == INT64_MIN && b == -1))
            return false;
        *result = a / b;
        return true;
    }
}

static struct value calculate(enum op_code code, const struct value *a, const struct value *b)
{
    struct value left = value_as_number(a), right = value_as_number(b);
    struct value result = {.kind = VALUE_INTEGER};
    if (is_null(&left) || is_null(&right))
        return (struct value){.kind = VALUE_NULL};
    if (left.kind == VALUE_INTEGER && right.kind == VALUE_INTEGER &&
        calculate_exactly(code, left.integer, right.integer, &result.integer))
        return result;
    double x = real_of(&left), y = real_of(&right);
    switch (code) {
    case OP_ADD:
        return number_of_real(x + y);
    case OP_SUBTRACT:
        return number_of_real(x - y);
    case OP_MULTIPLY:
        return number_of_real(x * y);
    default:
        return y == 0 ? (struct value){.kind = VALUE_NULL} : number_of_real(x / y);
    }
}

static struct value negate(const struct value *value)
{
    struct value zero = {.kind = VALUE_INTEGER}, number = value_as_number(value);
    if (number.kind == VALUE_REAL)
        return number_of_real(-number.real);
    return calculate(OP_SUBTRACT, &zero, &number);
}

/* The machine */

static void push(struct machine *machine, struct value value)
{
    machine->stack[++machine->top] = value;
}

/* Replaces the last count values by one. */
static void replace(struct machine *machine, unsigned count, struct value value)
{
    machine->top -= count - 1;
    machine->stack[machine->top] = value;
}

/* The rest of a condition is passed over when its left side decides. */
static unsigned skip_if(struct machine *machine, unsigned at, enum truth deciding)
{
    enum truth truth = value_as_truth(&machine->stack[machine->top]);
    if (truth != deciding)
        return at;
    replace(machine, 1, value_of_truth(truth));
    return machine->selector->ops[at - 1].at;
}

/* Tests of one value, and of two or three. */
static enum truth test(struct machine *machine, const struct op *op, const struct value *top)
{
    const struct value *constants = machine->selector->constants;
    switch (op->code) {
    case OP_IN:
        return is_in(machine, top, &constants[op->at], op->count);
    case OP_LIKE:
        if (is_null(top))
            return IS_UNKNOWN;
        return is_text(top) ? like(machine, top->text, constants[op->at].text) : IS_FALSE;
    case OP_MATCHES:
        if (is_null(top))
            return IS_UNKNOWN;
        return is_text(top) ? match_words(machine, top->text, constants[op->at].text) : IS_FALSE;
    case OP_IS_NULL:
        return truth_of(is_null(top));
    case OP_NOT:
        return truth_not(value_as_truth(top));
    case OP_AND:
        return truth_and(value_as_truth(top - 1), value_as_truth(top));
    case OP_OR:
        return truth_or(value_as_truth(top - 1), value_as_truth(top));
    case OP_BETWEEN:
    case OP_NOT_BETWEEN:
        return between(machine, op->code, top - 2);
    default:
        return compare(machine, op->code, top - 1, top);
    }
}

static void run(struct machine *machine)
{
    const struct selector *selector = machine->selector;
    for (unsigned at = 0; at < selector->op_count;) {
        const struct op *op = &selector->ops[at++];
        const struct value *top = &machine->stack[machine->top];
        switch ((enum op_code)op->code) {
        case OP_CONSTANT:
            push(machine, selector->constants[op->at]);
            break;
        case OP_SLOT:
            push(machine, machine->slots[op->at]);
            break;
        case OP_NEGATE:
            replace(machine, 1, negate(top));
            break;
        case OP_PLUS:
            replace(machine, 1, value_as_number(top));
            break;
        case OP_ADD:
        case OP_SUBTRACT:
        case OP_MULTIPLY:
        case OP_DIVIDE:
            replace(machine, 2, calculate(op->code, top - 1, top));
            break;
        case OP_SKIP_IF_FALSE:
            at = skip_if(machine, at, IS_FALSE);
            break;
        case OP_SKIP_IF_TRUE:
            at = skip_if(machine, at, IS_TRUE);
            break;
        case OP_IN:
        case OP_LIKE:
        case OP_MATCHES:
        case OP_IS_NULL:
        case OP_NOT:
            replace(machine, 1, value_of_truth(test(machine, op, top)));
            break;
        case OP_BETWEEN:
        case OP_NOT_BETWEEN:
            replace(machine, 3, value_of_truth(test(machine, op, top)));
            break;
        case OP_EQUAL:
        case OP_NOT_EQUAL:
        case OP_LESS:
        case OP_LESS_EQUAL:
        case OP_GREATER:
        case OP_GREATER_EQUAL:
        case OP_AND:
        case OP_OR:
            replace(machine, 2, value_of_truth(test(machine, op, top)));
            break;
        }
    }
}

bool selector_matches(const struct selector *selector, const struct record *record)
{
    uint64_t steps = 0;
    return selector_matches_counted(selector, record, &steps);
}

bool selector_matches_counted(const struct selector *selector, const struct record *record,
                              uint64_t *steps)
{
    struct value slots[LIMIT_SELECTOR_NAMES];
    selector_look_up(selector, record, slots);
    struct machine machine;
    machine.selector = selector;
    machine.slots = slots;
    machine.compares_left = LIMIT_SELECTOR_COMPARES;
    machine.top = 0;
    run(&machine);
    CHECK(machine.top == 1);
    *steps += selector->op_count + LIMIT_SELECTOR_COMPARES - machine.compares_left;
    return value_as_truth(&machine.stack[1]) == IS_TRUE;
}
