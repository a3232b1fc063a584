/* SPDX-License-Identifier: Apache-2.0 */
/* Places of shapes, their rows, and ids made with them. */
#include "core/broker/filter_shapes.h"

#include "core/base/heap.h"
#include "core/base/pack.h"
#include "core/base/reader.h"
#include "core/base/rng.h"
#include "core/broker/worker.h"
#include "core/log/table.h"

/* What rows of TABLE_FILTER_META are of: the key; a place; a shape that stays, as they were once.
 */
enum { KEY_ROW = 'k', PLACE_ROW = 'n', SHAPE_ROW = 's' };
enum {
    ROW_VERSION = 1,
    PLACE_VALUE = 1 + FILTER_SHAPE_BYTES + 8,
    SHAPE_OWNER = 8, /* what a shape's own row says, or nothing */
    NO_PLACE = LIMIT_FILTER_SHAPES
};
static const uint64_t ID_HASH = (1ULL << FILTER_PLACE_SHIFT) - 1;

static uint64_t bit(unsigned place)
{
    return 1ULL << place;
}

static bool shape_is(const struct filter_shape *a, const struct filter_shape *b)
{
    return a->levels == b->levels && a->rest == b->rest &&
           memcmp(a->plus, b->plus, sizeof a->plus) == 0;
}

/* It stands for filters that find no place: nobody's, and never forgotten. */
static bool is_broad(const struct filter_shape *shape)
{
    return shape->rest && shape->levels <= 1 && (shape->plus[0] & 1) == 0;
}

static struct filter_shape shape_of(struct span filter)
{
    struct filter_shape shape = {0};
    size_t at = 0;
    while (at <= filter.size) {
        const uint8_t *slash = memchr(filter.data + at, '/', filter.size - at);
        size_t size = (slash == NULL ? filter.size : (size_t)(slash - filter.data)) - at;
        uint8_t first = size == 1 ? filter.data[at] : 0;
        if (first == '#') {
            shape.rest = true;
            break;
        }
        if (first == '+')
            shape.plus[shape.levels / 64] |= 1ULL << shape.levels % 64;
        shape.levels++;
        at += size + 1;
    }
    return shape;
}

void filter_shapes_init(struct filter_shapes *shapes)
{
    *shapes = (struct filter_shapes){0};
    CHECK(pthread_mutex_init(&shapes->lock, NULL) == 0);
}

void filter_shapes_deinit(struct filter_shapes *shapes)
{
    pthread_mutex_destroy(&shapes->lock);
}

/* Before the first id, and before anybody can look for one. */
static void key_draw(struct filter_shapes *shapes)
{
    pthread_mutex_lock(&shapes->lock);
    if (shapes->key.k0 == 0 && shapes->key.k1 == 0)
        shapes->key = (struct hash_key){.k0 = rng_u64(), .k1 = rng_u64()};
    pthread_mutex_unlock(&shapes->lock);
}

/* ------------------------------------------------ places, with the lock */

static uint64_t used_places(struct filter_shapes *shapes)
{
    return atomic_load_explicit(&shapes->used, memory_order_relaxed);
}

static void use(struct filter_shapes *shapes, unsigned place, const struct filter_shape *shape)
{
    shapes->items[place] = *shape;
    shapes->pins[place] = 0;
    atomic_store_explicit(&shapes->used, used_places(shapes) | bit(place), memory_order_release);
}

static unsigned find(struct filter_shapes *shapes, const struct filter_shape *shape, unsigned *own)
{
    unsigned found = NO_PLACE;
    *own = 0;
    for (uint64_t left = used_places(shapes); left != 0; left &= left - 1) {
        unsigned place = (unsigned)__builtin_ctzll(left);
        const struct filter_shape *item = &shapes->items[place];
        *own += shape->owner != 0 && item->owner == shape->owner;
        if (shape_is(item, shape))
            found = place;
    }
    return found;
}

/* Where a shape is, or is now; NO_PLACE: there is no room for another one, or not for one more of
 * this owner. */
static unsigned place_of(struct filter_shapes *shapes, const struct filter_shape *shape,
                         unsigned limit, unsigned share)
{
    unsigned own, place = find(shapes, shape, &own);
    if (place != NO_PLACE)
        return place;
    uint64_t taken = used_places(shapes) | shapes->leaving;
    if ((unsigned)__builtin_popcountll(taken) >= limit || own >= share) {
        shapes->crowded = true;
        return NO_PLACE;
    }
    place = (unsigned)__builtin_ctzll(~taken);
    use(shapes, place, shape);
    return place;
}

static void pin(struct filter_shapes *shapes, unsigned place, uint64_t *pins)
{
    shapes->asked[place]++;
    if ((*pins & bit(place)) == 0)
        shapes->pins[place]++;
    *pins |= bit(place);
}

static unsigned pin_place_of(struct filter_shapes *shapes, const struct filter_shape *shape,
                             unsigned limit, unsigned share, uint64_t *pins)
{
    pthread_mutex_lock(&shapes->lock);
    unsigned place = place_of(shapes, shape, limit, share);
    if (place != NO_PLACE)
        pin(shapes, place, pins);
    pthread_mutex_unlock(&shapes->lock);
    return place;
}

void filter_shapes_unpin(struct filter_shapes *shapes, uint64_t places)
{
    pthread_mutex_lock(&shapes->lock);
    for (; places != 0; places &= places - 1)
        shapes->pins[__builtin_ctzll(places)]--;
    pthread_mutex_unlock(&shapes->lock);
}

void filter_shapes_stored(struct filter_shapes *shapes, uint64_t places)
{
    pthread_mutex_lock(&shapes->lock);
    shapes->stored |= places;
    pthread_mutex_unlock(&shapes->lock);
}

/* ------------------------------------------------ forgetting */

unsigned filter_shapes_next(struct filter_shapes *shapes, unsigned place, uint32_t *asked)
{
    unsigned next = NO_PLACE;
    pthread_mutex_lock(&shapes->lock);
    for (unsigned i = 1; i <= LIMIT_FILTER_SHAPES && next == NO_PLACE; i++) {
        unsigned at = (place + i) % LIMIT_FILTER_SHAPES;
        const struct filter_shape *item = &shapes->items[at];
        if ((used_places(shapes) & bit(at)) != 0 && !item->for_ever && !is_broad(item) &&
            shapes->pins[at] == 0)
            next = at;
    }
    if (next != NO_PLACE)
        *asked = shapes->asked[next];
    pthread_mutex_unlock(&shapes->lock);
    return next;
}

bool filter_shapes_crowded(struct filter_shapes *shapes)
{
    pthread_mutex_lock(&shapes->lock);
    bool crowded = shapes->crowded;
    shapes->crowded = false;
    pthread_mutex_unlock(&shapes->lock);
    return crowded;
}

bool filter_shapes_drop(struct filter_shapes *shapes, unsigned place, uint32_t asked)
{
    pthread_mutex_lock(&shapes->lock);
    bool unwanted = shapes->pins[place] == 0 && shapes->asked[place] == asked;
    if (unwanted) {
        shapes->leaving |= bit(place);
        shapes->stored &= ~bit(place);
        atomic_store_explicit(&shapes->used, used_places(shapes) & ~bit(place),
                              memory_order_release);
    }
    pthread_mutex_unlock(&shapes->lock);
    return unwanted;
}

void filter_shapes_free_place(struct filter_shapes *shapes, unsigned place)
{
    pthread_mutex_lock(&shapes->lock);
    CHECK((shapes->leaving & bit(place)) != 0);
    shapes->leaving &= ~bit(place);
    pthread_mutex_unlock(&shapes->lock);
}

/* ------------------------------------------------ rows */

static void shape_encode(const struct filter_shape *shape, uint8_t to[FILTER_SHAPE_BYTES])
{
    to[0] = shape->levels;
    to[1] = shape->rest;
    for (unsigned i = 0; i < LIMIT_TOPIC_LEVELS / 64; i++)
        store_u64(to + 2 + i * 8, shape->plus[i]);
}

static bool shape_decode(struct reader *reader, struct filter_shape *shape)
{
    *shape = (struct filter_shape){.levels = reader_u8(reader), .rest = reader_u8(reader) != 0};
    for (unsigned i = 0; i < LIMIT_TOPIC_LEVELS / 64; i++)
        shape->plus[i] = reader_u64(reader);
    return !reader->failed && shape->levels <= LIMIT_TOPIC_LEVELS;
}

static enum status load_place(struct filter_shapes *shapes, struct span key, struct span value)
{
    struct filter_shape shape;
    struct reader reader = reader_of(value);
    unsigned own;
    if (reader_u8(&reader) != ROW_VERSION)
        return STATUS_UNSUPPORTED;
    if (key.size != FILTER_PLACE_KEY || key.data[2] >= LIMIT_FILTER_SHAPES ||
        !shape_decode(&reader, &shape))
        return STATUS_CORRUPT;
    shape.owner = reader_u64(&reader);
    if (reader.failed || find(shapes, &shape, &own) != NO_PLACE)
        return STATUS_CORRUPT;
    use(shapes, key.data[2], &shape);
    shapes->stored |= bit(key.data[2]);
    return STATUS_OK;
}

/* They come behind those with places: keys are in order. */
static enum status load_shape(struct filter_shapes *shapes, struct span key, struct span value)
{
    struct filter_shape shape;
    struct reader reader = reader_of(span_from(key, 2));
    if (!shape_decode(&reader, &shape))
        return STATUS_CORRUPT;
    if (value.size == SHAPE_OWNER) /* rows were without it once */
        shape.owner = load_u64(value.data);
    shape.for_ever = true;
    unsigned place = place_of(shapes, &shape, LIMIT_FILTER_SHAPES, LIMIT_FILTER_SHAPES);
    if (place == NO_PLACE)
        return STATUS_CORRUPT;
    shapes->stored |= bit(place);
    return STATUS_OK;
}

enum status filter_shapes_load(struct filter_shapes *shapes, struct span key, struct span value)
{
    struct reader at = reader_of(value);
    switch (key.size < 2 ? 0 : key.data[1]) {
    case KEY_ROW:
        shapes->key.k0 = reader_u64(&at);
        shapes->key.k1 = reader_u64(&at);
        return at.failed ? STATUS_CORRUPT : STATUS_OK;
    case PLACE_ROW:
        return load_place(shapes, key, value);
    case SHAPE_ROW:
        return load_shape(shapes, key, value);
    default:
        return STATUS_UNSUPPORTED;
    }
}

uint32_t filter_shapes_rows(struct filter_shapes *shapes, uint64_t places, struct storage_row *rows,
                            uint8_t **memory)
{
    enum { EACH = FILTER_PLACE_KEY + PLACE_VALUE, KEY_BYTES = 32 };
    key_draw(shapes);
    uint8_t *at = *memory = heap_new(KEY_BYTES + LIMIT_FILTER_SHAPES * EACH);
    uint32_t used = 0;
    at[0] = TABLE_FILTER_META;
    at[1] = KEY_ROW;
    store_u64(at + 8, shapes->key.k0);
    store_u64(at + 16, shapes->key.k1);
    rows[used++] =
        (struct storage_row){.key = span_of(at, 2), .value = span_of(at + 8, 16), .offset_at = -1};
    at += KEY_BYTES;
    pthread_mutex_lock(&shapes->lock);
    for (uint64_t left = places & ~shapes->stored; left != 0; left &= left - 1, at += EACH) {
        unsigned place = (unsigned)__builtin_ctzll(left);
        filter_place_key(place, at);
        uint8_t *value = at + FILTER_PLACE_KEY;
        value[0] = ROW_VERSION;
        shape_encode(&shapes->items[place], value + 1);
        store_u64(value + 1 + FILTER_SHAPE_BYTES, shapes->items[place].owner);
        rows[used++] = (struct storage_row){.key = span_of(at, FILTER_PLACE_KEY),
                                            .value = span_of(value, PLACE_VALUE),
                                            .offset_at = -1};
    }
    pthread_mutex_unlock(&shapes->lock);
    return used;
}

void filter_place_key(unsigned place, uint8_t key[FILTER_PLACE_KEY])
{
    key[0] = TABLE_FILTER_META;
    key[1] = PLACE_ROW;
    key[2] = (uint8_t)place;
}

/* ------------------------------------------------ ids */

uint64_t filter_shape_id(const struct filter_shapes *shapes, unsigned place, struct span text)
{
    uint64_t hash = hash_keyed(&shapes->key, text);
    if (shapes->items[place].for_ever)
        return hash == 0 ? 1 : hash;
    hash &= ID_HASH;
    return (uint64_t)place << FILTER_PLACE_SHIFT | (hash == 0 ? 1 : hash);
}

static void text_begin(struct buf *text, uint64_t tenant)
{
    buf_clear(text);
    CHECK(buf_append(text, &tenant, sizeof tenant) == STATUS_OK);
}

/* The last two places are kept for what is broad enough to stand for any filter: '#', and for names
 * out of its reach '$name/#'. */
uint64_t filter_index_id(struct broker *broker, uint64_t tenant, uint64_t owner, struct span filter,
                         uint64_t *pins)
{
    struct filter_shapes *shapes = &broker->shapes;
    struct filter_shape shape = shape_of(filter);
    shape.owner = is_broad(&shape) ? 0 : owner;
    key_draw(shapes);
    struct buf text;
    buf_init(&text, sizeof tenant + LIMIT_TOPIC_BYTES + 2); /* "$name/#" for "$name" */
    text_begin(&text, tenant);
    unsigned place =
        pin_place_of(shapes, &shape, LIMIT_FILTER_SHAPES - 2, LIMIT_FILTER_SHAPES / 2 - 1, pins);
    if (place != NO_PLACE) {
        CHECK(buf_append(&text, filter.data, filter.size) == STATUS_OK);
    } else if (filter.data[0] == '$') {
        const uint8_t *slash = memchr(filter.data, '/', filter.size);
        size_t size = slash == NULL ? filter.size : (size_t)(slash - filter.data);
        shape = (struct filter_shape){.levels = 1, .rest = true};
        CHECK(buf_append(&text, filter.data, size) == STATUS_OK);
        CHECK(buf_append_text(&text, "/#") == STATUS_OK);
    } else {
        shape = (struct filter_shape){.rest = true};
        CHECK(buf_append_text(&text, "#") == STATUS_OK);
    }
    if (place == NO_PLACE)
        place = pin_place_of(shapes, &shape, LIMIT_FILTER_SHAPES, LIMIT_FILTER_SHAPES, pins);
    CHECK(place != NO_PLACE);
    uint64_t id = filter_shape_id(shapes, place, buf_span(&text));
    buf_deinit(&text);
    return id;
}

bool filter_index_is_own(struct broker *broker, uint64_t tenant, struct span filter, uint64_t id)
{
    struct buf text;
    buf_init(&text, sizeof tenant + LIMIT_TOPIC_BYTES);
    text_begin(&text, tenant);
    CHECK(buf_append(&text, filter.data, filter.size) == STATUS_OK);
    uint64_t hash = hash_keyed(&broker->shapes.key, buf_span(&text));
    buf_deinit(&text);
    return ((id ^ hash) & ID_HASH) == 0;
}

uint64_t filter_share_id(struct broker *broker, struct span key)
{
    key_draw(&broker->shapes);
    uint64_t id = hash_keyed(&broker->shapes.key, key);
    return id == 0 || id == UINT64_MAX ? 1 : id;
}
