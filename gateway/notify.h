/* SPDX-License-Identifier: Apache-2.0 */
/* What the service manager is told, as sd_notify does it; nothing without NOTIFY_SOCKET. */
#ifndef GATEWAY_NOTIFY_H
#define GATEWAY_NOTIFY_H

void notify(const char *state); /* "READY=1", "STOPPING=1", ... */

#endif
