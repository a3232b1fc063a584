/* SPDX-License-Identifier: Apache-2.0 */
/* openapi.json, put into the program when it is built. */
#ifndef ADAPTERS_REST_OPENAPI_H
#define ADAPTERS_REST_OPENAPI_H

#include <stddef.h>
#include <stdint.h>

extern const uint8_t openapi_text[];
extern const size_t openapi_size;

#endif
