/* SPDX-License-Identifier: Apache-2.0 */
/* A token is the base64 (URL alphabet) of id, expiry and HMAC-SHA-256 of both. The key is the
 * encoded hash of the password, whose random salt never leaves the gateway: who knows the password
 * cannot make tokens. */
#include "core/broker/token.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdio.h>

#include "core/base/check.h"

static const char prefix[] = "polylog_";
static const char purpose[] = "polylog token 1";

enum {
    PREFIX = sizeof prefix - 1,
    CLAIMS = 16, /* id, expiry: big endian */
    MAC = 32,
    CODED = (CLAIMS + MAC) / 3 * 4
};
_Static_assert(TOKEN_TEXT == PREFIX + CODED + 1 && (CLAIMS + MAC) % 3 == 0, "no padding");

static void put_u64(uint8_t *to, uint64_t value)
{
    for (unsigned i = 0; i < 8; i++)
        to[i] = (uint8_t)(value >> (56 - 8 * i));
}

static uint64_t get_u64(const uint8_t *from)
{
    uint64_t value = 0;
    for (unsigned i = 0; i < 8; i++)
        value = value << 8 | from[i];
    return value;
}

static void mac_make(const struct principal *principal, const uint8_t claims[CLAIMS],
                     uint8_t mac[MAC])
{
    uint8_t text[sizeof purpose + 8 + CLAIMS];
    memcpy(text, purpose, sizeof purpose);
    put_u64(text + sizeof purpose, principal->tenant);
    memcpy(text + sizeof purpose + 8, claims, CLAIMS);
    unsigned size = 0;
    CHECK(HMAC(EVP_sha256(), principal->hash, (int)strlen(principal->hash), text, sizeof text, mac,
               &size) != NULL);
    CHECK(size == MAC);
}

void token_make(const struct principal *principal, int64_t expires_ms, char to[TOKEN_TEXT])
{
    uint8_t bytes[CLAIMS + MAC];
    put_u64(bytes, principal->id);
    put_u64(bytes + 8, (uint64_t)expires_ms);
    mac_make(principal, bytes, bytes + CLAIMS);
    memcpy(to, prefix, PREFIX);
    EVP_EncodeBlock((uint8_t *)to + PREFIX, bytes, sizeof bytes);
    for (char *at = to + PREFIX; *at != '\0'; at++)
        *at = *at == '+' ? '-' : *at == '/' ? '_' : *at;
}

static bool decode(struct span text, uint8_t bytes[CLAIMS + MAC])
{
    uint8_t coded[CODED];
    if (text.size != PREFIX + CODED || memcmp(text.data, prefix, PREFIX) != 0)
        return false;
    for (unsigned i = 0; i < CODED; i++) {
        uint8_t c = text.data[PREFIX + i];
        if (c == '+' || c == '/' || c == '=')
            return false;
        coded[i] = c == '-' ? '+' : c == '_' ? '/' : c;
    }
    return EVP_DecodeBlock(bytes, coded, CODED) == CLAIMS + MAC;
}

const struct principal *token_verify(const struct catalog *catalog, struct span text,
                                     int64_t now_ms, int64_t *expires_ms)
{
    uint8_t bytes[CLAIMS + MAC], mac[MAC];
    if (!decode(text, bytes))
        return NULL;
    const struct principal *principal = catalog_principal(catalog, get_u64(bytes));
    *expires_ms = (int64_t)get_u64(bytes + 8);
    if (principal == NULL || principal->hash == NULL || *expires_ms <= now_ms)
        return NULL;
    mac_make(principal, bytes, mac);
    return CRYPTO_memcmp(mac, bytes + CLAIMS, MAC) == 0 ? principal : NULL;
}
