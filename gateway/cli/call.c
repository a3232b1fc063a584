/* SPDX-License-Identifier: Apache-2.0 */
/* REST calls through libcurl: JSON there, JSON back, and refusals in the server's own words. */
#include "gateway/cli/cli.h"

#include <curl/curl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/buf.h"
#include "core/base/check.h"
#include "core/base/heap.h"

enum { ANSWER_MAX = 64 * 1024 * 1024, CONNECT_SECONDS = 10, CALL_SECONDS = 120 };

static const char digits[] = "0123456789ABCDEF";

char *cli_encode(const char *text)
{
    static const char plain[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.~";
    char *to = heap_new(3 * strlen(text) + 1);
    char *at = to;
    for (; *text != '\0'; text++) {
        unsigned char byte = (unsigned char)*text;
        if (strchr(plain, byte) != NULL) {
            *at++ = *text;
            continue;
        }
        *at++ = '%';
        *at++ = digits[byte >> 4];
        *at++ = digits[byte & 15];
    }
    return to;
}

char *cli_path(const char *format, ...)
{
    struct buf path;
    buf_init(&path, 64 * 1024);
    va_list arguments;
    va_start(arguments, format);
    for (const char *at = format; *at != '\0'; at++) {
        if (at[0] == '%' && at[1] == 's') {
            char *level = cli_encode(va_arg(arguments, const char *));
            CHECK(buf_append_text(&path, level) == STATUS_OK);
            heap_free(level);
            at++;
        } else {
            CHECK(buf_append(&path, at, 1) == STATUS_OK);
        }
    }
    va_end(arguments);
    CHECK(buf_append(&path, "", 1) == STATUS_OK);
    return (char *)path.data;
}

static size_t take_bytes(char *bytes, size_t size, size_t count, void *context)
{
    return buf_append(context, bytes, size * count) == STATUS_OK ? size * count : 0;
}

static void set_credentials(const struct cli *cli, CURL *curl)
{
    if (cli->token != NULL) {
        curl_easy_setopt(curl, CURLOPT_HTTPAUTH, (long)CURLAUTH_BEARER);
        curl_easy_setopt(curl, CURLOPT_XOAUTH2_BEARER, cli->token);
        return;
    }
    if (cli->user == NULL)
        return;
    curl_easy_setopt(curl, CURLOPT_HTTPAUTH, (long)CURLAUTH_BASIC);
    curl_easy_setopt(curl, CURLOPT_USERNAME, cli->user);
    curl_easy_setopt(curl, CURLOPT_PASSWORD, cli->password);
}

/* The server answered, whatever it said: *code and answer are set. */
static enum outcome perform(struct cli *cli, const char *method, const char *path, const char *body,
                            struct buf *answer, long *code)
{
    CURL *curl = curl_easy_init();
    CHECK(curl != NULL);
    char url[8192];
    size_t length = strlen(cli->url);
    while (length > 0 && cli->url[length - 1] == '/')
        length--;
    int written = snprintf(url, sizeof url, "%.*s%s", (int)length, cli->url, path);
    if (written < 0 || (size_t)written >= sizeof url) {
        curl_easy_cleanup(curl);
        return cli_say(OUTCOME_USAGE, "a name is too long");
    }
    char reason[CURL_ERROR_SIZE] = "";
    struct curl_slist *headers = curl_slist_append(NULL, "Content-Type: application/json");
    curl_easy_setopt(curl, CURLOPT_URL, url);
    curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(curl, CURLOPT_NOPROXY, "127.0.0.1,localhost,::1");
    curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT, (long)CONNECT_SECONDS);
    curl_easy_setopt(curl, CURLOPT_TIMEOUT, (long)CALL_SECONDS);
    curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, reason);
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, take_bytes);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, answer);
    curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
    if (cli->ca_file != NULL)
        curl_easy_setopt(curl, CURLOPT_CAINFO, cli->ca_file);
    set_credentials(cli, curl);
    if (body != NULL)
        curl_easy_setopt(curl, CURLOPT_POSTFIELDS, body);
    curl_easy_setopt(curl, CURLOPT_CUSTOMREQUEST, method);
    CURLcode result = curl_easy_perform(curl);
    curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, code);
    curl_slist_free_all(headers);
    curl_easy_cleanup(curl);
    if (result == CURLE_OK)
        return OUTCOME_OK;
    return cli_say(OUTCOME_REFUSED, "%s: %s", cli->url,
                   *reason != '\0' ? reason : curl_easy_strerror(result));
}

/* Refusals are {"code", "message", ...}; whatever else comes is shown as it is. */
static enum outcome say_refusal(long code, const struct buf *answer, const json_t *parsed)
{
    const char *text = json_string_value(json_object_get(parsed, "message"));
    if (text == NULL)
        text = json_string_value(json_object_get(parsed, "error_msg"));
    if (text != NULL)
        return cli_say(OUTCOME_REFUSED, "%s (HTTP %ld)", text, code);
    return cli_say(OUTCOME_REFUSED, "HTTP %ld %.*s", code, (int)answer->size,
                   answer->size == 0 ? "" : (const char *)answer->data);
}

enum outcome cli_call(struct cli *cli, const char *method, const char *path, json_t *body,
                      json_t **answer)
{
    struct buf bytes;
    buf_init(&bytes, ANSWER_MAX);
    char *text = body == NULL ? NULL : json_dumps(body, JSON_COMPACT);
    json_decref(body);
    long code = 0;
    enum outcome outcome = perform(cli, method, path, text, &bytes, &code);
    free(text);
    if (answer != NULL)
        *answer = NULL;
    if (outcome == OUTCOME_OK) {
        json_t *parsed = bytes.size == 0 ? NULL
                                         : json_loadb((const char *)bytes.data, bytes.size,
                                                      JSON_DECODE_ANY, NULL);
        if (code < 200 || code > 299)
            outcome = say_refusal(code, &bytes, parsed);
        else if (parsed == NULL && bytes.size > 0)
            outcome = cli_say(OUTCOME_REFUSED, "the answer is not JSON");
        if (answer != NULL && outcome == OUTCOME_OK)
            *answer = json_incref(parsed);
        json_decref(parsed);
    }
    buf_deinit(&bytes);
    return outcome;
}

enum outcome cli_call_text(struct cli *cli, const char *path, char **answer)
{
    struct buf bytes;
    buf_init(&bytes, ANSWER_MAX);
    long code = 0;
    enum outcome outcome = perform(cli, "GET", path, NULL, &bytes, &code);
    if (outcome == OUTCOME_OK && (code < 200 || code > 299))
        outcome = say_refusal(code, &bytes, NULL);
    *answer = outcome == OUTCOME_OK ? heap_text((const char *)bytes.data, bytes.size) : NULL;
    buf_deinit(&bytes);
    return outcome;
}

enum outcome cli_list(struct cli *cli, char *path, const char *field,
                      const struct cli_column *columns)
{
    json_t *answer;
    enum outcome outcome = cli_call(cli, "GET", path, NULL, &answer);
    heap_free(path);
    if (outcome == OUTCOME_OK && cli->json)
        show_json(answer);
    else if (outcome == OUTCOME_OK)
        show_table(json_object_get(answer, field), columns);
    json_decref(answer);
    return outcome;
}

static enum outcome call_and_show(struct cli *cli, const char *method, char *path, json_t *body,
                                  bool shown)
{
    json_t *answer;
    enum outcome outcome = cli_call(cli, method, path, body, &answer);
    heap_free(path);
    if (outcome == OUTCOME_OK && cli->json)
        show_json(answer);
    else if (outcome == OUTCOME_OK && shown)
        show_object(answer);
    json_decref(answer);
    return outcome;
}

enum outcome cli_show(struct cli *cli, const char *method, char *path, json_t *body)
{
    return call_and_show(cli, method, path, body, true);
}

enum outcome cli_change(struct cli *cli, const char *method, char *path, json_t *body)
{
    return call_and_show(cli, method, path, body, false);
}
