/* What the agent has others do: processes that load a model, and may die of it alone.
 *
 * The agent itself never gives a model to onnxruntime. It starts its own program again: `trial` proves a
 * candidate and ends, `serve` answers applications. Both say what they have to say in one structure, over
 * a pipe, and end with the agent.
 */
#ifndef WORKERS_H
#define WORKERS_H

#include <sys/types.h>

#include "journal.h"

enum { WORKER_PIPE = 3 };

enum verdict {
    VERDICT_NONE, /* not yet, or it died before */
    VERDICT_OK,
    VERDICT_REJECTED, /* the model's fault */
    VERDICT_FAILED,   /* the world's: it may be tried again */
};

/* What a worker says. */
struct finding {
    uint32_t verdict;
    char code[CODE_MAX + 1], detail[DETAIL_MAX + 1];
    uint32_t passed, total, runs;
    double load_ms, p50_us, p95_us, largest_difference;
    uint64_t rss_bytes;
};

/* A worker that runs, or none: process 0. */
struct worker {
    pid_t process;
    int pipe;
    uint8_t slot;
    uint64_t deadline_ms; /* for what it has to say; 0: it has said it */
};

/* Start one. `state` is the folder's path. False: no process can be had. */
bool worker_start(struct worker *worker, const char *kind, const char *state, const char *model,
                  uint8_t slot, const struct release *release, const char *socket);

/* Look whether it has said something; VERDICT_NONE: not yet. One that died, or is late, has failed. */
enum verdict worker_look(struct worker *worker, struct finding *finding);

/* Say whether it has ended. */
bool worker_has_ended(struct worker *worker);

/* Have it end: in good order, or at once. */
void worker_stop(struct worker *worker);
void worker_kill(struct worker *worker);

/* The workers themselves; they return the exit code. */
int trial_main(const char *state, const char *model, uint8_t slot, const struct release *release);
int serve_main(const char *state, const char *model, uint8_t slot, const struct release *release,
               const char *socket);

/* Say it to the agent. */
void worker_say(const struct finding *finding);

/* Return milliseconds of a clock that only grows. */
uint64_t clock_ms(void);

#endif
