/* SPDX-License-Identifier: Apache-2.0 */
/* Just enough polylog.v1 for a subscriber: what a page in a browser sends, and what it looks at. */
#ifndef TESTS_BENCH_PAGE_H
#define TESTS_BENCH_PAGE_H

#include "tests/bench/mqtt.h"

enum page_step { PAGE_CONNECT = 1, PAGE_SUBSCRIBE };

#define PAGE_BYTES 160 /* room that either needs beyond its string */

size_t page_connect(uint8_t *out, const char *client_id);
size_t page_subscribe(uint8_t *out, const char *topic);
/* Has the gateway said ok to that step? */
bool page_is_ok(const struct frame *frame, enum page_step step);
/* The body of a delivery, which is text without escapes; false: it is something else. */
bool page_read_body(const struct frame *frame, const uint8_t **body, uint32_t *length);

#endif
