/* SPDX-License-Identifier: Apache-2.0 */
/* RocksDB's checksums are computed by the processor. */
#include "tests/storage/fixture.h"

#include <dlfcn.h>

#include "storage/rocksdb/rocksdb.h"

#ifdef __SSE4_2__
/* Should this fail with another version of RocksDB, its function has another name now. */
static void rocksdb_calls_our_function(void **state)
{
    (void)state;
    static const char name[] = "_ZN7rocksdb6crc32c6ExtendEjPKcm";
    Dl_info called, engine;
    void *theirs = dlsym(RTLD_NEXT, name);
    void *function = dlsym(RTLD_DEFAULT, name);
    assert_non_null(theirs);
    assert_ptr_not_equal(function, theirs);
    assert_int_not_equal(dladdr(function, &called), 0);
    assert_int_not_equal(dladdr(&rocksdb_storage_ops, &engine), 0);
    assert_ptr_equal(called.dli_fbase, engine.dli_fbase);
}

static uint32_t checksum(uint32_t (*extend)(uint32_t, const char *, size_t), const char *text,
                         size_t first)
{
    return extend(extend(0, text, first), text + first, strlen(text) - first);
}

static void both_compute_the_same(void **state)
{
    (void)state;
    static const char name[] = "_ZN7rocksdb6crc32c6ExtendEjPKcm";
    uint32_t (*ours)(uint32_t, const char *, size_t), (*theirs)(uint32_t, const char *, size_t);
    *(void **)&ours = dlsym(RTLD_DEFAULT, name);
    *(void **)&theirs = dlsym(RTLD_NEXT, name);
    for (size_t first = 0; first <= 9; first++) {
        assert_int_equal(checksum(ours, "123456789", first), 0xe3069283);
        assert_int_equal(checksum(theirs, "123456789", first), 0xe3069283);
    }
}

const struct CMUnitTest checksum_tests[] = {
    cmocka_unit_test(rocksdb_calls_our_function),
    cmocka_unit_test(both_compute_the_same),
};
const size_t checksum_test_count = sizeof checksum_tests / sizeof *checksum_tests;
#else
const struct CMUnitTest checksum_tests[1];
const size_t checksum_test_count = 0;
#endif
