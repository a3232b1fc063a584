/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/storage/fixture.h"
const struct CMUnitTest crash_tests[] = {{0}};
const size_t crash_test_count = 0;
int crash_child(const char *role, const char *directory)
{
    (void)role;
    (void)directory;
    return 1;
}
