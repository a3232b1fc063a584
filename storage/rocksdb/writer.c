/* SPDX-License-Identifier: Apache-2.0 */
/* Writing: takes all appends that wait, puts them into WriteBatches of about a megabyte in the
 * order in which they came, and hands them to the syncer, or completes them when being written is
 * enough. With little to write the syncer does it itself between two syncs (a thread less to wake
 * for every answer); the writer thread works beside a sync when there is much, or when somebody
 * waits only for the write. */
#include "core/base/check.h"
#include "core/base/clock.h"
#include "storage/rocksdb/engine.h"

/* From so many waiting bytes on, the write is worth a thread beside the sync. */
enum { BESIDE_BYTES = 64 * 1024, ROW_BYTES = 64, LOOK_MS = 10000 };

enum append_kind { KIND_APPEND, KIND_TRIM, KIND_MOVE };

struct storage_trim *append_as_trim(struct storage_append *append)
{
    if (append->engine[SLOT_KIND] != KIND_TRIM)
        return NULL;
    return container_of(append, struct storage_trim, append);
}

struct move *append_as_move(struct storage_append *append)
{
    if (append->engine[SLOT_KIND] != KIND_MOVE)
        return NULL;
    return container_of(append, struct move, append);
}

void writer_wake(struct engine *engine)
{
    pthread_mutex_lock(&engine->writer_lock);
    engine->writer_wanted = true;
    pthread_cond_signal(&engine->writer_wake);
    pthread_mutex_unlock(&engine->writer_lock);
}

static size_t append_bytes(const struct storage_append *append)
{
    size_t bytes = append->row_count * ROW_BYTES;
    for (uint32_t i = 0; i < append->batch_count; i++)
        bytes += append->batches[i].bytes->size;
    return bytes;
}

/* Somebody waits for no sync. */
static bool is_urgent(const struct storage_append *append)
{
    bool urgent = append->batch_count == 0 && append->durability == DURABLE_INTERVAL;
    for (uint32_t i = 0; i < append->batch_count; i++)
        urgent |= append->batches[i].durability == DURABLE_INTERVAL;
    return urgent;
}

static void post(struct engine *engine, struct storage_append *append, enum append_kind kind)
{
    append->engine[SLOT_KIND] = kind;
    append->engine[SLOT_TICKET] = 0;
    bool urgent = is_urgent(append);
    size_t bytes = append_bytes(append);
    struct storage_append *first = atomic_load_explicit(&engine->posted, memory_order_relaxed);
    do
        append->next = first;
    while (!atomic_compare_exchange_weak(&engine->posted, &first, append));
    size_t before = atomic_fetch_add_explicit(&engine->posted_bytes, bytes, memory_order_relaxed);
    /* From here on the append is not ours any more. Either the syncer sees it before it sleeps, or
     * we see that it may sleep. */
    if (!atomic_load(&engine->sync_busy)) {
        if (first == NULL)
            syncer_wake(engine);
    } else if (urgent || (before < BESIDE_BYTES && before + bytes >= BESIDE_BYTES)) {
        writer_wake(engine);
    }
}

void engine_append(struct storage *storage, struct storage_append *append)
{
    post(engine_of(storage), append, KIND_APPEND);
}

void engine_trim(struct storage *storage, struct storage_trim *trim)
{
    trim->append.unit = 0;
    trim->append.batch_count = trim->append.row_count = 0;
    post(engine_of(storage), &trim->append, KIND_TRIM);
}

void writer_move(struct engine *engine, struct move *move)
{
    post(engine, &move->append, KIND_MOVE);
}

/* Oldest first. */
static struct storage_append *take_posted(struct engine *engine)
{
    atomic_store_explicit(&engine->posted_bytes, 0, memory_order_relaxed);
    struct storage_append *stack =
        atomic_exchange_explicit(&engine->posted, NULL, memory_order_acquire);
    struct storage_append *first = NULL;
    while (stack != NULL) {
        struct storage_append *next = stack->next;
        stack->next = first;
        first = stack;
        stack = next;
    }
    return first;
}

static enum status admit(struct engine *engine, const struct chain *chain)
{
    if (engine_has_failed(engine))
        return STATUS_STORAGE_FAILED;
    for (struct storage_append *part = chain->head; part != NULL; part = part->next)
        if (part->unit != 0 && part->refused != STATUS_OK)
            return part->refused;
    enum space space = engine_space(engine);
    for (struct storage_append *part = chain->head; part != NULL; part = part->next) {
        if (append_as_trim(part) != NULL)
            continue;
        /* A move needs space to make space. */
        if (space == SPACE_NONE || (space == SPACE_ROWS_ONLY && part->batch_count > 0))
            return STATUS_NO_SPACE;
        for (uint32_t i = 0; i < part->batch_count; i++) {
            const struct storage_batch *batch = &part->batches[i];
            const struct partition *partition =
                index_find(&engine->index, batch->partition, batch->class);
            if (partition != NULL && partition->removed)
                return STATUS_NOT_FOUND;
        }
    }
    return STATUS_OK;
}

/* Whatever follows in these partitions completes behind this append. */
static void give_ticket(struct engine *engine, struct storage_append *append)
{
    append->engine[SLOT_TICKET] = ++engine->ticket;
    for (uint32_t i = 0; i < append->batch_count; i++) {
        const struct storage_batch *batch = &append->batches[i];
        struct partition *partition = index_find(&engine->index, batch->partition, batch->class);
        if (partition != NULL)
            partition->last_ticket = engine->ticket;
    }
}

static void complete_unsynced(struct engine *engine, struct chain *direct, struct chain *listed)
{
    if (direct->head == NULL)
        return;
    bool kept = log_begin(engine);
    if (kept) {
        char *problem = NULL;
        rocksdb_flush_wal(engine->db, 0, &problem); /* to the page cache: kill -9 keeps it */
        kept = log_end(engine, "write of the log", problem);
    }
    if (kept) {
        chain_complete(engine, direct);
        return;
    }
    for (struct storage_append *part = direct->head; part != NULL; part = part->next) {
        part->request.status = STATUS_STORAGE_FAILED;
        give_ticket(engine, part);
    }
    chain_join(listed, direct);
}

static void group_write(struct engine *engine)
{
    bool wrote = batch_bytes(engine) > 0, written = true;
    if (wrote) {
        drop_rows(engine);
        written = batch_write(engine);
    }
    for (struct storage_append *part = engine->group.head; part != NULL; part = part->next) {
        const struct move *move = append_as_move(part);
        if (move != NULL && written && part->request.status == STATUS_OK)
            evacuate_apply(engine, move);
    }
    struct chain direct = {0}, listed = {0}, group = engine->group;
    engine->group = (struct chain){0};
    for (struct storage_append *part = group.head, *next; part != NULL; part = next) {
        next = part->next;
        if (!written && part->request.status == STATUS_OK) {
            part->request.status = STATUS_STORAGE_FAILED;
            give_ticket(engine, part);
        }
        chain_push(part->engine[SLOT_TICKET] != 0 ? &listed : &direct, part);
    }
    complete_unsynced(engine, &direct, &listed);
    syncer_push(engine, &listed, wrote);
    if (wrote && written)
        roll_due(engine);
}

static bool looks_at_rows(const struct chain *chain)
{
    for (const struct storage_append *part = chain->head; part != NULL; part = part->next)
        for (uint32_t i = 0; i < part->row_count; i++)
            if (part->rows[i].change == STORAGE_DELETE_WHEN)
                return true;
    return false;
}

/* All parts of a unit, or one append: together into the group, or together refused. */
static void chain_add(struct engine *engine, struct chain *chain)
{
    if (looks_at_rows(chain) && engine->group.head != NULL)
        group_write(engine);
    enum status refusal = admit(engine, chain);
    bool listed = refusal != STATUS_OK;
    int64_t wall_ms = clock_wall_ms();
    for (struct storage_append *part = chain->head; part != NULL; part = part->next) {
        struct storage_trim *trim = append_as_trim(part);
        struct move *move = append_as_move(part);
        part->request.status = refusal;
        if (refusal != STATUS_OK)
            continue;
        if (trim != NULL)
            batch_add_trim(engine, trim);
        else if (move != NULL)
            batch_add_move(engine, move);
        else
            listed |= batch_add_append(engine, part, wall_ms);
        listed |= trim != NULL || move != NULL;
    }
    for (struct storage_append *part = chain->head; listed && part != NULL; part = part->next)
        give_ticket(engine, part);
    chain_join(&engine->group, chain);
    if (batch_bytes(engine) >= WRITE_BYTES)
        group_write(engine);
}

static void chain_fill(struct chain *chain, struct storage_append *first)
{
    for (struct storage_append *part = first, *next; part != NULL; part = next) {
        next = part->next;
        chain_push(chain, part);
    }
}

static void process(struct engine *engine, struct storage_append *first)
{
    for (struct storage_append *append = first, *next; append != NULL; append = next) {
        next = append->next;
        struct chain chain = {0};
        if (append->unit != 0)
            chain_fill(&chain, units_add(&engine->units, append));
        else
            chain_push(&chain, append);
        if (chain.head != NULL)
            chain_add(engine, &chain);
    }
    if (engine_has_failed(engine) && units_wait(&engine->units)) {
        struct chain waiting = {0};
        chain_fill(&waiting, units_take(&engine->units));
        chain_add(engine, &waiting);
    }
    if (engine->group.head != NULL)
        group_write(engine);
}

void write_posted(struct engine *engine)
{
    pthread_mutex_lock(&engine->write_lock);
    process(engine, take_posted(engine));
    if (!engine_has_failed(engine))
        roll_due(engine);
    pthread_mutex_unlock(&engine->write_lock);
}

/* When the writer has to look again though nobody wakes it: the age of a segment, or a failure that
 * ends the waiting units. */
static uint64_t look_again_ms(struct engine *engine)
{
    uint64_t latest_ms = now_ms() + LOOK_MS;
    pthread_mutex_lock(&engine->write_lock);
    uint64_t roll_ms = roll_next_ms(engine);
    if (engine_has_failed(engine) && units_wait(&engine->units))
        roll_ms = 0;
    pthread_mutex_unlock(&engine->write_lock);
    return roll_ms < latest_ms ? roll_ms : latest_ms;
}

/* Until woken, or until it is time to look. */
static bool wait_for_work(struct engine *engine)
{
    uint64_t look_ms = look_again_ms(engine);
    pthread_mutex_lock(&engine->writer_lock);
    bool late = false;
    while (!engine->writer_stop && !late && !engine->writer_wanted) {
        struct timespec deadline = deadline_of(look_ms);
        late = now_ms() >= look_ms ||
               pthread_cond_timedwait(&engine->writer_wake, &engine->writer_lock, &deadline) != 0;
    }
    engine->writer_wanted = false;
    bool go_on = !engine->writer_stop;
    pthread_mutex_unlock(&engine->writer_lock);
    return go_on;
}

static void *writer_run(void *context)
{
    struct engine *engine = context;
    while (wait_for_work(engine))
        write_posted(engine);
    return NULL;
}

void writer_start(struct engine *engine)
{
    CHECK(pthread_create(&engine->writer, NULL, writer_run, engine) == 0);
    pthread_setname_np(engine->writer, "store-writer");
}

void writer_stop(struct engine *engine)
{
    pthread_mutex_lock(&engine->writer_lock);
    engine->writer_stop = true;
    pthread_cond_signal(&engine->writer_wake);
    pthread_mutex_unlock(&engine->writer_lock);
    pthread_join(engine->writer, NULL);
}
