/* SPDX-License-Identifier: Apache-2.0 */
/* Principals: lifetime, stored rows, passwords (argon2id for logins that send them, SCRAM-SHA-256
 * keys for those that do not), access keys. */
#include <argon2.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/sha.h>

#include "core/base/heap.h"
#include "core/base/limits.h"
#include "core/base/pack.h"
#include "core/base/reader.h"
#include "core/base/rng.h"
#include "core/broker/auth.h"

/* OWASP's minimum for argon2id: 19 MiB, two passes, one lane. RFC 7677 asks for 4096 rounds at
 * least, and 15000 where clients can bear it; small devices log in with the password itself. */
enum {
    ARGON2_KIB = 19 * 1024,
    ARGON2_PASSES = 2,
    ARGON2_LANES = 1,
    ARGON2_SALT_BYTES = 16,
    ARGON2_HASH_BYTES = 32,
    ROW_VERSION = 1,
};

/* Of no password: what is compared when there is no such user, so that the answer takes as long. */
static const char nobody_hash[] = "$argon2id$v=19$m=19456,t=2,p=1$cG9seWxvZyBub2JvZHkgIQ$"
                                  "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/* ---------------------------------------------------------------- lifetime */

struct principal *principal_ref(const struct principal *principal)
{
    struct principal *shared = (struct principal *)(uintptr_t)principal;
    atomic_fetch_add_explicit(&shared->refs, 1, memory_order_relaxed);
    return shared;
}

void principal_unref(struct principal *principal)
{
    if (principal == NULL ||
        atomic_fetch_sub_explicit(&principal->refs, 1, memory_order_acq_rel) != 1)
        return;
    for (uint32_t i = 0; i < principal->grant_count; i++)
        grant_deinit(&principal->grants[i]);
    if (principal->keys != NULL)
        OPENSSL_cleanse(principal->keys, principal->key_count * sizeof *principal->keys);
    heap_free(principal->grants);
    heap_free(principal->keys);
    heap_free(principal->hash);
    heap_free(principal->name);
    heap_free(principal);
}

static char *text_copy(const char *text)
{
    return text == NULL ? NULL : heap_text(text, strlen(text));
}

struct principal *principal_copy(const struct principal *principal)
{
    struct principal *copy = heap_new(sizeof *copy);
    atomic_init(&copy->refs, 1);
    copy->tenant = principal->tenant;
    copy->id = principal->id;
    copy->name = text_copy(principal->name);
    copy->hash = text_copy(principal->hash);
    memcpy(copy->scram_salt, principal->scram_salt, sizeof copy->scram_salt);
    memcpy(copy->scram_stored_key, principal->scram_stored_key, sizeof copy->scram_stored_key);
    memcpy(copy->scram_server_key, principal->scram_server_key, sizeof copy->scram_server_key);
    copy->scram_iterations = principal->scram_iterations;
    copy->created_ms = principal->created_ms;
    copy->key_count = principal->key_count;
    if (copy->key_count != 0) {
        copy->keys = heap_array(copy->key_count, sizeof *copy->keys);
        memcpy(copy->keys, principal->keys, copy->key_count * sizeof *copy->keys);
    }
    copy->grant_count = principal->grant_count;
    if (copy->grant_count != 0)
        copy->grants = heap_array(copy->grant_count, sizeof *copy->grants);
    for (uint32_t i = 0; i < copy->grant_count; i++) {
        copy->grants[i] = principal->grants[i];
        copy->grants[i].pattern = text_copy(principal->grants[i].pattern);
    }
    return copy;
}

/* ---------------------------------------------------------------- rows */

enum status principal_encode(const struct principal *principal, struct buf *to)
{
    struct pack pack = pack_into(to);
    pack_u8(&pack, ROW_VERSION);
    pack_u64(&pack, principal->tenant);
    pack_u64(&pack, principal->id);
    pack_u64(&pack, (uint64_t)principal->created_ms);
    pack_block(&pack, span_from_text(principal->name));
    pack_block(&pack, span_from_text(principal->hash == NULL ? "" : principal->hash));
    pack_bytes(&pack, span_of(principal->scram_salt, sizeof principal->scram_salt));
    pack_bytes(&pack, span_of(principal->scram_stored_key, sizeof principal->scram_stored_key));
    pack_bytes(&pack, span_of(principal->scram_server_key, sizeof principal->scram_server_key));
    pack_u32(&pack, principal->scram_iterations);
    pack_u32(&pack, principal->key_count);
    for (uint32_t i = 0; i < principal->key_count; i++) {
        pack_bytes(&pack, span_of(principal->keys[i].id, sizeof principal->keys[i].id - 1));
        pack_bytes(&pack, span_of(principal->keys[i].secret, sizeof principal->keys[i].secret - 1));
    }
    pack_u32(&pack, principal->grant_count);
    for (uint32_t i = 0; i < principal->grant_count; i++) {
        const struct grant *grant = &principal->grants[i];
        pack_u8(&pack, (uint8_t)grant->actions);
        pack_u8(&pack, grant->is_topic);
        pack_block(&pack, span_from_text(grant->pattern));
    }
    return pack.status;
}

/* A text; NULL (and failed) when it holds a NUL. */
static char *text_read(struct reader *reader)
{
    struct span text = reader_block(reader);
    if (reader->failed || (text.size != 0 && memchr(text.data, '\0', text.size) != NULL)) {
        reader->failed = true;
        return NULL;
    }
    return heap_text((const char *)text.data, text.size);
}

static void array_read(struct reader *reader, void *to, size_t size)
{
    struct span bytes = reader_bytes(reader, size);
    if (bytes.size == size)
        memcpy(to, bytes.data, size);
}

/* How many elements follow; 0 (and failed) when so many cannot be left, so that no row can ask for
 * more memory than it has bytes. */
static uint32_t count_read(struct reader *reader, size_t element_bytes_min)
{
    uint32_t count = reader_u32(reader);
    if (count <= reader_left(reader) / element_bytes_min)
        return count;
    reader->failed = true;
    return 0;
}

static void keys_read(struct reader *reader, struct principal *principal)
{
    enum {
        ID = sizeof((struct access_key *)0)->id - 1,
        SECRET = sizeof((struct access_key *)0)->secret - 1
    };
    uint32_t count = count_read(reader, ID + SECRET);
    if (count == 0)
        return;
    principal->keys = heap_array(count, sizeof *principal->keys);
    principal->key_count = count;
    for (uint32_t i = 0; i < count; i++) {
        array_read(reader, principal->keys[i].id, ID);
        array_read(reader, principal->keys[i].secret, SECRET);
    }
}

static void grants_read(struct reader *reader, struct principal *principal)
{
    uint32_t count = count_read(reader, 3);
    if (count == 0)
        return;
    principal->grants = heap_array(count, sizeof *principal->grants);
    while (principal->grant_count < count && !reader->failed) {
        struct grant *grant = &principal->grants[principal->grant_count++];
        grant->actions = reader_u8(reader);
        uint8_t is_topic = reader_u8(reader);
        grant->is_topic = is_topic == 1;
        grant->pattern = text_read(reader);
        if (is_topic > 1 || grant->pattern == NULL || grant->pattern[0] == '\0' ||
            grant->actions > (ACTION_PUBLISH | ACTION_CONSUME | ACTION_MANAGE))
            reader->failed = true;
    }
}

enum status principal_decode(struct span row, struct principal **principal)
{
    struct reader reader = reader_of(row);
    *principal = NULL;
    if (reader_u8(&reader) != ROW_VERSION)
        return STATUS_CORRUPT;
    struct principal *read = heap_new(sizeof *read);
    atomic_init(&read->refs, 1);
    read->tenant = reader_u64(&reader);
    read->id = reader_u64(&reader);
    read->created_ms = (int64_t)reader_u64(&reader);
    read->name = text_read(&reader);
    read->hash = text_read(&reader);
    array_read(&reader, read->scram_salt, sizeof read->scram_salt);
    array_read(&reader, read->scram_stored_key, sizeof read->scram_stored_key);
    array_read(&reader, read->scram_server_key, sizeof read->scram_server_key);
    read->scram_iterations = reader_u32(&reader);
    keys_read(&reader, read);
    grants_read(&reader, read);
    if (reader.failed || reader_left(&reader) != 0 || read->name[0] == '\0') {
        principal_unref(read);
        return STATUS_CORRUPT;
    }
    if (read->hash[0] == '\0') {
        heap_free(read->hash);
        read->hash = NULL;
    }
    *principal = read;
    return STATUS_OK;
}

/* ---------------------------------------------------------------- passwords */

static enum status hash_make(struct span password, char **hash)
{
    uint8_t salt[ARGON2_SALT_BYTES];
    rng_bytes(salt, sizeof salt);
    size_t size = argon2_encodedlen(ARGON2_PASSES, ARGON2_KIB, ARGON2_LANES, sizeof salt,
                                    ARGON2_HASH_BYTES, Argon2_id);
    char *encoded = heap_new(size);
    int result =
        argon2id_hash_encoded(ARGON2_PASSES, ARGON2_KIB, ARGON2_LANES, password.data, password.size,
                              salt, sizeof salt, ARGON2_HASH_BYTES, encoded, size);
    if (result != ARGON2_OK) {
        heap_free(encoded);
        return result == ARGON2_MEMORY_ALLOCATION_ERROR ? STATUS_NO_MEMORY : STATUS_INTERNAL;
    }
    *hash = encoded;
    return STATUS_OK;
}

static bool hmac(const uint8_t key[SHA256_DIGEST_LENGTH], const char *text,
                 uint8_t out[SHA256_DIGEST_LENGTH])
{
    return HMAC(EVP_sha256(), key, SHA256_DIGEST_LENGTH, (const uint8_t *)text, strlen(text), out,
                NULL) != NULL;
}

/* RFC 5802, section 3. The password's bytes are taken as they are, without SASLprep. */
static enum status scram_make(struct principal *principal, struct span password)
{
    uint8_t salted[SHA256_DIGEST_LENGTH], client_key[SHA256_DIGEST_LENGTH];
    rng_bytes(principal->scram_salt, sizeof principal->scram_salt);
    principal->scram_iterations = SCRAM_ITERATIONS;
    bool made = PKCS5_PBKDF2_HMAC((const char *)password.data, (int)password.size,
                                  principal->scram_salt, sizeof principal->scram_salt,
                                  SCRAM_ITERATIONS, EVP_sha256(), sizeof salted, salted) == 1 &&
                hmac(salted, "Client Key", client_key) &&
                SHA256(client_key, sizeof client_key, principal->scram_stored_key) != NULL &&
                hmac(salted, "Server Key", principal->scram_server_key);
    OPENSSL_cleanse(salted, sizeof salted);
    OPENSSL_cleanse(client_key, sizeof client_key);
    return made ? STATUS_OK : STATUS_INTERNAL;
}

enum status principal_set_password(struct principal *principal, struct span password)
{
    if (password.size == 0 || password.size > LIMIT_PASSWORD)
        return STATUS_INVALID;
    char *hash = NULL;
    enum status status = hash_make(password, &hash);
    if (status == STATUS_OK)
        status = scram_make(principal, password);
    if (status != STATUS_OK) {
        heap_free(hash);
        return status;
    }
    heap_free(principal->hash);
    principal->hash = hash;
    return STATUS_OK;
}

/* libargon2 compares in constant time. */
enum status principal_verify(const struct principal *principal, struct span password)
{
    if (password.size > LIMIT_PASSWORD)
        return STATUS_UNAUTHENTICATED;
    bool exists = principal != NULL && principal->hash != NULL;
    int result =
        argon2id_verify(exists ? principal->hash : nobody_hash, password.data, password.size);
    if (result == ARGON2_MEMORY_ALLOCATION_ERROR)
        return STATUS_NO_MEMORY;
    return exists && result == ARGON2_OK ? STATUS_OK : STATUS_UNAUTHENTICATED;
}

/* ---------------------------------------------------------------- access keys */

static void random_text(char *to, size_t size, const char *alphabet)
{
    size_t letters = strlen(alphabet);
    for (size_t i = 0; i + 1 < size; i++)
        to[i] = alphabet[rng_below(letters)];
    to[size - 1] = '\0';
}

void access_key_make(struct access_key *key)
{
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789abcdefghijklmnopqrstuvwxyz";
    static const char capitals[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
    random_text(key->id, sizeof key->id, capitals);
    random_text(key->secret, sizeof key->secret, letters);
}
