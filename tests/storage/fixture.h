/* SPDX-License-Identifier: Apache-2.0 */
/* What the contract tests share: an engine in a place of its own, and calls that wait for their
 * end. */
#ifndef TESTS_STORAGE_FIXTURE_H
#define TESTS_STORAGE_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/types.h>
#include <cmocka.h>

#include "storage/envelope.h"
#include "storage/storage.h"

enum place { PLACE_NONE, PLACE_DIRECTORY, PLACE_MEMORY_ENVIRONMENT };

struct engine_case {
    const char *name;
    const struct storage_ops *ops;
    enum place place;
};

struct fixture {
    const struct engine_case *engine;
    struct storage_options options;
    struct storage *storage;
    struct loop *loop;
    void *environment;
    char directory[192];
};

int fixture_setup(void **state); /* *state: the engine_case; becomes the fixture */
int fixture_teardown(void **state);
enum status fixture_try_open(struct fixture *fixture, struct err *err);
void fixture_open(struct fixture *fixture);
void fixture_close(struct fixture *fixture);
void fixture_reopen(struct fixture *fixture);
bool fixture_keeps(const struct fixture *fixture); /* survives a close */

/* Runs the loop until every request that was started by these helpers has ended. */
void wait_all(struct fixture *fixture);

/* OVERHEAD: what the store counts for a batch of append_one besides its payload. */
enum { OP_MAX = 8, OVERHEAD = ENVELOPE_SIZE + 61 };
/* One append under construction. Batches are freed by op_free. */
struct op {
    struct storage_append append;
    struct storage_batch batches[OP_MAX];
    struct storage_row rows[OP_MAX];
    unsigned finished; /* rank of its completion, from 1; 0: not yet */
};

struct blob *batch_make(uint32_t records, size_t payload, uint64_t seed);
bool batch_is(struct span batch, uint32_t records, size_t payload, uint64_t seed);

struct op *op_new(struct fixture *fixture);
void op_batch(struct op *op, uint64_t partition, uint32_t records, size_t payload, uint64_t seed);
void op_put(struct op *op, const char *key, const char *value);
void op_delete(struct op *op, const char *key);
void op_delete_range(struct op *op, const char *first, const char *end);
void op_delete_when(struct op *op, const char *key, const char *begins);
void op_start(struct fixture *fixture, struct op *op);
void op_wait(struct fixture *fixture, const struct op *op); /* others may go on */
enum status op_run(struct fixture *fixture, struct op *op);
void op_free(struct op *op);

/* One batch, waited for; returns its base offset. The seed is the partition's number of the batch.
 */
uint64_t append_one(struct fixture *fixture, uint64_t partition, uint32_t records, size_t payload,
                    uint64_t seed);

void read_init(struct fixture *fixture, struct storage_read *read, uint64_t partition,
               uint64_t offset);
enum status read_run(struct fixture *fixture, struct storage_read *read);
void read_release(struct storage_read *read);
struct storage_bounds bounds_of(struct fixture *fixture, uint64_t partition);
uint64_t floor_of(struct fixture *fixture, uint64_t partition, int64_t time_ms,
                  uint64_t keep_bytes);
void trim_start(struct fixture *fixture, uint64_t partition, uint64_t start); /* one at a time */
enum status trim_run(struct fixture *fixture, uint64_t partition, uint64_t start, bool remove);
/* Rows of one letter and a number. */
void put_rows(struct fixture *fixture, char table, unsigned from, unsigned to);
/* "key=value,key=value" of the rows in [first, end), with "+" behind when there are more, bytes
 * that do not print as \\xx, or the name of the status. Static memory. */
/* Keys and limit are set; it succeeds. */
void scan_run(struct fixture *fixture, struct storage_scan *scan);
const char *scan_text(struct fixture *fixture, const char *first, const char *end, uint32_t limit);

/* Wall time under the tests' control (0: the real one again). */
void time_set(int64_t wall_ms);

/* On every engine. */
extern const struct CMUnitTest append_tests[], read_tests[], row_tests[];
extern const size_t append_test_count, read_test_count, row_test_count;
extern const struct CMUnitTest random_tests[];
extern const size_t random_test_count;
/* Tests of one engine on a directory: what it does with damage. */
extern const struct CMUnitTest crash_tests[];
extern const size_t crash_test_count;
int crash_child(const char *role, const char *directory);
/* What trims leave: evacuation, on a directory. */
extern const struct CMUnitTest evacuate_tests[];
extern const size_t evacuate_test_count;
int evacuate_child(struct fixture *fixture);
/* Who computes RocksDB's checksums; without a store. */
extern const struct CMUnitTest checksum_tests[];
extern const size_t checksum_test_count;
/* This program again, in a role on the fixture's directory; from: what it writes. */
pid_t child_start(const struct fixture *fixture, const char *role, int *from);
double metric_of(struct fixture *fixture, const char *name);

#endif
