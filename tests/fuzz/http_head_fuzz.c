/* SPDX-License-Identifier: Apache-2.0 */
/* The head of a request, and what stands in it: credentials, host, origin, path parameters. */
#include <stdlib.h>

#include "adapters/http/codec.h"
#include "adapters/http/head.h"
#include "core/base/check.h"
#include "core/base/utf8.h"
#include "tests/fuzz/fuzz.h"

static bool lies_in(struct span part, const uint8_t *bytes, size_t size)
{
    return part.size == 0 || (part.data >= bytes && part.data + part.size <= bytes + size);
}

static void check(struct http_head *head, const uint8_t *bytes, size_t size)
{
    CHECK(head->path.size > 0 && head->path.data[0] == '/' && head->method < HTTP_METHODS);
    CHECK(lies_in(head->path, bytes, size) && lies_in(head->host, bytes, size));
    CHECK(lies_in(head->origin, bytes, size) && lies_in(head->content_type, bytes, size));
    CHECK(lies_in(head->idempotency_key, bytes, size) && lies_in(head->auth_token, bytes, size));
    CHECK(lies_in(head->producer_id, bytes, size) && lies_in(head->producer_seq, bytes, size));
    CHECK(lies_in(head->producer_epoch, bytes, size));
    CHECK(head->query_count <= HTTP_QUERY_MAX && !(head->chunked && head->body_size > 0));
    for (uint32_t i = 0; i < head->query_count; i++) {
        CHECK(lies_in(head->query[i].name, bytes, size));
        CHECK(lies_in(head->query[i].value, bytes, size));
        CHECK(utf8_is_valid_no_nul(head->query[i].value));
    }
    http_host_is_loopback(head->host);
    http_origin_is_own(head->origin, head->host);
    http_origin_is_listed(head->origin, head->host);
    struct buf storage;
    struct span user, password;
    buf_init(&storage, 64 * 1024);
    if (http_credentials(head, &storage, &user, &password) == STATUS_OK) {
        CHECK(lies_in(user, storage.data, storage.size) &&
              lies_in(password, storage.data, storage.size));
        CHECK(user.size == 0 || memchr(user.data, ':', user.size) == NULL);
    }
    buf_deinit(&storage);
    struct span path = head->path;
    if (http_decode(&path, false))
        CHECK(path.size <= head->path.size && utf8_is_valid_no_nul(path));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    size_t head_size = http_head_size(span_of(data, size));
    CHECK(head_size <= size);
    /* Also without its end: whoever calls may be wrong about that. */
    size_t taken = head_size == 0 ? size : head_size;
    uint8_t *bytes = malloc(taken + 1);
    memcpy(bytes, data, taken);
    struct http_head head;
    unsigned code = http_head_read(&head, bytes, taken);
    CHECK(code == 0 || (code >= 400 && code < 600));
    if (code == 0)
        check(&head, bytes, taken);
    free(bytes);
    return 0;
}
