/* SPDX-License-Identifier: Apache-2.0 */
/* A TLS server configuration shared by all workers: certificate, key and, where set, the authority
 * that client certificates must come from. Reloaded as a whole. */
#ifndef CORE_NET_TLS_H
#define CORE_NET_TLS_H

#include <stdbool.h>

#include "core/base/status.h"

struct tls_context;

/* client_ca may be NULL; where it is set, a certificate that is not of it is refused, and so is a
 * client that shows none, where one is required. TLS 1.2 and 1.3. err says which file and why. */
struct tls_context *tls_context_open(const char *certificate, const char *key,
                                     const char *client_ca, bool required, struct err *err);
/* Any thread. New connections use the new files; on failure the old ones stay. */
enum status tls_context_reload(struct tls_context *tls, struct err *err);
void tls_context_free(struct tls_context *tls);

#endif
