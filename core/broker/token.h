/* SPDX-License-Identifier: Apache-2.0 */
/* Tokens: a principal's name for a while, proven by a MAC under what only the gateway knows of its
 * password. So nothing is stored, they hold across restarts, and another password, also the same
 * one set again, or the end of the principal ends all of them. */
#ifndef CORE_BROKER_TOKEN_H
#define CORE_BROKER_TOKEN_H

#include "core/broker/catalog.h"

enum { TOKEN_TEXT = 73 }; /* "polylog_", 64 letters, digits, - and _; with NUL */

void token_make(const struct principal *principal, int64_t expires_ms, char to[TOKEN_TEXT]);
/* Whose it is, borrowed from the catalog; NULL: it is none, has expired, or does not hold (any
 * more). */
const struct principal *token_verify(const struct catalog *catalog, struct span text,
                                     int64_t now_ms, int64_t *expires_ms);

#endif
