/* The process that answers applications with one model, until it is told to end. */
#include "serve.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "bytes.h"
#include "candidate.h"

enum { CLIENTS_MAX = 16, PATIENCE_S = 2, LOOK_MS = 200, DESCRIPTION_MAX = 8192 };

static struct {
    struct candidate candidate;
    const struct release *release;
    uint8_t *request, *answer;
    struct pollfd polled[1 + CLIENTS_MAX]; /* the first one listens */
    nfds_t count;
} server;

static volatile sig_atomic_t ends;

static void on_end(int number)
{
    (void)number;
    ends = 1;
}

/* ---------------------------------------------------------------- bytes of a client */

static bool take(int client, uint8_t *bytes, size_t length)
{
    while (length > 0) {
        ssize_t more = recv(client, bytes, length, 0);
        if (more < 0 && errno == EINTR)
            continue;
        if (more <= 0)
            return false;
        bytes += more;
        length -= (size_t)more;
    }
    return true;
}

static bool give(int client, const void *bytes, size_t length)
{
    const uint8_t *at = bytes;
    while (length > 0) {
        ssize_t more = send(client, at, length, MSG_NOSIGNAL);
        if (more < 0 && errno == EINTR)
            continue;
        if (more <= 0)
            return false;
        at += more;
        length -= (size_t)more;
    }
    return true;
}

static bool answer(int client, enum answer kind, const void *bytes, size_t length)
{
    uint8_t head[8];
    store_u32(head, (uint32_t)kind);
    store_u32(head + 4, (uint32_t)length);
    return give(client, head, sizeof head) && give(client, bytes, length);
}

/* ---------------------------------------------------------------- requests */

static void describe_tensors(struct text *text, const char *kind, const struct tensor *tensors,
                             size_t count)
{
    for (size_t i = 0; i < count; i++) {
        text_add(text, kind);
        text_add(text, tensors[i].name);
        text_add(text, " ");
        text_add(text, tensors[i].type->name);
        for (size_t axis = 0; axis < tensors[i].axes; axis++) {
            text_add(text, " ");
            text_add_number(text, (uint64_t)tensors[i].shape[axis]);
        }
        text_add(text, "\n");
    }
}

static bool describe(int client)
{
    char bytes[DESCRIPTION_MAX];
    struct text text = text_in(bytes, sizeof bytes);
    const struct contract *contract = &server.candidate.contract;
    text_add(&text, "version ");
    text_add(&text, server.release->version);
    text_add(&text, "\nvariant ");
    text_add(&text, server.release->variant);
    text_add(&text, "\nmanifest sha256:");
    text_add_hex(&text, server.release->manifest, DIGEST_BYTES);
    text_add(&text, "\n");
    describe_tensors(&text, "input ", contract->inputs, contract->input_count);
    describe_tensors(&text, "output ", contract->outputs, contract->output_count);
    return answer(client, ANSWER_DESCRIPTION, bytes, text.length);
}

static bool infer(int client)
{
    const struct contract *contract = &server.candidate.contract;
    char problem[PROBLEM_MAX] = "";
    size_t at = 0;
    for (size_t i = 0; i < contract->input_count; at += contract->inputs[i++].bytes)
        memcpy(runner_input(server.candidate.runner, i), server.request + at,
               contract->inputs[i].bytes);
    if (!runner_run(server.candidate.runner, problem))
        return answer(client, ANSWER_FAILED, problem, strlen(problem));
    at = 0;
    for (size_t i = 0; i < contract->output_count; at += contract->outputs[i++].bytes)
        memcpy(server.answer + at, runner_output(server.candidate.runner, i),
               contract->outputs[i].bytes);
    return answer(client, ANSWER_OK, server.answer, contract->output_bytes);
}

/* Answer one request. False: the client is gone, or has not kept to the rules. */
static bool serve_client(int client)
{
    static const char WRONG[] = "a request of another length than the inputs have";
    uint8_t head[4];
    if (!take(client, head, sizeof head))
        return false;
    size_t length = load_u32(head);
    if (length == 0)
        return describe(client);
    if (length != server.candidate.contract.input_bytes) {
        answer(client, ANSWER_REFUSED, WRONG, sizeof WRONG - 1);
        return false;
    }
    return take(client, server.request, length) && infer(client);
}

/* ---------------------------------------------------------------- clients */

static void accept_client(void)
{
    struct timeval patience = {.tv_sec = PATIENCE_S};
    int client = accept4(server.polled[0].fd, NULL, NULL, SOCK_CLOEXEC);
    if (client < 0)
        return;
    /* One that goes silent within a request keeps the others waiting no longer than this. */
    setsockopt(client, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    setsockopt(client, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    if (server.count == 1 + CLIENTS_MAX) {
        close(client);
        return;
    }
    server.polled[server.count++] = (struct pollfd){.fd = client, .events = POLLIN};
}

static void serve_clients(void)
{
    for (nfds_t i = server.count - 1; i > 0; i--) {
        struct pollfd *one = &server.polled[i];
        if (one->revents == 0 || serve_client(one->fd))
            continue;
        close(one->fd);
        *one = server.polled[--server.count];
    }
}

static bool listen_at(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (listener < 0 || strlen(path) >= sizeof address.sun_path)
        return false;
    memcpy(address.sun_path, path, strlen(path) + 1);
    unlink(path);
    umask(0177);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) != 0 ||
        listen(listener, CLIENTS_MAX) != 0)
        return false;
    server.polled[0] = (struct pollfd){.fd = listener, .events = POLLIN};
    server.count = 1;
    return true;
}

static void run(void)
{
    while (!ends) {
        if (poll(server.polled, server.count, LOOK_MS) <= 0)
            continue; /* perhaps it is told to end */
        serve_clients();
        if (server.polled[0].revents != 0)
            accept_client();
    }
}

/* Load, and run the first golden case, so that the first answer is as fast as others. */
static bool warm_up(struct finding *finding)
{
    struct candidate *candidate = &server.candidate;
    char problem[PROBLEM_MAX] = "";
    for (size_t i = 0; i < candidate->contract.input_count; i++)
        memcpy(runner_input(candidate->runner, i), candidate->golden.inputs[i],
               candidate->contract.inputs[i].bytes);
    if (!runner_run(candidate->runner, problem))
        return found(finding, VERDICT_REJECTED, "load.warm_up", problem);
    server.request = malloc(candidate->contract.input_bytes);
    server.answer = malloc(candidate->contract.output_bytes);
    if (server.request == NULL || server.answer == NULL)
        return found(finding, VERDICT_FAILED, "load.memory", "not enough memory");
    return true;
}

int serve_main(const char *state, const char *model, uint8_t slot, const struct release *release,
               const char *socket)
{
    static const struct rlimit NO_CORE = {0, 0};
    struct finding finding = {0};
    struct sigaction action = {.sa_handler = on_end}; /* without SA_RESTART: poll comes back */
    sigaction(SIGTERM, &action, NULL);
    setrlimit(RLIMIT_CORE, &NO_CORE);
    server.release = release;
    bool ready = candidate_load(&server.candidate, state, model, slot, release, &finding) &&
                 warm_up(&finding);
    if (ready && (chdir(state) != 0 || !listen_at(socket)))
        ready = found(&finding, VERDICT_FAILED, "load.socket", strerror(errno));
    if (ready)
        finding.verdict = VERDICT_OK;
    worker_say(&finding);
    if (ready)
        run();
    return ready ? 0 : 1;
}
