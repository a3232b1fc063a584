/* SPDX-License-Identifier: Apache-2.0 */
/* Tokens: whose they are, how long they hold, and that no other text is one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "core/base/hash.h"
#include "core/base/heap.h"
#include "core/broker/token.h"

enum { NOW_MS = 1000000000 };

static struct principal *principal_make(uint64_t id, const char *name, const char *hash)
{
    struct principal *principal = heap_new(sizeof *principal);
    atomic_init(&principal->refs, 1);
    principal->tenant = TENANT_DEFAULT;
    principal->id = id;
    principal->name = heap_text(name, strlen(name));
    principal->hash = hash == NULL ? NULL : heap_text(hash, strlen(hash));
    return principal;
}

static struct catalog *catalog_of(const char *hash)
{
    struct catalog *catalog = catalog_new();
    catalog_put_principal(catalog, principal_make(7, "ann", hash));
    catalog_put_principal(catalog, principal_make(8, "bob", "hash of bob"));
    return catalog;
}

static const struct principal *verify(struct catalog *catalog, const char *text, int64_t now_ms)
{
    int64_t expires_ms;
    return token_verify(catalog, span_from_text(text), now_ms, &expires_ms);
}

static void a_token_holds_until_it_expires(void **state)
{
    (void)state;
    struct catalog *catalog = catalog_of("hash of ann");
    char token[TOKEN_TEXT];
    int64_t expires_ms;
    token_make(catalog_principal(catalog, 7), NOW_MS + 10, token);
    assert_int_equal(strlen(token), TOKEN_TEXT - 1);
    assert_ptr_equal(token_verify(catalog, span_from_text(token), NOW_MS, &expires_ms),
                     catalog_principal(catalog, 7));
    assert_int_equal(expires_ms, NOW_MS + 10);
    assert_non_null(verify(catalog, token, NOW_MS + 9));
    assert_null(verify(catalog, token, NOW_MS + 10));
    catalog_unref(catalog);
}

static void another_hash_ends_it(void **state)
{
    (void)state;
    struct catalog *catalog = catalog_of("hash of ann"), *after = catalog_of("hash of Ann"),
                   *without = catalog_of(NULL), *empty = catalog_new();
    char token[TOKEN_TEXT];
    token_make(catalog_principal(catalog, 7), NOW_MS + 10, token);
    assert_non_null(verify(catalog, token, NOW_MS));
    assert_null(verify(after, token, NOW_MS));
    assert_null(verify(without, token, NOW_MS));
    assert_null(verify(empty, token, NOW_MS));
    catalog_unref(catalog);
    catalog_unref(after);
    catalog_unref(without);
    catalog_unref(empty);
}

/* Each letter counts; nothing that is shorter, longer or written another way is taken. */
static void no_other_text_is_one(void **state)
{
    (void)state;
    struct catalog *catalog = catalog_of("hash of ann");
    char token[TOKEN_TEXT], other[TOKEN_TEXT + 1];
    for (int64_t later = 1; later < 50; later++) { /* so that every letter of the alphabet comes */
        token_make(catalog_principal(catalog, 7), NOW_MS + later, token);
        for (unsigned i = 0; i < TOKEN_TEXT - 1; i++) {
            static const char letters[] = "Az09-_+/=!\x7f\xff ";
            for (unsigned k = 0; k < sizeof letters; k++) { /* a NUL too */
                memcpy(other, token, TOKEN_TEXT);
                other[i] = letters[k];
                if (other[i] != token[i])
                    assert_null(token_verify(catalog, span_of(other, TOKEN_TEXT - 1), NOW_MS,
                                             &(int64_t){0}));
            }
        }
        for (size_t size = 0; size < TOKEN_TEXT - 1; size++)
            assert_null(token_verify(catalog, span_of(token, size), NOW_MS, &(int64_t){0}));
        memcpy(other, token, TOKEN_TEXT);
        memcpy(other + TOKEN_TEXT - 1, "A", 2);
        assert_null(verify(catalog, other, NOW_MS));
    }
    catalog_unref(catalog);
}

int main(void)
{
    hash_init();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_token_holds_until_it_expires),
        cmocka_unit_test(another_hash_ends_it),
        cmocka_unit_test(no_other_text_is_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
