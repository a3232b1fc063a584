/* SPDX-License-Identifier: Apache-2.0 */
/* The workers as the main thread sees them: it gives one of them an errand and waits for its end,
 * and meanwhile hears signals. All calls on the main thread unless a line says otherwise. */
#ifndef GATEWAY_CREW_H
#define GATEWAY_CREW_H

#include "core/base/limits.h"
#include "core/net/request.h"
#include "core/net/worker.h"

struct crew {
    unsigned count;
    struct worker *workers[LIMIT_WORKERS];
    struct loop *loops[LIMIT_WORKERS];
    int wake_fd;
    int signal_fd; /* -1: signals are not listened to */
    bool stop_asked, reload_asked;
};

/* Makes count workers, not started. With signals, SIGTERM, SIGINT and SIGHUP are blocked in this
 * thread and every later one, and are heard by the waits below. */
enum status crew_open(struct crew *crew, unsigned count, bool signals, struct err *err);
void crew_start(struct crew *crew);
void crew_stop(struct crew *crew);  /* the loops have ended when it returns; harmless twice */
void crew_close(struct crew *crew); /* after crew_stop; frees loops */

/* Something to do on a worker's loop. It lives until it has ended. */
struct errand {
    struct mail mail;
    struct request request; /* for run(): ends the errand when it completes; home is the loop */
    struct crew *crew;
    struct loop *loop;
    void (*run)(struct errand *errand); /* on the loop; ends the errand now or later */
    enum status status;
    struct err err;
    atomic_bool ended;
};
void errand_init(struct errand *errand, struct crew *crew, unsigned worker,
                 void (*run)(struct errand *));
void errand_end(struct errand *errand, enum status status); /* any thread; the last touch */

/* Starts it, waits, and returns its status. CANCELED when patient is false and a stop was asked for
 * meanwhile: then the errand is still on its way. */
enum status errand_do(struct errand *errand, bool patient);
/* Waits for a signal; on return stop_asked or reload_asked is set. */
void crew_wait_for_signal(struct crew *crew);

#endif
