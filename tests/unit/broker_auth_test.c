/* SPDX-License-Identifier: Apache-2.0 */
/* Principals and grants: passwords, SCRAM keys, rows, patterns and who may do what. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "core/base/heap.h"
#include "core/base/limits.h"
#include "core/base/rng.h"
#include "core/broker/auth.h"

static struct principal *principal_make(const char *name)
{
    struct principal *principal = heap_new(sizeof *principal);
    atomic_init(&principal->refs, 1);
    principal->tenant = 1;
    principal->id = 7;
    principal->name = heap_text(name, strlen(name));
    principal->created_ms = 1234567890123;
    return principal;
}

static void grant_give(struct principal *principal, const char *actions, const char *pattern)
{
    principal->grants =
        heap_resize(principal->grants, (principal->grant_count + 1) * sizeof *principal->grants);
    struct err err = {""};
    assert_int_equal(grant_parse(span_from_text(actions), span_from_text(pattern),
                                 &principal->grants[principal->grant_count], &err),
                     STATUS_OK);
    principal->grant_count++;
}

static bool may(const struct principal *principal, enum action action, const char *address,
                const char *client_id)
{
    bool is_topic = strncmp(address, "topic:", 6) == 0;
    return principal_may(principal, action, is_topic, span_from_text(address + 6),
                         span_from_text(client_id));
}

/* ---------------------------------------------------------------- passwords */

/* Of this thread: what others do on the machine does not count. */
static uint64_t cpu_ns(void)
{
    struct timespec time;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

static uint64_t verify_ns(const struct principal *principal, const char *password,
                          enum status expected)
{
    uint64_t start = cpu_ns();
    assert_int_equal(principal_verify(principal, span_from_text(password)), expected);
    return cpu_ns() - start;
}

static void passwords_are_verified(void **state)
{
    (void)state;
    struct principal *principal = principal_make("ann");
    verify_ns(principal, "anything", STATUS_UNAUTHENTICATED);
    assert_int_equal(principal_set_password(principal, span_from_text("correct horse")), STATUS_OK);
    static const char parameters[] = "$argon2id$v=19$m=19456,t=2,p=1$";
    assert_memory_equal(principal->hash, parameters, sizeof parameters - 1);
    char *first = heap_text(principal->hash, strlen(principal->hash));
    uint64_t right = verify_ns(principal, "correct horse", STATUS_OK);
    uint64_t wrong = verify_ns(principal, "Correct horse", STATUS_UNAUTHENTICATED);
    verify_ns(principal, "", STATUS_UNAUTHENTICATED);
    uint64_t nobody = verify_ns(NULL, "correct horse", STATUS_UNAUTHENTICATED);
    print_message("right %u us, wrong %u us, nobody %u us\n", (unsigned)(right / 1000),
                  (unsigned)(wrong / 1000), (unsigned)(nobody / 1000));
    /* The same work is done for nobody; a third allows for a busy machine. */
    assert_true(nobody > right / 3);

    assert_int_equal(principal_set_password(principal, span_from_text("correct horse")), STATUS_OK);
    assert_string_not_equal(principal->hash, first);
    heap_free(first);
    principal_unref(principal);
}

static void passwords_have_limits(void **state)
{
    (void)state;
    char *long_password = malloc(LIMIT_PASSWORD + 1);
    memset(long_password, 'x', LIMIT_PASSWORD + 1);
    struct principal *principal = principal_make("ann");
    assert_int_equal(principal_set_password(principal, span_of(long_password, LIMIT_PASSWORD + 1)),
                     STATUS_INVALID);
    assert_int_equal(principal_set_password(principal, (struct span){0}), STATUS_INVALID);
    assert_null(principal->hash);
    assert_int_equal(principal_verify(principal, span_of(long_password, LIMIT_PASSWORD + 1)),
                     STATUS_UNAUTHENTICATED);
    principal_unref(principal);
    free(long_password);
}

/* A client's proof, computed the way a client does, against what the server keeps: RFC 5802,
 * section 3. */
static void scram_keys_serve_a_login(void **state)
{
    (void)state;
    struct principal *principal = principal_make("user");
    assert_int_equal(principal_set_password(principal, span_from_text("pencil")), STATUS_OK);
    assert_true(principal->scram_iterations >= 4096);
    uint8_t salted[32], client_key[32], server_key[32], signature[32], proof[32];
    PKCS5_PBKDF2_HMAC("pencil", 6, principal->scram_salt, 16, (int)principal->scram_iterations,
                      EVP_sha256(), 32, salted);
    HMAC(EVP_sha256(), salted, 32, (const uint8_t *)"Client Key", 10, client_key, NULL);
    HMAC(EVP_sha256(), salted, 32, (const uint8_t *)"Server Key", 10, server_key, NULL);
    uint8_t stored_key[32];
    EVP_Digest(client_key, 32, stored_key, NULL, EVP_sha256(), NULL);
    HMAC(EVP_sha256(), stored_key, 32, (const uint8_t *)"auth message", 12, signature, NULL);
    for (int i = 0; i < 32; i++)
        proof[i] = client_key[i] ^ signature[i];

    /* The server. */
    HMAC(EVP_sha256(), principal->scram_stored_key, 32, (const uint8_t *)"auth message", 12,
         signature, NULL);
    for (int i = 0; i < 32; i++)
        proof[i] ^= signature[i];
    uint8_t digest[32];
    EVP_Digest(proof, 32, digest, NULL, EVP_sha256(), NULL);
    assert_memory_equal(digest, principal->scram_stored_key, 32);
    assert_memory_equal(server_key, principal->scram_server_key, 32);
    principal_unref(principal);
}

static void access_keys_are_random_text(void **state)
{
    (void)state;
    struct access_key a, b;
    access_key_make(&a);
    access_key_make(&b);
    assert_int_equal(strlen(a.id), 20);
    assert_int_equal(strlen(a.secret), 40);
    assert_int_equal(strspn(a.id, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"), 20);
    assert_string_not_equal(a.id, b.id);
    assert_string_not_equal(a.secret, b.secret);
}

/* ---------------------------------------------------------------- grants */

static void grants_are_parsed_and_shown(void **state)
{
    (void)state;
    static const char *const good[][2] = {
        {"publish", "topic:a/+/#"},
        {"publish,consume", "topic:#"},
        {"publish,consume,manage", "queue:*"},
        {"consume", "queue:orders.%u-*_%c"},
        {"manage", "topic:dev/%c/state"},
        {"publish", "topic:queue:x"},
    };
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        struct grant grant;
        assert_int_equal(
            grant_parse(span_from_text(good[i][0]), span_from_text(good[i][1]), &grant, NULL),
            STATUS_OK);
        struct buf text;
        buf_init(&text, 1000);
        grant_format(&grant, &text);
        char expected[100];
        snprintf(expected, sizeof expected, "%s %s", good[i][0], good[i][1]);
        assert_true(span_is(buf_span(&text), expected));
        buf_deinit(&text);
        grant_deinit(&grant);
    }
    static const char *const bad[][2] = {
        {"", "topic:a"},         {"publish,", "topic:a"},
        {",", "topic:a"},        {"publish consume", "topic:a"},
        {"all", "topic:a"},      {"publish", ""},
        {"publish", "topic"},    {"publish", "topic:"},
        {"publish", "topic:a#"}, {"publish", "topic:+%u"},
        {"publish", "queue:"},   {"publish", "queue:a b"},
        {"publish", "queue:%x"}, {"publish", "queue:a%"},
        {"publish", "group:a"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct grant grant;
        struct err err = {""};
        assert_int_equal(
            grant_parse(span_from_text(bad[i][0]), span_from_text(bad[i][1]), &grant, &err),
            STATUS_INVALID);
        assert_true(err.text[0] != '\0');
        assert_null(grant.pattern);
    }
}

static void grants_allow_what_they_name(void **state)
{
    (void)state;
    struct principal *ann = principal_make("ann");
    assert_false(may(ann, ACTION_PUBLISH, "topic:a", ""));
    assert_false(may(NULL, ACTION_PUBLISH, "topic:a", ""));
    grant_give(ann, "publish,consume", "topic:a/#");
    grant_give(ann, "publish", "topic:+/up");
    grant_give(ann, "consume", "queue:orders-*-eu*");
    assert_true(may(ann, ACTION_PUBLISH, "topic:a", ""));
    assert_true(may(ann, ACTION_PUBLISH, "topic:a/b/c", ""));
    assert_true(may(ann, ACTION_PUBLISH, "topic:x/up", ""));
    assert_false(may(ann, ACTION_PUBLISH, "topic:$x/up", ""));
    assert_false(may(ann, ACTION_PUBLISH, "topic:ab", ""));
    assert_false(may(ann, ACTION_PUBLISH, "topic:", ""));
    assert_false(may(ann, ACTION_MANAGE, "topic:a/b", ""));
    assert_true(may(ann, ACTION_CONSUME, "topic:a/+/b", ""));
    assert_true(may(ann, ACTION_CONSUME, "topic:a/#", ""));
    assert_false(may(ann, ACTION_CONSUME, "topic:+/up", ""));
    assert_false(may(ann, ACTION_CONSUME, "topic:#", ""));
    assert_true(may(ann, ACTION_CONSUME, "queue:orders-1-eu", ""));
    assert_true(may(ann, ACTION_CONSUME, "queue:orders--eu-eu-eu", ""));
    assert_false(may(ann, ACTION_CONSUME, "queue:orders-eu", ""));
    assert_false(may(ann, ACTION_CONSUME, "queue:xorders-1-eu", ""));
    assert_false(may(ann, ACTION_PUBLISH, "queue:orders-1-eu", ""));
    /* Topics and queues are worlds apart. */
    assert_false(may(ann, ACTION_CONSUME, "queue:a", ""));
    principal_unref(ann);
}

static void names_are_put_in_but_never_widen(void **state)
{
    (void)state;
    struct principal *ann = principal_make("ann");
    grant_give(ann, "publish,consume", "topic:u/%u/%c/#");
    grant_give(ann, "publish", "topic:%c/up");
    grant_give(ann, "publish", "topic:$own/%c");
    grant_give(ann, "consume", "queue:q-%c*");
    grant_give(ann, "consume", "queue:%c*");
    assert_true(may(ann, ACTION_PUBLISH, "topic:u/ann/c1/x", "c1"));
    assert_true(may(ann, ACTION_CONSUME, "topic:u/ann/c1/#", "c1"));
    assert_false(may(ann, ACTION_PUBLISH, "topic:u/ann/c1/x", "c2"));
    assert_false(may(ann, ACTION_PUBLISH, "topic:u/bob/c1/x", "c1"));
    assert_true(may(ann, ACTION_PUBLISH, "topic:$own/c1", "c1"));
    assert_true(may(ann, ACTION_CONSUME, "queue:q-c1x", "c1"));
    static const char *const hostile[] = {"+", "#", "*", "a/b", "c*", "", "+c"};
    for (size_t i = 0; i < sizeof hostile / sizeof *hostile; i++) {
        assert_false(may(ann, ACTION_PUBLISH, "topic:u/ann/c1/x", hostile[i]));
        assert_false(may(ann, ACTION_PUBLISH, "topic:u/ann/a/b/x", hostile[i]));
        assert_false(may(ann, ACTION_CONSUME, "topic:u/ann/+/#", hostile[i]));
        assert_false(may(ann, ACTION_CONSUME, "queue:q-c1x", hostile[i]));
        assert_false(may(ann, ACTION_CONSUME, "queue:c1", hostile[i]));
    }
    assert_true(may(ann, ACTION_PUBLISH, "topic:c/up", "c"));
    assert_false(may(ann, ACTION_PUBLISH, "topic:$SYS/up", "$SYS"));
    principal_unref(ann);
}

/* ---------------------------------------------------------------- rows */

static struct principal *principal_full(void)
{
    struct principal *principal = principal_make("ann");
    principal->hash = heap_text("$argon2id$x", 11);
    memset(principal->scram_salt, 1, 16);
    memset(principal->scram_stored_key, 2, 32);
    memset(principal->scram_server_key, 3, 32);
    principal->scram_iterations = 15000;
    principal->keys = heap_array(2, sizeof *principal->keys);
    principal->key_count = 2;
    access_key_make(&principal->keys[0]);
    access_key_make(&principal->keys[1]);
    grant_give(principal, "publish", "topic:a/#");
    grant_give(principal, "manage", "queue:*");
    return principal;
}

static void rows_come_back(void **state)
{
    (void)state;
    struct principal *principal = principal_full(), *copy = principal_copy(principal), *decoded;
    struct buf row, again;
    buf_init(&row, 10000);
    buf_init(&again, 10000);
    assert_int_equal(principal_encode(copy, &row), STATUS_OK);
    principal_unref(copy);
    assert_int_equal(principal_decode(buf_span(&row), &decoded), STATUS_OK);
    assert_string_equal(decoded->name, "ann");
    assert_string_equal(decoded->hash, principal->hash);
    assert_int_equal(decoded->created_ms, principal->created_ms);
    assert_int_equal(decoded->key_count, 2);
    assert_string_equal(decoded->keys[1].secret, principal->keys[1].secret);
    assert_int_equal(decoded->grant_count, 2);
    assert_string_equal(decoded->grants[0].pattern, "a/#");
    assert_int_equal(principal_encode(decoded, &again), STATUS_OK);
    assert_true(span_equal(buf_span(&row), buf_span(&again)));
    principal_unref(principal_ref(decoded));
    principal_unref(decoded);

    /* Whatever is cut off or added, or of another version, is refused. */
    for (size_t size = 0; size < row.size; size++)
        assert_int_equal(principal_decode(span_of(row.data, size), &decoded), STATUS_CORRUPT);
    assert_int_equal(buf_append(&row, "", 1), STATUS_OK);
    assert_int_equal(principal_decode(buf_span(&row), &decoded), STATUS_CORRUPT);
    row.size--;
    row.data[0]++;
    assert_int_equal(principal_decode(buf_span(&row), &decoded), STATUS_CORRUPT);
    assert_null(decoded);
    principal_unref(NULL);
    principal_unref(principal);
    buf_deinit(&row);
    buf_deinit(&again);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(passwords_are_verified),
        cmocka_unit_test(passwords_have_limits),
        cmocka_unit_test(scram_keys_serve_a_login),
        cmocka_unit_test(access_keys_are_random_text),
        cmocka_unit_test(grants_are_parsed_and_shown),
        cmocka_unit_test(grants_allow_what_they_name),
        cmocka_unit_test(names_are_put_in_but_never_widen),
        cmocka_unit_test(rows_come_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
