/* SPDX-License-Identifier: Apache-2.0 */
/* links: adapter_http adapter broker queue log net_uv */
/* What decodes HTTP, and the router. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "adapters/http/codec.h"
#include "adapters/http/router.h"

static unsigned read_head(const char *text, struct http_head *head)
{
    static uint8_t bytes[65536];
    size_t size = strlen(text);
    memcpy(bytes, text, size);
    assert_int_equal(http_head_size(span_of(bytes, size)), size);
    return http_head_read(head, bytes, size);
}

static void assert_text(struct span text, const char *expected)
{
    if (!span_is(text, expected))
        fail_msg("\"%.*s\" is not \"%s\"", (int)text.size, (const char *)text.data, expected);
}

static void heads(void **state)
{
    (void)state;
    struct http_head head;
    assert_int_equal(
        read_head(
            "POST /a%2Fb/c?x=%2B1+2&y&=z HTTP/1.1\r\nhost: h:1\r\nORIGIN:o\r\n"
            "Authorization:  Basic x \r\nX-Auth-Token: t\r\nContent-Type: application/json\r\n"
            "Idempotency-Key: k\r\nContent-Length: 12\r\nExpect: 100-Continue\r\n\r\n",
            &head),
        0);
    assert_int_equal(head.method, HTTP_POST);
    assert_text(head.path, "/a%2Fb/c");
    assert_int_equal(head.query_count, 3);
    assert_text(head.query[0].name, "x");
    assert_text(head.query[0].value, "+1 2");
    assert_text(head.query[1].name, "y");
    assert_int_equal(head.query[1].value.size, 0);
    assert_text(head.query[2].value, "z");
    assert_text(head.host, "h:1");
    assert_text(head.origin, "o");
    assert_text(head.authorization, "Basic x");
    assert_text(head.auth_token, "t");
    assert_text(head.content_type, "application/json");
    assert_text(head.idempotency_key, "k");
    assert_int_equal(head.body_size, 12);
    assert_true(head.expects_continue && head.keep_alive && !head.old && !head.chunked);
    assert_int_equal(
        read_head("GET https://x:9/p?q HTTP/1.0\r\nConnection: a, Keep-Alive\r\nHost: y\r\n\r\n",
                  &head),
        0);
    assert_text(head.host, "x:9");
    assert_text(head.path, "/p");
    assert_true(head.old && head.keep_alive);
    assert_int_equal(read_head("GET / HTTP/1.1\r\nHost:\r\nConnection: x ,close\r\n\r\n", &head),
                     0);
    assert_false(head.keep_alive);
}

static void bad_heads(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        unsigned code;
    } cases[] = {
        {"GET / HTTP/1.1\r\n\r\n", 400},
        {"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400},
        {"GET / HTTP/1.1 \r\nHost: a\r\n\r\n", 400},
        {"GET / HTTP/3.0\r\nHost: a\r\n\r\n", 505},
        {"GET / XTTP/1.1\r\nHost: a\r\n\r\n", 400},
        {"get / HTTP/1.1\r\nHost: a\r\n\r\n", 501},
        {"G(T / HTTP/1.1\r\nHost: a\r\n\r\n", 400},
        {"GET * HTTP/1.1\r\nHost: a\r\n\r\n", 400},
        {"GET /\x7f HTTP/1.1\r\nHost: a\r\n\r\n", 400},
        {"GET /?%zz HTTP/1.1\r\nHost: a\r\n\r\n", 400},
        {"GET /?%00 HTTP/1.1\r\nHost: a\r\n\r\n", 400},
        {"GET / HTTP/1.1\r\nHost: a\r\nA : b\r\n\r\n", 400},
        {"GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n", 400},
        {"GET / HTTP/1.1\r\nHost: a\nB: c\r\n\r\n", 400},
        {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n", 400},
        {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: \r\n\r\n", 400},
        {"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n",
         400},
        {"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: "
         "chunked\r\n\r\n",
         400},
        {"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct http_head head;
        unsigned code = read_head(cases[i].text, &head);
        if (code != cases[i].code)
            fail_msg("%u for %s", code, cases[i].text);
    }
}

static void base64(void **state)
{
    (void)state;
    static const struct {
        const char *text, *bytes;
    } cases[] = {{"", ""},           {"Zg==", "f"},        {"Zm8=", "fo"},     {"Zm9v", "foo"},
                 {"Zm9vYg", "foob"}, {"_-8=", "\xff\xef"}, {"/+8", "\xff\xef"}};
    struct buf to;
    buf_init(&to, 100);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        buf_clear(&to);
        assert_int_equal(base64_decode(span_from_text(cases[i].text), &to), STATUS_OK);
        assert_text(buf_span(&to), cases[i].bytes);
    }
    static const char *const bad[] = {"A", "A===", "====", "=", "Zg=a", "Zm9v!", "Zm 9v", "Zm9vA"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(base64_decode(span_from_text(bad[i]), &to), STATUS_MALFORMED);
    buf_clear(&to);
    assert_int_equal(base64_encode(span_from_text("foob"), &to), STATUS_OK);
    assert_text(buf_span(&to), "Zm9vYg==");
    buf_deinit(&to);
}

static void basic(void **state)
{
    (void)state;
    struct buf storage;
    struct span user, password;
    buf_init(&storage, 1000);
    assert_int_equal(http_basic(span_from_text("bAsIc  YTpiOmM= "), &storage, &user, &password),
                     STATUS_OK);
    assert_text(user, "a");
    assert_text(password, "b:c");
    assert_int_equal(http_basic(span_from_text("Basic YWJj"), &storage, &user, &password),
                     STATUS_MALFORMED);
    assert_int_equal(http_basic(span_from_text("Basic"), &storage, &user, &password),
                     STATUS_UNSUPPORTED);
    assert_int_equal(http_basic(span_from_text("Bearer x"), &storage, &user, &password),
                     STATUS_UNSUPPORTED);
    assert_int_equal(http_basic(span_from_text(""), &storage, &user, &password),
                     STATUS_UNSUPPORTED);
    buf_deinit(&storage);
}

static void hosts_and_origins(void **state)
{
    (void)state;
    static const char *const own[] = {"localhost",       "LocalHost:80", "127.0.0.1",
                                      "127.1.2.3:65535", "[::1]",        "[::1]:1"};
    static const char *const foreign[] = {
        "",           "example.com", "127.0.0.1.com", "127.0.0", "128.0.0.1",  "127.0.0.256",
        "localhost.", "::1",         "[::2]",         ":80",     "127..0.1:1", "localhost:123456"};
    for (size_t i = 0; i < sizeof own / sizeof *own; i++)
        assert_true(http_host_is_loopback(span_from_text(own[i])));
    for (size_t i = 0; i < sizeof foreign / sizeof *foreign; i++)
        assert_false(http_host_is_loopback(span_from_text(foreign[i])));
    struct span host = span_from_text("localhost:8080");
    assert_true(http_origin_is_own(span_from_text("http://localhost:8080"), host));
    assert_true(http_origin_is_own(span_from_text("https://LOCALHOST:8080"), host));
    assert_false(http_origin_is_own(span_from_text("http://localhost:8081"), host));
    assert_false(http_origin_is_own(span_from_text("null"), host));
    assert_false(http_origin_is_own(span_from_text("file://localhost:8080"), host));
    struct span list = span_from_text("https://a.example, http://b.example:1,,https://c.example");
    assert_true(http_origin_is_listed(span_from_text("https://a.example"), list));
    assert_true(http_origin_is_listed(span_from_text("https://c.example"), list));
    assert_false(http_origin_is_listed(span_from_text("https://a.exampl"), list));
    assert_false(http_origin_is_listed(span_from_text(""), list));
}

static void handle(struct http_exchange *exchange)
{
    (void)exchange;
}

static void routes(void **state)
{
    (void)state;
    static const struct http_route table[] = {
        {HTTP_GET, "/q", handle},
        {HTTP_GET, "/q/{id}", handle},
        {HTTP_GET, "/q/special", handle},
        {HTTP_DELETE, "/q/{id}", handle},
        {HTTP_GET, "/r/{rest*}", handle},
        {HTTP_GET, "/q/{id}/g/{group}", handle},
        {HTTP_PUT, "/{any}/special", handle},
    };
    static const struct {
        enum http_method method;
        const char *path;
        int route; /* -1: none */
        unsigned methods;
        const char *first, *second;
    } cases[] = {
        {HTTP_GET, "/q", 0, 0, NULL, NULL},
        {HTTP_HEAD, "/q", 0, 0, NULL, NULL},
        {HTTP_GET, "/q/a", 1, 0, "a", NULL},
        {HTTP_GET, "/q/special", 2, 0, NULL, NULL},
        {HTTP_DELETE, "/q/special", 3, 0, "special", NULL},
        {HTTP_PUT, "/q/special", 6, 0, "q", NULL},
        {HTTP_GET, "/r/a/b//c", 4, 0, "a/b//c", NULL},
        {HTTP_GET, "/r//a", 4, 0, "/a", NULL},
        {HTTP_GET, "/q/a/g/b%2Fc", 5, 0, "a", "b%2Fc"},
        {HTTP_GET, "/r", -1, 0, NULL, NULL},
        {HTTP_GET, "/r/", -1, 0, NULL, NULL},
        {HTTP_GET, "/q/", -1, 0, NULL, NULL},
        {HTTP_GET, "/q/a/", -1, 0, NULL, NULL},
        {HTTP_GET, "/q//g/b", -1, 0, NULL, NULL},
        {HTTP_GET, "/", -1, 0, NULL, NULL},
        {HTTP_POST, "/q/a", -1, 1u << HTTP_GET | 1u << HTTP_DELETE, NULL, NULL},
    };
    struct router router = {0};
    router_add(&router, table, sizeof table / sizeof *table, &router);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct span parameters[HTTP_PARAMETERS_MAX];
        unsigned methods;
        const struct router_entry *entry = router_find(
            &router, cases[i].method, span_from_text(cases[i].path), parameters, &methods);
        if ((entry == NULL ? -1 : (int)(entry->route - table)) != cases[i].route)
            fail_msg("%s", cases[i].path);
        if (entry == NULL)
            assert_int_equal(methods, cases[i].methods);
        if (cases[i].first != NULL)
            assert_text(parameters[0], cases[i].first);
        if (cases[i].second != NULL)
            assert_text(parameters[1], cases[i].second);
    }
    router_deinit(&router);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(heads), cmocka_unit_test(bad_heads),         cmocka_unit_test(base64),
        cmocka_unit_test(basic), cmocka_unit_test(hosts_and_origins), cmocka_unit_test(routes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
