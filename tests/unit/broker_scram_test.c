/* SPDX-License-Identifier: Apache-2.0 */
/* SCRAM-SHA-256 against a client of the test's own. */
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/sha.h>

#include "core/broker/scram.h"
#include "tests/unit/broker_rig.h"

static void open_rig(void **state)
{
    (void)state;
    rig_open(1);
    struct peer *maker = peer_new(0, "maker");
    assert_int_equal(user_make(maker, "a,b=c", "pencil"), STATUS_OK);
    await(peer_look(maker).ended);
    peer_free(maker);
}

struct exchange {
    struct peer *peer;
    const char *first, *password;
    char final[512];
    const char *change; /* in the final message: this character is another; NULL: none */
    char challenge[512], end[512];
    enum status first_status, final_status;
    const struct principal *principal;
    struct scram scram;
};

static void hmac(const void *key, size_t key_size, const char *text, uint8_t to[32])
{
    unsigned size = 32;
    HMAC(EVP_sha256(), key, (int)key_size, (const uint8_t *)text, strlen(text), to, &size);
}

/* What a client answers, and what it then expects of the server. */
static void client_final(struct exchange *exchange, char server_proof[64])
{
    char nonce[256], salt_text[64], signed_text[2048], proof_text[64];
    unsigned iterations;
    uint8_t salt[64], salted[32], client_key[32], stored[32], signature[32], server_key[32];
    assert_int_equal(
        sscanf(exchange->challenge, "r=%255[^,],s=%63[^,],i=%u", nonce, salt_text, &iterations), 3);
    int salt_size = EVP_DecodeBlock(salt, (const uint8_t *)salt_text, (int)strlen(salt_text));
    salt_size -= strchr(salt_text, '=') == NULL ? 0 : strstr(salt_text, "==") != NULL ? 2 : 1;
    PKCS5_PBKDF2_HMAC(exchange->password, (int)strlen(exchange->password), salt, salt_size,
                      (int)iterations, EVP_sha256(), 32, salted);
    hmac(salted, 32, "Client Key", client_key);
    hmac(salted, 32, "Server Key", server_key);
    SHA256(client_key, 32, stored);
    snprintf(exchange->final, sizeof exchange->final, "c=biws,r=%s", nonce);
    snprintf(signed_text, sizeof signed_text, "%s,%s,%s", exchange->first + 3, exchange->challenge,
             exchange->final);
    hmac(stored, 32, signed_text, signature);
    for (unsigned i = 0; i < 32; i++)
        client_key[i] ^= signature[i];
    EVP_EncodeBlock((uint8_t *)proof_text, client_key, 32);
    size_t at = strlen(exchange->final);
    snprintf(exchange->final + at, sizeof exchange->final - at, ",p=%s", proof_text);
    hmac(server_key, 32, signed_text, signature);
    EVP_EncodeBlock((uint8_t *)server_proof, signature, 32);
}

static void keep(char to[512], struct buf *answer)
{
    snprintf(to, 512, "%.*s", (int)answer->size, (const char *)answer->data);
    buf_clear(answer);
}

static void run(void *context)
{
    struct exchange *exchange = context;
    struct buf answer;
    char server_proof[64];
    buf_init(&answer, 4096);
    scram_init(&exchange->scram);
    exchange->first_status = scram_first(&exchange->scram, &exchange->peer->client,
                                         span_from_text(exchange->first), &answer);
    keep(exchange->challenge, &answer);
    if (exchange->first_status == STATUS_OK) {
        client_final(exchange, server_proof);
        char *at = exchange->change == NULL ? NULL : strstr(exchange->final, exchange->change);
        if (at != NULL)
            at[strlen(exchange->change)] ^= 1;
        exchange->final_status =
            scram_final(&exchange->scram, span_from_text(exchange->final), &answer);
        keep(exchange->end, &answer);
        if (exchange->final_status == STATUS_OK) {
            assert_memory_equal(exchange->end, "v=", 2);
            assert_string_equal(exchange->end + 2, server_proof);
            exchange->principal = exchange->scram.principal;
            /* The same proof again is worth nothing. */
            assert_int_equal(
                scram_final(&exchange->scram, span_from_text(exchange->final), &answer),
                STATUS_MALFORMED);
        }
    }
    buf_deinit(&answer);
}

static void finish(void *context)
{
    struct exchange *exchange = context;
    scram_deinit(&exchange->scram);
    scram_deinit(&exchange->scram);
}

static struct exchange try(struct peer *peer, const char *first, const char *password,
                           const char *change)
{
    struct exchange exchange = {
        .peer = peer, .first = first, .password = password, .change = change};
    on(peer->worker, run, &exchange);
    on(peer->worker, finish, &exchange);
    return exchange;
}

static void test_proofs(void **state)
{
    open_rig(state);
    static const char first[] = "n,,n=a=2Cb=3Dc,r=abc";
    struct peer *peer = peer_connect(0);
    struct exchange good = try(peer, first, "pencil", NULL);
    assert_int_equal(good.final_status, STATUS_OK);
    assert_memory_equal(good.challenge, "r=abc", 5);
    assert_int_equal(try(peer, first, "pen", NULL).final_status, STATUS_UNAUTHENTICATED);
    /* A wrong proof, nonce and binding. */
    assert_int_equal(try(peer, first, "pencil", "p=").final_status, STATUS_UNAUTHENTICATED);
    assert_int_equal(try(peer, first, "pencil", "r=").final_status, STATUS_UNAUTHENTICATED);
    assert_int_equal(try(peer, first, "pencil", "c=").final_status, STATUS_UNAUTHENTICATED);
    /* Nobody has that name: nothing shows it before the end, and the salt is always the same. */
    struct exchange nobody = try(peer, "n,,n=eve,r=abc", "pencil", NULL);
    struct exchange again = try(peer, "n,,n=eve,r=abc", "pencil", NULL);
    assert_int_equal(nobody.final_status, STATUS_UNAUTHENTICATED);
    assert_string_equal(strstr(nobody.challenge, ",s="), strstr(again.challenge, ",s="));
    /* Who has proven itself is let in without a password. */
    scram_init(&good.scram);
    struct login_call call = {.login = {.client = &peer->client, .proven = good.principal}};
    request_init(&call.login.request, rig.loops[0], login_call_done);
    on(0, login_call_run, &call);
    rig_await(&call.done);
    assert_int_equal(call.status, STATUS_OK);
    peer_close(peer);
    rig_close();
}

static void test_malformed(void **state)
{
    open_rig(state);
    struct peer *peer = peer_connect(0);
    static const char *const bad[] = {
        "",
        "n",
        "n,,",
        "p=tls-unique,,n=x,r=y",
        "n,,r=y,n=x",
        "n,,n=,r=y",
        "n,,n=x,r=",
        "n,,n=x=2D,r=y",
        "n,a=other,n=x,r=y",
        "n,,m=ext,n=x,r=y",
        "n,,n=x,r=\x01",
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(try(peer, bad[i], "p", NULL).first_status, STATUS_MALFORMED);
    peer_close(peer);
    rig_close();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_proofs),
        cmocka_unit_test(test_malformed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
