/* SPDX-License-Identifier: Apache-2.0 */
/* Each codec feeds a blob that grows up to max: a few bytes must not turn into gigabytes. */
#include "core/log/compress.h"

#include <lz4frame.h>
#include <snappy-c.h>
#include <zlib.h>
#include <zstd.h>

#include "core/base/pack.h"
#include "core/log/blob_grow.h"

enum { OUTPUT_MIN = 4096, GZIP_WINDOW_BITS = 15 + 16 };

/* The blob being filled. */
struct output {
    struct blob *blob;
    size_t size;
    size_t max;
};

static enum status output_init(struct output *output, size_t input_size, uint32_t max)
{
    size_t first = input_size * 4 < OUTPUT_MIN ? OUTPUT_MIN : input_size * 4;
    *output = (struct output){.max = max};
    output->blob = blob_try(first < max ? first : max);
    return output->blob != NULL ? STATUS_OK : STATUS_NO_MEMORY;
}

/* Room for at least one more byte. */
static enum status output_grow(struct output *output)
{
    size_t capacity = output->blob->size;
    if (output->size < capacity)
        return STATUS_OK;
    if (capacity >= output->max)
        return STATUS_TOO_LARGE;
    struct blob *grown =
        blob_try_resize(output->blob, capacity > output->max / 2 ? output->max : capacity * 2);
    if (grown == NULL)
        return STATUS_NO_MEMORY;
    output->blob = grown;
    return STATUS_OK;
}

static enum status output_finish(struct output *output, enum status status, struct blob **result)
{
    if (status != STATUS_OK) {
        blob_unref(output->blob);
        return status;
    }
    struct blob *fitting = blob_try_resize(output->blob, output->size);
    *result = fitting != NULL ? fitting : output->blob;
    (*result)->size = (uint32_t)output->size;
    return STATUS_OK;
}

/* One step of a decoder: takes from input, gives to output. When *ended, a frame is complete.
 * MALFORMED also when it wants more input than there is. */
typedef enum status decode_step(void *decoder, struct span *input, struct output *output,
                                bool *ended);

/* Runs steps until the last frame ends with the input. A full output is no end yet: only the
 * decoder knows whether more would come, so it is asked again with room, and TOO_LARGE only if that
 * is refused. */
static enum status decode_all(decode_step *step, void *decoder, struct span input, uint32_t max,
                              struct blob **result)
{
    struct output output;
    enum status status = output_init(&output, input.size, max);
    bool ended = false;
    while (status == STATUS_OK && !(ended && input.size == 0)) {
        size_t left = input.size, made = output.size;
        bool was_full = output.size == output.blob->size;
        status = step(decoder, &input, &output, &ended);
        if (status != STATUS_OK || ended || left != input.size || made != output.size)
            continue;
        status = was_full ? output_grow(&output) : STATUS_MALFORMED;
    }
    return output.blob == NULL ? status : output_finish(&output, status, result);
}

static enum status gzip_step(void *decoder, struct span *input, struct output *output, bool *ended)
{
    z_stream *stream = decoder;
    if (*ended && inflateReset(stream) != Z_OK) /* another member follows */
        return STATUS_INTERNAL;
    stream->next_in = (z_const Bytef *)(uintptr_t)input->data;
    stream->avail_in = (uInt)input->size;
    stream->next_out = output->blob->bytes + output->size;
    stream->avail_out = (uInt)(output->blob->size - output->size);
    int result = inflate(stream, Z_NO_FLUSH);
    *input = span_from(*input, input->size - stream->avail_in);
    output->size = output->blob->size - stream->avail_out;
    *ended = result == Z_STREAM_END;
    if (result == Z_MEM_ERROR)
        return STATUS_NO_MEMORY;
    bool good = result == Z_OK || result == Z_STREAM_END || result == Z_BUF_ERROR;
    return good ? STATUS_OK : STATUS_MALFORMED;
}

static enum status gzip_decompress(struct span input, uint32_t max, struct blob **result)
{
    z_stream stream = {0};
    if (inflateInit2(&stream, GZIP_WINDOW_BITS) != Z_OK)
        return STATUS_NO_MEMORY;
    enum status status = decode_all(gzip_step, &stream, input, max, result);
    inflateEnd(&stream);
    return status;
}

static enum status lz4_step(void *decoder, struct span *input, struct output *output, bool *ended)
{
    size_t made = output->blob->size - output->size, taken = input->size;
    size_t wanted = LZ4F_decompress(decoder, output->blob->bytes + output->size, &made, input->data,
                                    &taken, NULL);
    if (LZ4F_isError(wanted))
        return STATUS_MALFORMED;
    *input = span_from(*input, taken);
    output->size += made;
    *ended = wanted == 0;
    return STATUS_OK;
}

static enum status lz4_decompress(struct span input, uint32_t max, struct blob **result)
{
    LZ4F_dctx *decoder;
    if (LZ4F_isError(LZ4F_createDecompressionContext(&decoder, LZ4F_VERSION)))
        return STATUS_NO_MEMORY;
    enum status status = decode_all(lz4_step, decoder, input, max, result);
    LZ4F_freeDecompressionContext(decoder);
    return status;
}

static enum status zstd_step(void *decoder, struct span *input, struct output *output, bool *ended)
{
    ZSTD_inBuffer in = {.src = input->data, .size = input->size};
    ZSTD_outBuffer out = {
        .dst = output->blob->bytes, .size = output->blob->size, .pos = output->size};
    size_t wanted = ZSTD_decompressStream(decoder, &out, &in);
    if (ZSTD_isError(wanted))
        return STATUS_MALFORMED;
    *input = span_from(*input, in.pos);
    output->size = out.pos;
    *ended = wanted == 0;
    return STATUS_OK;
}

static enum status zstd_decompress(struct span input, uint32_t max, struct blob **result)
{
    ZSTD_DCtx *decoder = ZSTD_createDCtx();
    if (decoder == NULL)
        return STATUS_NO_MEMORY;
    enum status status = decode_all(zstd_step, decoder, input, max, result);
    ZSTD_freeDCtx(decoder);
    return status;
}

/* Snappy's blocks announce their size. No element of three bytes yields more than 64, so that a
 * larger claim is refused before it allocates anything. */
static enum status snappy_block_size(struct span block, size_t *size)
{
    if (snappy_uncompressed_length((const char *)block.data, block.size, size) != SNAPPY_OK ||
        *size / 32 > block.size)
        return STATUS_MALFORMED;
    return STATUS_OK;
}

static enum status snappy_block(struct span block, struct output *output)
{
    size_t size = output->blob->size - output->size;
    char *to = (char *)output->blob->bytes + output->size;
    if (snappy_uncompress((const char *)block.data, block.size, to, &size) != SNAPPY_OK)
        return STATUS_MALFORMED;
    output->size += size;
    return STATUS_OK;
}

/* xerial (snappy-java) framing: a magic, two version numbers, then blocks with a length each. */
static const uint8_t xerial_magic[8] = {0x82, 'S', 'N', 'A', 'P', 'P', 'Y', 0};
enum { XERIAL_HEADER_SIZE = 16 };

static bool xerial_next(struct span *input, struct span *block)
{
    if (input->size < 4)
        return false;
    uint32_t size = load_u32(input->data);
    *input = span_from(*input, 4);
    if (size > input->size)
        return false;
    *block = span_of(input->data, size);
    *input = span_from(*input, size);
    return true;
}

static enum status xerial_size(struct span input, uint32_t max, size_t *total)
{
    struct span block;
    *total = 0;
    while (input.size != 0) {
        size_t size;
        if (!xerial_next(&input, &block) || snappy_block_size(block, &size) != STATUS_OK)
            return STATUS_MALFORMED;
        *total += size;
        if (*total > max)
            return STATUS_TOO_LARGE;
    }
    return STATUS_OK;
}

static enum status snappy_decompress(struct span input, uint32_t max, struct blob **result)
{
    bool framed = input.size >= XERIAL_HEADER_SIZE &&
                  memcmp(input.data, xerial_magic, sizeof xerial_magic) == 0;
    if (framed)
        input = span_from(input, XERIAL_HEADER_SIZE);
    size_t total;
    enum status status =
        framed ? xerial_size(input, max, &total) : snappy_block_size(input, &total);
    if (status != STATUS_OK)
        return status;
    if (total > max)
        return STATUS_TOO_LARGE;
    struct output output = {.blob = blob_try(total), .max = max};
    if (output.blob == NULL)
        return STATUS_NO_MEMORY;
    if (!framed)
        return output_finish(&output, snappy_block(input, &output), result);
    struct span block;
    while (status == STATUS_OK && input.size != 0)
        status = xerial_next(&input, &block) ? snappy_block(block, &output) : STATUS_MALFORMED;
    return output_finish(&output, status, result);
}

enum status decompress(enum batch_compression compression, struct span input, uint32_t max,
                       struct blob **output)
{
    switch (compression) {
    case BATCH_GZIP:
        return gzip_decompress(input, max, output);
    case BATCH_SNAPPY:
        return snappy_decompress(input, max, output);
    case BATCH_LZ4:
        return lz4_decompress(input, max, output);
    case BATCH_ZSTD:
        return zstd_decompress(input, max, output);
    case BATCH_PLAIN:
        break;
    }
    return STATUS_UNSUPPORTED;
}
