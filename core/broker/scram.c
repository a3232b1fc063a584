/* SPDX-License-Identifier: Apache-2.0 */
/* The keys were made when the password was set; here they are only compared. */
#include "core/broker/scram.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/sha.h>

#include "core/base/hash.h"
#include "core/base/limits.h"
#include "core/base/rng.h"
#include "core/broker/worker.h"

enum { KEY_SIZE = 32, SALT_SIZE = 16, NONCE_BYTES = 18 };

void scram_init(struct scram *scram)
{
    *scram = (struct scram){0};
    buf_init(&scram->text, 4 * SCRAM_MESSAGE_MAX);
}

void scram_deinit(struct scram *scram)
{
    principal_unref(scram->principal);
    scram->principal = NULL;
    buf_deinit(&scram->text);
}

/* The value of "NAME=VALUE" at the front, which goes with the comma behind it. */
static bool take_field(struct span *text, char name, struct span *value)
{
    if (text->size < 2 || text->data[0] != (uint8_t)name || text->data[1] != '=')
        return false;
    const uint8_t *comma = memchr(text->data, ',', text->size);
    size_t size = comma == NULL ? text->size : (size_t)(comma - text->data);
    *value = span_of(text->data + 2, size - 2);
    *text = span_from(*text, size + 1);
    return true;
}

/* =2C is a comma, =3D an equals sign. */
static bool unescape(struct span value, char *name, size_t *size)
{
    *size = 0;
    for (size_t i = 0; i < value.size; i++) {
        char c = (char)value.data[i];
        if (c == '=') {
            bool comma = i + 2 < value.size && memcmp(value.data + i, "=2C", 3) == 0;
            if (!comma && !(i + 2 < value.size && memcmp(value.data + i, "=3D", 3) == 0))
                return false;
            c = comma ? ',' : '=';
            i += 2;
        }
        if (*size == LIMIT_USER_NAME)
            return false;
        name[(*size)++] = c;
    }
    return *size > 0;
}

static void encode(const void *bytes, size_t size, char *text)
{
    EVP_EncodeBlock((unsigned char *)text, bytes, (int)size);
}

/* n,, or y,, perhaps with the name to act as, which must be one's own. */
static bool take_gs2(struct scram *scram, struct span *message, struct span *authzid)
{
    const uint8_t *from = message->data;
    *authzid = span_of(NULL, 0);
    if (message->size < 3 || (from[0] != 'n' && from[0] != 'y') || from[1] != ',')
        return false;
    *message = span_from(*message, 2);
    if (message->size > 0 && message->data[0] == ',')
        *message = span_from(*message, 1);
    else if (!take_field(message, 'a', authzid))
        return false;
    if (message->size == 0)
        return false;
    size_t size = (size_t)(message->data - from);
    if (size > sizeof scram->gs2 / 2)
        return false;
    encode(from, size, scram->gs2);
    return true;
}

static bool is_printable(struct span nonce)
{
    for (size_t i = 0; i < nonce.size; i++)
        if (nonce.data[i] < 0x21 || nonce.data[i] > 0x7e)
            return false;
    return nonce.size > 0;
}

/* What a name that nobody has would be salted with, always the same. */
static void invent_salt(struct span name, uint8_t salt[SALT_SIZE])
{
    uint64_t hash[2] = {hash_bytes(name), 0};
    hash[1] = hash_u64(~hash[0]);
    memcpy(salt, hash, SALT_SIZE);
}

enum status scram_first(struct scram *scram, const struct client *client, struct span message,
                        struct buf *answer)
{
    char name[LIMIT_USER_NAME], text[64];
    uint8_t nonce[NONCE_BYTES], salt[SALT_SIZE];
    size_t name_size;
    struct span authzid, user, client_nonce;
    if (scram->begun || message.size > SCRAM_MESSAGE_MAX / 2 ||
        !take_gs2(scram, &message, &authzid))
        return STATUS_MALFORMED;
    struct span bare = message;
    if (!take_field(&message, 'n', &user) || !take_field(&message, 'r', &client_nonce) ||
        !unescape(user, name, &name_size) || !is_printable(client_nonce) ||
        (authzid.size > 0 && !span_equal(authzid, user)))
        return STATUS_MALFORMED;
    scram->begun = true;
    struct span known = span_of(name, name_size);
    const struct principal *principal =
        catalog_principal_by_name(client->worker->catalog, client->tenant, known);
    scram->principal = principal == NULL ? NULL : principal_ref(principal);
    if (principal == NULL)
        invent_salt(known, salt);
    else
        memcpy(salt, principal->scram_salt, SALT_SIZE);
    rng_bytes(nonce, sizeof nonce);
    encode(nonce, sizeof nonce, text);
    snprintf(scram->nonce, sizeof scram->nonce, "%.*s%s", (int)client_nonce.size,
             (const char *)client_nonce.data, text);
    encode(salt, sizeof salt, text);
    size_t before = answer->size;
    enum status status =
        buf_printf(answer, "r=%s,s=%s,i=%u", scram->nonce, text,
                   principal == NULL ? SCRAM_ITERATIONS : principal->scram_iterations);
    if (status == STATUS_OK)
        status = buf_append(&scram->text, bare.data, bare.size);
    if (status == STATUS_OK)
        status = buf_append_text(&scram->text, ",");
    return status != STATUS_OK
               ? status
               : buf_append(&scram->text, answer->data + before, answer->size - before);
}

static void sign(const struct scram *scram, const uint8_t key[KEY_SIZE], uint8_t to[KEY_SIZE])
{
    unsigned size = KEY_SIZE;
    CHECK(HMAC(EVP_sha256(), key, KEY_SIZE, scram->text.data, scram->text.size, to, &size) != NULL);
}

/* The proof is the client's key under its signature; what is stored is that key's hash. */
static bool proves(const struct scram *scram, struct span proof)
{
    uint8_t decoded[KEY_SIZE + 1], signature[KEY_SIZE], key[KEY_SIZE], hash[KEY_SIZE];
    if (proof.size != 44 || EVP_DecodeBlock(decoded, proof.data, 44) != KEY_SIZE + 1)
        return false;
    static const uint8_t nobody[KEY_SIZE];
    const uint8_t *stored = scram->principal == NULL ? nobody : scram->principal->scram_stored_key;
    sign(scram, stored, signature);
    for (unsigned i = 0; i < KEY_SIZE; i++)
        key[i] = decoded[i] ^ signature[i];
    SHA256(key, KEY_SIZE, hash);
    return CRYPTO_memcmp(hash, stored, KEY_SIZE) == 0 && scram->principal != NULL;
}

enum status scram_final(struct scram *scram, struct span message, struct buf *answer)
{
    struct span binding, nonce, proof, rest = message;
    if (!scram->begun || message.size > SCRAM_MESSAGE_MAX)
        return STATUS_MALFORMED;
    if (!take_field(&rest, 'c', &binding) || !take_field(&rest, 'r', &nonce))
        return STATUS_MALFORMED;
    /* Extensions may stand between; the proof is the last. */
    while (rest.size > 2 && rest.data[0] != 'p') {
        const uint8_t *comma = memchr(rest.data, ',', rest.size);
        if (comma == NULL)
            return STATUS_MALFORMED;
        rest = span_from(rest, (size_t)(comma - rest.data) + 1);
    }
    size_t signed_size = (size_t)(rest.data - message.data) - 1;
    if (!take_field(&rest, 'p', &proof) || rest.size != 0)
        return STATUS_MALFORMED;
    if (!span_is(binding, scram->gs2) || !span_is(nonce, scram->nonce))
        return STATUS_UNAUTHENTICATED;
    enum status status = buf_append_text(&scram->text, ",");
    if (status == STATUS_OK)
        status = buf_append(&scram->text, message.data, signed_size);
    if (status != STATUS_OK)
        return status;
    scram->begun = false; /* once */
    if (!proves(scram, proof))
        return STATUS_UNAUTHENTICATED;
    uint8_t signature[KEY_SIZE];
    char text[64];
    sign(scram, scram->principal->scram_server_key, signature);
    encode(signature, sizeof signature, text);
    return buf_printf(answer, "v=%s", text);
}
