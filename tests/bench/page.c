/* SPDX-License-Identifier: Apache-2.0 */
/* JSON is searched rather than parsed: this program does not measure itself. */
#include "tests/bench/page.h"

#include <stdio.h>
#include <string.h>

size_t page_connect(uint8_t *out, const char *client_id)
{
    return (size_t)snprintf((char *)out, PAGE_BYTES + strlen(client_id),
                            "{\"op\":\"connect\",\"id\":%d,\"client_id\":\"%s\"}", PAGE_CONNECT,
                            client_id);
}

size_t page_subscribe(uint8_t *out, const char *topic)
{
    return (size_t)snprintf((char *)out, PAGE_BYTES + strlen(topic),
                            "{\"op\":\"subscribe\",\"id\":%d,\"sub\":\"s\",\"topic\":\"%s\"}",
                            PAGE_SUBSCRIBE, topic);
}

bool page_is_ok(const struct frame *frame, enum page_step step)
{
    char wanted[32];
    size_t size = (size_t)snprintf(wanted, sizeof wanted, "{\"op\":\"ok\",\"id\":%d", step);
    return frame->length > size && memcmp(frame->body, wanted, size) == 0;
}

bool page_read_body(const struct frame *frame, const uint8_t **body, uint32_t *length)
{
    static const char deliver[] = "{\"op\":\"deliver\"", member[] = "\"body\":\"";
    if (frame->length < sizeof deliver - 1 || memcmp(frame->body, deliver, sizeof deliver - 1) != 0)
        return false;
    const uint8_t *at = memmem(frame->body, frame->length, member, sizeof member - 1);
    if (at == NULL)
        return false;
    *body = at + sizeof member - 1;
    const uint8_t *end = memchr(*body, '"', frame->length - (size_t)(*body - frame->body));
    *length = end == NULL ? 0 : (uint32_t)(end - *body);
    return end != NULL;
}
