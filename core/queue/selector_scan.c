/* SPDX-License-Identifier: Apache-2.0 */
/* Cutting a selector into tokens. */
#include "core/queue/selector_scan.h"

#include "core/queue/selector_impl.h"

static const struct {
    const char *word;
    enum token_kind kind;
} keywords[] = {
    {"AND", TOKEN_AND},     {"BETWEEN", TOKEN_BETWEEN}, {"ESCAPE", TOKEN_ESCAPE},
    {"FALSE", TOKEN_FALSE}, {"IN", TOKEN_IN},           {"IS", TOKEN_IS},
    {"LIKE", TOKEN_LIKE},   {"NOT", TOKEN_NOT},         {"NULL", TOKEN_NULL},
    {"OR", TOKEN_OR},       {"TRUE", TOKEN_TRUE},
};

static bool is_digit(uint8_t byte)
{
    return byte >= '0' && byte <= '9';
}

static bool begins_name(uint8_t byte)
{
    uint8_t lower = byte | 0x20;
    return (lower >= 'a' && lower <= 'z') || byte == '_' || byte == '$' || byte >= 0x80;
}

static bool is_in_name(uint8_t byte)
{
    return begins_name(byte) || is_digit(byte);
}

/* 0 behind the end: no text holds that byte. */
static uint8_t byte_at(const struct scanner *scanner, size_t at)
{
    return at < scanner->text.size ? scanner->text.data[at] : 0;
}

static bool is_word(struct span text, const char *word)
{
    size_t i = 0;
    while (i < text.size && word[i] != '\0' && (text.data[i] & ~0x20u) == (uint8_t)word[i])
        i++;
    return i == text.size && word[i] == '\0';
}

static void scan_word(struct scanner *scanner, struct token *token)
{
    size_t from = scanner->at;
    while (is_in_name(byte_at(scanner, scanner->at)))
        scanner->at++;
    token->kind = TOKEN_NAME;
    token->text = span_of(scanner->text.data + from, scanner->at - from);
    for (size_t i = 0; i < sizeof keywords / sizeof keywords[0]; i++)
        if (is_word(token->text, keywords[i].word))
            token->kind = keywords[i].kind;
}

/* Text in quotes; two of them stand for one. */
static enum status scan_quoted(struct scanner *scanner, uint8_t quote, struct token *token)
{
    uint8_t *to = scanner->memory;
    for (scanner->at++; scanner->at < scanner->text.size; scanner->at++) {
        uint8_t byte = scanner->text.data[scanner->at];
        if (byte == quote && byte_at(scanner, ++scanner->at) != quote) {
            token->text = span_of(scanner->memory, (size_t)(to - scanner->memory));
            scanner->memory = to;
            return STATUS_OK;
        }
        *to++ = byte;
    }
    return err_set(scanner->err, STATUS_INVALID, "at %u: this quote is not closed",
                   token->position);
}

static unsigned digit_of(uint8_t byte)
{
    if (is_digit(byte))
        return byte - (unsigned)'0';
    uint8_t lower = byte | 0x20;
    return lower >= 'a' && lower <= 'f' ? lower - (unsigned)'a' + 10 : 16;
}

static enum status scan_integer(struct scanner *scanner, size_t from, unsigned base,
                                struct token *token)
{
    const uint64_t max = (uint64_t)INT64_MAX + 1;
    uint64_t magnitude = 0;
    for (size_t at = from; at < scanner->at; at++) {
        unsigned digit = digit_of(scanner->text.data[at]);
        if (digit >= base)
            return err_set(scanner->err, STATUS_INVALID, "at %zu: no digit of an octal number",
                           at + 1);
        if (magnitude > (max - digit) / base)
            return err_set(scanner->err, STATUS_INVALID, "at %u: this number is too large",
                           token->position);
        magnitude = magnitude * base + digit;
    }
    token->kind = TOKEN_INTEGER;
    token->magnitude = magnitude;
    return STATUS_OK;
}

static enum status scan_real(struct scanner *scanner, size_t from, struct token *token)
{
    struct value value;
    struct span text = span_of(scanner->text.data + from, scanner->at - from);
    if (!value_read_number(text, &value))
        return err_set(scanner->err, STATUS_INVALID, "at %u: this number is too large or too long",
                       token->position);
    token->kind = TOKEN_REAL;
    token->real = value.kind == VALUE_REAL ? value.real : (double)value.integer;
    return STATUS_OK;
}

static void skip_digits(struct scanner *scanner)
{
    while (is_digit(byte_at(scanner, scanner->at)))
        scanner->at++;
}

/* Passes over fraction and exponent; false when there is neither. */
static bool skip_fraction(struct scanner *scanner)
{
    size_t from = scanner->at;
    if (byte_at(scanner, scanner->at) == '.') {
        scanner->at++;
        skip_digits(scanner);
    }
    if ((byte_at(scanner, scanner->at) | 0x20) == 'e') {
        uint8_t sign = byte_at(scanner, scanner->at + 1);
        size_t digits = scanner->at + (sign == '+' || sign == '-' ? 2 : 1);
        if (is_digit(byte_at(scanner, digits))) {
            scanner->at = digits;
            skip_digits(scanner);
        }
    }
    return scanner->at > from;
}

/* As Java writes them: 17 017 0x1f 17L 1.5 .5 7. 1e3 1.5f 1d */
static enum status scan_number(struct scanner *scanner, struct token *token)
{
    size_t from = scanner->at;
    enum status status;
    if (byte_at(scanner, from) == '0' && (byte_at(scanner, from + 1) | 0x20) == 'x' &&
        digit_of(byte_at(scanner, from + 2)) < 16) {
        scanner->at += 2;
        while (digit_of(byte_at(scanner, scanner->at)) < 16)
            scanner->at++;
        status = scan_integer(scanner, from + 2, 16, token);
    } else {
        skip_digits(scanner);
        bool octal = byte_at(scanner, from) == '0' && scanner->at > from + 1;
        uint8_t last = byte_at(scanner, scanner->at) | 0x20;
        if (skip_fraction(scanner) || last == 'f' || last == 'd') {
            status = scan_real(scanner, from, token);
            last = byte_at(scanner, scanner->at) | 0x20;
            scanner->at += last == 'f' || last == 'd';
        } else {
            status = scan_integer(scanner, from, octal ? 8 : 10, token);
        }
    }
    if (status == STATUS_OK && token->kind == TOKEN_INTEGER)
        scanner->at += (byte_at(scanner, scanner->at) | 0x20) == 'l';
    if (status == STATUS_OK && is_in_name(byte_at(scanner, scanner->at)))
        return err_set(scanner->err, STATUS_INVALID, "at %zu: no part of a number",
                       scanner->at + 1);
    return status;
}

static enum token_kind scan_sign(struct scanner *scanner)
{
    uint8_t byte = byte_at(scanner, scanner->at++), next = byte_at(scanner, scanner->at);
    switch (byte) {
    case '(':
        return TOKEN_OPEN;
    case ')':
        return TOKEN_CLOSE;
    case ',':
        return TOKEN_COMMA;
    case '+':
        return TOKEN_PLUS;
    case '-':
        return TOKEN_MINUS;
    case '*':
        return TOKEN_TIMES;
    case '/':
        return TOKEN_DIVIDE;
    case '=':
        return TOKEN_EQUAL;
    case '<':
        scanner->at += next == '=' || next == '>';
        return next == '=' ? TOKEN_LESS_EQUAL : next == '>' ? TOKEN_NOT_EQUAL : TOKEN_LESS;
    case '>':
        scanner->at += next == '=';
        return next == '=' ? TOKEN_GREATER_EQUAL : TOKEN_GREATER;
    default:
        return TOKEN_END;
    }
}

enum status scanner_next(struct scanner *scanner, struct token *token)
{
    uint8_t byte = byte_at(scanner, scanner->at);
    while (byte == ' ' || (byte >= '\t' && byte <= '\r'))
        byte = byte_at(scanner, ++scanner->at);
    *token = (struct token){.kind = TOKEN_END, .position = (uint32_t)scanner->at + 1};
    if (scanner->at == scanner->text.size)
        return STATUS_OK;
    if (begins_name(byte)) {
        scan_word(scanner, token);
        return STATUS_OK;
    }
    if (byte == '\'') {
        token->kind = TOKEN_STRING;
        return scan_quoted(scanner, byte, token);
    }
    if (byte == '"') {
        token->kind = TOKEN_NAME;
        enum status status = scan_quoted(scanner, byte, token);
        if (status == STATUS_OK && token->text.size == 0)
            return err_set(scanner->err, STATUS_INVALID, "at %u: a name is empty", token->position);
        return status;
    }
    if (is_digit(byte) || (byte == '.' && is_digit(byte_at(scanner, scanner->at + 1))))
        return scan_number(scanner, token);
    token->kind = scan_sign(scanner);
    if (token->kind == TOKEN_END)
        return err_set(scanner->err, STATUS_INVALID, "at %u: a character without meaning",
                       token->position);
    return STATUS_OK;
}
