/* SPDX-License-Identifier: Apache-2.0 */
/* What a TLS stream needs of its configuration. */
#ifndef CORE_NET_TLS_IMPL_H
#define CORE_NET_TLS_IMPL_H

#include <openssl/ssl.h>

#include "core/net/tls.h"

/* A server session of the files read last; it keeps them for itself. Any thread. NULL when out of
 * memory. */
SSL *tls_context_session(struct tls_context *tls);

#endif
