/* SPDX-License-Identifier: Apache-2.0 */
/* Whether somebody else listens already. Listeners share their port among workers, and the kernel
 * would let another gateway of the same user share it too: clients would end up in either. */
#ifndef GATEWAY_PORT_H
#define GATEWAY_PORT_H

#include <stdint.h>

#include "core/base/status.h"

/* address as listener_open takes it; port is not 0. */
enum status port_check_free(const char *address, uint16_t port, struct err *err);

#endif
