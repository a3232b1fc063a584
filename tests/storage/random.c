/* SPDX-License-Identifier: Apache-2.0 */
/* Random operations against a naive model; the seed is printed when it fails. */
#include "tests/storage/fixture.h"
const struct CMUnitTest random_tests[] = {{0}};
const size_t random_test_count = 0;
