/* SPDX-License-Identifier: Apache-2.0 */
/* Answers for people: tables with aligned columns. Control characters that came from elsewhere do
 * not reach the terminal. */
#include "gateway/cli/cli.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/heap.h"

/* Text of a value; free it. lines: it may have several. */
static char *value_text(const json_t *value, bool lines)
{
    if (value == NULL || json_is_null(value))
        return heap_text("-", 1);
    char *text;
    if (json_is_string(value)) {
        text = heap_text(json_string_value(value), json_string_length(value));
    } else {
        char *dump = json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY);
        text = heap_text(dump, strlen(dump));
        free(dump);
    }
    for (char *at = text; *at != '\0'; at++)
        if (((unsigned char)*at < 0x20 && !(lines && (*at == '\n' || *at == '\t'))) || *at == 0x7f)
            *at = '?';
    return text;
}

static size_t width_of(const char *text)
{
    size_t width = 0;
    for (; *text != '\0'; text++)
        width += (*text & 0xc0) != 0x80; /* characters, not bytes */
    return width;
}

static void show_cell(const char *text, size_t width, bool last)
{
    fputs(text, stdout);
    for (size_t at = width_of(text); !last && at < width + 2; at++)
        putchar(' ');
}

void show_table(const json_t *rows, const struct cli_column *columns)
{
    size_t index;
    json_t *row;
    size_t widths[16] = {0};
    size_t count = 0;
    for (; columns[count].title != NULL; count++)
        widths[count] = strlen(columns[count].title);
    json_array_foreach(rows, index, row)
    {
        for (size_t i = 0; i < count; i++) {
            char *text = value_text(json_object_get(row, columns[i].field), false);
            if (width_of(text) > widths[i])
                widths[i] = width_of(text);
            heap_free(text);
        }
    }
    for (size_t i = 0; i < count; i++)
        show_cell(columns[i].title, widths[i], i + 1 == count);
    putchar('\n');
    json_array_foreach(rows, index, row)
    {
        for (size_t i = 0; i < count; i++) {
            char *text = value_text(json_object_get(row, columns[i].field), false);
            show_cell(text, widths[i], i + 1 == count);
            heap_free(text);
        }
        putchar('\n');
    }
}

void show_object(const json_t *object)
{
    size_t width = 0;
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)object, name, value)
    {
        if (strlen(name) > width)
            width = strlen(name);
    }
    json_object_foreach((json_t *)(uintptr_t)object, name, value)
    {
        char *text = value_text(value, false);
        show_cell(name, width, false);
        puts(text);
        heap_free(text);
    }
}

void show_json(const json_t *value)
{
    if (value == NULL)
        return;
    json_dumpf(value, stdout, JSON_COMPACT | JSON_ENCODE_ANY);
    putchar('\n');
}

void show_value(const json_t *value)
{
    if (json_is_string(value) && !isatty(STDOUT_FILENO)) {
        fwrite(json_string_value(value), 1, json_string_length(value), stdout);
        putchar('\n');
        return;
    }
    char *text = value_text(value, true);
    puts(text);
    heap_free(text);
}
