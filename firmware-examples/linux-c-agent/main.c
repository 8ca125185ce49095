/* The command line, for people and for the agent itself, which starts its workers by it. */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "agent.h"
#include "bytes.h"
#include "runner.h"
#include "serve.h"
#include "text.h"
#include "workers.h"

#include <sodium.h>

enum { USAGE = 2, INPUT_MAX = TENSOR_BYTES_MAX };

static const char HELP[] =
    "edgectl-c-agent run STATE MODEL     be a device of the server, for one model\n"
    "edgectl-c-agent infer STATE         inputs from stdin, raw; outputs to stdout, raw\n"
    "edgectl-c-agent show STATE          what runs, and what goes in and out\n"
    "edgectl-c-agent --version\n"
    "\n"
    "STATE is a folder; provision.py writes the file `identity` into it:\n"
    "  edgectl-agent enrol --server https://... --device pi-1 --state enrolled --token-file -\n"
    "  python provision.py enrolled pi-1/identity --file\n"
    "  edgectl-c-agent run pi-1 har\n"
    "\n"
    "Exit codes: 0 done, 1 refused or failed, 2 usage.\n";

/* ---------------------------------------------------------------- asking what runs */

static bool transfer(int socket, uint8_t *bytes, size_t length, bool give)
{
    for (size_t at = 0; at < length;) {
        ssize_t more = give ? send(socket, bytes + at, length - at, MSG_NOSIGNAL)
                            : recv(socket, bytes + at, length - at, 0);
        if (more < 0 && errno == EINTR)
            continue;
        if (more <= 0)
            return false;
        at += (size_t)more;
    }
    return true;
}

static int connect_to(const char *state)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = SOCKET_NAME};
    int one = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (chdir(state) != 0 || one < 0 ||
        connect(one, (struct sockaddr *)&address, sizeof address) != 0) {
        fprintf(stderr, "error: nothing answers in %s; does the agent run, and a model?\n", state);
        return -1;
    }
    return one;
}

static int print_answer(int socket)
{
    uint8_t head[8];
    if (!transfer(socket, head, sizeof head, false))
        return 1;
    enum answer kind = (enum answer)load_u32(head);
    size_t length = load_u32(head + 4);
    uint8_t *bytes = length > INPUT_MAX ? NULL : malloc(length + 1);
    if (bytes == NULL || !transfer(socket, bytes, length, false))
        return 1;
    bool good = kind == ANSWER_OK || kind == ANSWER_DESCRIPTION;
    if (!good)
        fputs("error: ", stderr);
    fwrite(bytes, 1, length, good ? stdout : stderr);
    if (!good)
        fputs("\n", stderr);
    free(bytes);
    return good && fflush(stdout) == 0 ? 0 : 1;
}

static int ask_with(const char *state, uint8_t *inputs, size_t length)
{
    uint8_t head[4];
    int socket = connect_to(state);
    if (socket < 0)
        return 1;
    store_u32(head, (uint32_t)length);
    if (transfer(socket, head, sizeof head, true))
        transfer(socket, inputs, length, true); /* what is wrong with it, the answer says */
    int code = print_answer(socket);
    close(socket);
    return code;
}

static int ask(const char *state, bool with_inputs)
{
    uint8_t *inputs = with_inputs ? malloc(INPUT_MAX) : NULL;
    size_t length = inputs == NULL ? 0 : fread(inputs, 1, INPUT_MAX, stdin);
    int code = 1;
    if (with_inputs && length == 0)
        fputs("error: no inputs on stdin; `show` says how many bytes there have to be\n", stderr);
    else
        code = ask_with(state, inputs, length);
    free(inputs);
    return code;
}

/* ---------------------------------------------------------------- workers */

static bool read_release(struct release *release, char **words)
{
    if (strlen(words[5]) != 2 * DIGEST_BYTES || strlen(words[6]) > RELEASE_NAME_MAX ||
        strlen(words[7]) > RELEASE_NAME_MAX)
        return false;
    strcpy(release->version, words[6]);
    strcpy(release->variant, words[7]);
    return text_read_hex(words[5], 2 * DIGEST_BYTES, release->manifest, DIGEST_BYTES);
}

/* KIND STATE MODEL SLOT MANIFEST VERSION VARIANT SOCKET */
static int work(char **words)
{
    static struct release release;
    uint8_t slot = words[4][0] == '1';
    if (!read_release(&release, words))
        return USAGE;
    if (strcmp(words[1], "trial") == 0)
        return trial_main(words[2], words[3], slot, &release);
    return serve_main(words[2], words[3], slot, &release, words[8]);
}

int main(int count, char **words)
{
    static char state[PATH_MAX];
    if (sodium_init() < 0)
        return 1;
    if (count == 9 && (strcmp(words[1], "trial") == 0 || strcmp(words[1], "serve") == 0))
        return work(words);
    if (count == 2 && strcmp(words[1], "--help") == 0)
        return fputs(HELP, stdout) < 0;
    if (count == 2 && strcmp(words[1], "--version") == 0)
        return printf("edgectl-c-agent %s, onnxruntime %s\n", AGENT_VERSION, runner_version()) < 0;
    bool runs = count == 4 && strcmp(words[1], "run") == 0;
    bool asks = count == 3 && (strcmp(words[1], "infer") == 0 || strcmp(words[1], "show") == 0);
    if ((!runs && !asks) || (runs && (strlen(words[3]) == 0 || strlen(words[3]) > RELEASE_NAME_MAX))) {
        fputs(HELP, stderr);
        return USAGE;
    }
    if (realpath(words[2], state) == NULL) {
        fprintf(stderr, "error: %s: %s\n", words[2], strerror(errno));
        return 1;
    }
    return runs ? agent_main(state, words[3]) : ask(state, words[1][0] == 'i');
}
