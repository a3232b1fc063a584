/* SPDX-License-Identifier: Apache-2.0 */
/* Assertions that stay on in release builds: a bug stops the process before it can damage data.
 * Peer bytes never reach one. */
#ifndef CORE_BASE_CHECK_H
#define CORE_BASE_CHECK_H

_Noreturn void check_failed(const char *condition, const char *file, int line);

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (__builtin_expect(!(condition), 0))                                                     \
            check_failed(#condition, __FILE__, __LINE__);                                          \
    } while (0)

#endif
