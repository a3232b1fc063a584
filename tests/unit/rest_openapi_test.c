/* SPDX-License-Identifier: Apache-2.0 */
/* links: adapter_rest adapter_http adapter broker queue log storage_memory net_uv */
/* The description and the table of routes say the same, both ways. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <jansson.h>

#include "adapters/rest/openapi.h"
#include "adapters/rest/rest.h"

/* "{filter*}" is "{filter}" in a description. */
static void described_path(const char *pattern, char path[256])
{
    size_t size = 0;
    for (const char *c = pattern; *c != 0; c++) {
        if (*c != '*')
            path[size++] = *c;
    }
    path[size] = 0;
}

static void described_method(enum http_method method, char name[16])
{
    snprintf(name, 16, "%s", http_method_name(method));
    for (char *c = name; *c != 0; c++)
        *c = (char)tolower(*c);
}

static const json_t *described(const json_t *document, const struct http_route *route)
{
    char path[256], method[16];
    described_path(route->pattern, path);
    described_method(route->method, method);
    return json_object_get(json_object_get(json_object_get(document, "paths"), path), method);
}

static bool served(const char *path, const char *method)
{
    for (size_t i = 0; i < rest_route_count; i++) {
        char route_path[256], route_method[16];
        described_path(rest_routes[i].pattern, route_path);
        described_method(rest_routes[i].method, route_method);
        if (strcmp(path, route_path) == 0 && strcmp(method, route_method) == 0)
            return true;
    }
    return false;
}

static json_t *load(void)
{
    json_error_t error;
    json_t *document =
        json_loadb((const char *)openapi_text, openapi_size, JSON_REJECT_DUPLICATES, &error);
    if (document == NULL)
        fail_msg("openapi.json:%d: %s", error.line, error.text);
    return document;
}

static void every_route_is_described(void **state)
{
    (void)state;
    json_t *document = load();
    for (size_t i = 0; i < rest_route_count; i++) {
        if (described(document, &rest_routes[i]) == NULL)
            fail_msg("%s %s is not described", http_method_name(rest_routes[i].method),
                     rest_routes[i].pattern);
    }
    json_decref(document);
}

static void every_description_is_served(void **state)
{
    (void)state;
    json_t *document = load();
    const char *path, *method;
    json_t *methods, *operation;
    json_object_foreach(json_object_get(document, "paths"), path, methods)
    {
        json_object_foreach(methods, method, operation)
        {
            if (strcmp(method, "parameters") != 0 && !served(path, method))
                fail_msg("%s %s is described only", method, path);
        }
    }
    json_decref(document);
}

/* Every {parameter} of a path is declared, and every $ref leads somewhere. */
static void check_references(json_t *document, json_t *value)
{
    const char *reference = json_string_value(json_object_get(value, "$ref"));
    if (reference != NULL) {
        char text[256];
        const json_t *at = document;
        snprintf(text, sizeof text, "%s", reference + 2);
        char *save = NULL;
        for (char *part = strtok_r(text, "/", &save); part != NULL;
             part = strtok_r(NULL, "/", &save))
            at = json_object_get(at, part);
        if (at == NULL)
            fail_msg("%s leads nowhere", reference);
    }
    const char *key;
    json_t *child;
    size_t index;
    json_object_foreach(value, key, child) check_references(document, child);
    json_array_foreach(value, index, child) check_references(document, child);
}

static void references_lead_somewhere(void **state)
{
    (void)state;
    json_t *document = load();
    check_references(document, document);
    const char *path;
    json_t *methods;
    json_object_foreach(json_object_get(document, "paths"), path, methods)
    {
        size_t braces = 0;
        for (const char *c = path; *c != 0; c++)
            braces += *c == '{';
        assert_int_equal(json_array_size(json_object_get(methods, "parameters")), braces);
    }
    json_decref(document);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_route_is_described),
        cmocka_unit_test(every_description_is_served),
        cmocka_unit_test(references_lead_somewhere),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
