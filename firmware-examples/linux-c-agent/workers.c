#include "workers.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "text.h"

enum { WORKER_MS_MAX = 120000, STOP_MS_MAX = 5000 };

uint64_t clock_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* In the new process: the pipe becomes number 3, nothing else is kept open (the broker would take a
 * connection for alive), and the agent's death is its own. */
static _Noreturn void become(int pipe, pid_t agent, char *const arguments[])
{
    int kept = fcntl(pipe, F_DUPFD, WORKER_PIPE + 1); /* without close-on-exec */
    if (kept < 0 || dup2(kept, WORKER_PIPE) < 0 || prctl(PR_SET_PDEATHSIG, SIGKILL) != 0 ||
        getppid() != agent || close_range(WORKER_PIPE + 1, ~0U, 0) != 0)
        _exit(1);
    execv("/proc/self/exe", arguments);
    _exit(1);
}

bool worker_start(struct worker *worker, const char *kind, const char *state, const char *model,
                  uint8_t slot, const struct release *release, const char *socket)
{
    char digest[2 * DIGEST_BYTES + 1], number[2] = {(char)('0' + slot), '\0'};
    struct text text = text_in(digest, sizeof digest);
    int ends[2];
    text_add_hex(&text, release->manifest, DIGEST_BYTES);
    char *arguments[] = {"edgectl-c-agent", (char *)kind,
                         (char *)state,     (char *)model,
                         number,            digest,
                         (char *)release->version, (char *)release->variant,
                         (char *)socket,    NULL};
    if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0)
        return false;
    pid_t agent = getpid(), process = fork();
    if (process == 0)
        become(ends[1], agent, arguments);
    close(ends[1]);
    if (process < 0) {
        close(ends[0]);
        return false;
    }
    *worker = (struct worker){
        .process = process, .pipe = ends[0], .slot = slot, .deadline_ms = clock_ms() + WORKER_MS_MAX};
    return true;
}

bool worker_has_ended(struct worker *worker)
{
    int status;
    if (worker->process == 0)
        return true;
    if (waitpid(worker->process, &status, WNOHANG) != worker->process)
        return false;
    close(worker->pipe);
    worker->process = 0;
    return true;
}

void worker_kill(struct worker *worker)
{
    if (worker->process == 0)
        return;
    kill(worker->process, SIGKILL);
    waitpid(worker->process, NULL, 0);
    close(worker->pipe);
    worker->process = 0;
}

void worker_stop(struct worker *worker)
{
    if (worker->process == 0)
        return;
    kill(worker->process, SIGTERM);
    for (uint64_t end = clock_ms() + STOP_MS_MAX; clock_ms() < end && !worker_has_ended(worker);)
        poll(NULL, 0, 10);
    worker_kill(worker);
}

static enum verdict has_failed(struct finding *finding, enum verdict verdict, const char *code,
                               const char *detail)
{
    *finding = (struct finding){.verdict = verdict};
    snprintf(finding->code, sizeof finding->code, "%s", code);
    snprintf(finding->detail, sizeof finding->detail, "%s", detail);
    return verdict;
}

enum verdict worker_look(struct worker *worker, struct finding *finding)
{
    struct finding said;
    ssize_t length = read(worker->pipe, &said, sizeof said); /* of a pipe: whole, or not at all */
    if (length == (ssize_t)sizeof said) {
        worker->deadline_ms = 0;
        said.code[CODE_MAX] = said.detail[DETAIL_MAX] = '\0';
        *finding = said;
        return (enum verdict)said.verdict;
    }
    if (length == 0 || (length < 0 && errno != EAGAIN && errno != EINTR)) {
        worker_kill(worker);
        return has_failed(finding, VERDICT_REJECTED, "trial.crashed",
                          "the process that had loaded it has died");
    }
    if (worker->deadline_ms != 0 && clock_ms() > worker->deadline_ms) {
        worker_kill(worker);
        return has_failed(finding, VERDICT_REJECTED, "trial.timeout",
                          "it took longer than two minutes");
    }
    return VERDICT_NONE;
}

void worker_say(const struct finding *finding)
{
    if (write(WORKER_PIPE, finding, sizeof *finding) != (ssize_t)sizeof *finding)
        _exit(1); /* nobody listens any more */
}
