/* SPDX-License-Identifier: Apache-2.0 */
/* The whole gateway in one thread under a seed: virtual time, loops that take turns in a drawn
 * order, a network that cuts and delays bytes, a disk that forgets what was not synced when the
 * process "crashes". */
#ifndef TESTS_SIM_SIM_H
#define TESTS_SIM_SIM_H

#include <stdbool.h>
#include <stdint.h>

#include "core/net/loop.h"
#include "core/net/stream.h"
#include "storage/storage.h"

/* sim_loop.c: time and turns. One world loop carries what is outside of the gateway (disk, network,
 * peers). */
void sim_begin(uint64_t seed);
struct loop *sim_world(void);
uint64_t sim_below(uint64_t bound); /* drawn from the seed */
bool sim_chance(unsigned percent);
uint64_t sim_now_ms(void);
/* Runs until predicate is true or virtual ms have passed; true when the predicate was. */
bool sim_run(bool (*predicate)(void *context), void *context, uint64_t ms);
/* Forgets every loop but the world's, with their mails and timers: what kill -9 does. */
void sim_forget_loops(void);
/* After that many ms of virtual time: once, on the world loop. */
void sim_after(uint64_t delay_ms, void (*run)(void *context), void *context);

/* Runs once, in a turn of that loop; dropped when the loop is forgotten. */
void sim_on(struct loop *loop, void (*run)(void *context), void *context);

/* sim_disk.c: a store over the memory engine that applies and syncs at times of its own. */
struct sim_disk;
struct sim_disk *sim_disk_new(void);
void sim_disk_free(struct sim_disk *disk);
extern const struct storage_ops sim_storage_ops; /* open() takes the disk from sim_disk_use */
void sim_disk_use(struct sim_disk *disk);
/* Power is cut: keeps what was synced and a drawn number of appends after it, in order. Everything
 * that was asked and not answered stays unanswered. */
void sim_disk_crash(struct sim_disk *disk);
/* Nothing that begins from now on ends within that time. */
void sim_disk_stand(struct sim_disk *disk, uint64_t ms);
/* Virtual time, but for how long that in use has stood still, and then had to write what was asked
 * meanwhile: bounds on what has to be stored first are of this. */
uint64_t sim_disk_now_ms(void);
bool sim_disk_stands(void); /* likewise; who sends without waiting for answers sends less then */
/* The next sync fails, for good. */
void sim_disk_fail_sync(struct sim_disk *disk);
bool sim_disk_has_failed(void);     /* that in use; or its next sync will */
uint64_t sim_disk_failed_for(void); /* ms; 0: it works, or fails just now */
uint64_t sim_disk_syncs(const struct sim_disk *disk);

/* sim_net.c: connections between a scripted peer and a stream of the gateway. */
struct sim_peer {
    void (*received)(struct sim_peer *peer, struct span bytes); /* on the world loop */
    void (*closed)(struct sim_peer *peer); /* once; the peer's memory is its own again */
    struct sim_wire_ends *shared;          /* NULL when not connected */
    /* In closed(): who has ended it; a gateway that is not there has crashed. */
    enum sim_ended { SIM_ENDED_ITSELF, SIM_ENDED_BY_GATEWAY, SIM_ENDED_BY_CRASH } ended;
};
/* Makes a stream on loop whose other end is peer. */
struct stream *sim_connect(struct loop *loop, struct sim_peer *peer);
void sim_send(struct sim_peer *peer, struct span bytes); /* arrives later, in pieces */
/* At once, without a goodbye; true: the gateway reads everything that was sent before. */
bool sim_disconnect(struct sim_peer *peer);
/* Likewise, but the gateway learns of it only after that time, and takes what was on its way. */
void sim_vanish(struct sim_peer *peer, uint64_t after_ms);
/* Has the gateway not closed its end? */
bool sim_is_open(const struct sim_peer *peer);
/* All wires are cut without telling the gateway's side, which has gone: peers get closed(). */
void sim_cut_all(void);

#endif
