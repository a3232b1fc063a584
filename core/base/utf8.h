/* SPDX-License-Identifier: Apache-2.0 */
/* Strict UTF-8 (RFC 3629: no surrogates, no overlong forms), with U+0000 refused as MQTT 1.5.4
 * asks. */
#ifndef CORE_BASE_UTF8_H
#define CORE_BASE_UTF8_H

#include "core/base/span.h"

bool utf8_is_valid(struct span text);        /* well formed; U+0000 is allowed here */
bool utf8_is_valid_no_nul(struct span text); /* well formed and without U+0000 */

#endif
