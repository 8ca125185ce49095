#include "agent.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "bytes.h"
#include "envelope.h"
#include "fetch.h"
#include "files.h"
#include "machine.h"
#include "report.h"
#include "runner.h"
#include "session.h"
#include "workers.h"

#define SOCKET_NEXT SOCKET_NAME ".next"

enum {
    ORDER_BYTES_MAX = 128 * 1024,
    WAIT_PIECE_MS = 5000, /* then the server is asked for it by name */
    RETRY_FIRST_MS = 2000,
    RETRY_MAX_MS = 300000,
    SAY_MS = 250, /* between two reports */
    SERVE_AGAIN_MS = 1000,
    WORK_MS = 20,
    IDLE_MS = 250,
    CAPABILITIES_MAX = 2048,
    TRIAL_MAX = 512,
};

static struct {
    const char *state, *model;
    int folder, incoming;
    uint8_t identity_bytes[IDENTITY_BYTES_MAX];
    struct identity identity;
    struct journal journal;
    struct report report;
    char capabilities[CAPABILITIES_MAX], trial_json[TRIAL_MAX];
    char order_topic[TOPIC_BYTES], state_topic[TOPIC_BYTES], seed_topic[TOPIC_BYTES];

    struct {
        char topic[TOPIC_BYTES];
        int32_t piece;
        bool wanted;
    } asked[WINDOW]; /* subscribed to; topic "": free */
    uint64_t asked_ms, retry_ms, said_ms, serve_ms;
    uint32_t retry_wait_ms;
    bool state_is_news;

    struct worker trial, coming, serving;

    char order[ORDER_BYTES_MAX];
    size_t order_bytes;
    bool order_came;
} agent;

static volatile sig_atomic_t ends;

static void on_signal(int number)
{
    (void)number;
    ends = 1;
}

static void tell(const char *event, const char *detail)
{
    printf("{\"event\": \"%s\", \"detail\": \"%s\"}\n", event, detail);
    fflush(stdout);
}

static _Noreturn void give_up(const char *why)
{
    fprintf(stderr, "error: %s\n", why);
    worker_kill(&agent.trial);
    worker_kill(&agent.coming);
    worker_kill(&agent.serving);
    exit(1);
}

/* ---------------------------------------------------------------- what is remembered */

/* Have on the disk what was decided; without it nothing may follow. */
static void save(void)
{
    struct journal *journal = &agent.journal;
    const struct report *report = &agent.report;
    journal->floor = report->order.counter;
    memcpy(journal->nonce, report->order.nonce, sizeof journal->nonce);
    journal->update = (uint8_t)report->update;
    journal->attempt = report->attempt;
    journal->update_counter = report->update_counter;
    journal->bytes = report->bytes_total;
    journal->release = report->release;
    if (!journal_save(journal, agent.folder))
        give_up("the journal cannot be written; is the disk full?");
}

static void show_slots(void)
{
    static const struct note NOTHING;
    const struct journal *journal = &agent.journal;
    agent.report.running = journal->active == NO_SLOT ? NOTHING : journal->slots[journal->active];
    agent.report.previous = journal->can_return ? &journal->slots[journal_spare(journal)] : NULL;
    agent.report.rejected = journal->rejected;
    agent.report.rejected_count = journal->rejected_count;
    agent.state_is_news = true;
}

static void set_update(enum report_update update, const char *code, const char *detail)
{
    struct journal *journal = &agent.journal;
    /* What onnxruntime says goes into a string of JSON. */
    snprintf(journal->code, sizeof journal->code, "%s", code == NULL ? "" : code);
    snprintf(journal->detail, sizeof journal->detail, "%s", detail == NULL ? "" : detail);
    for (char *at = journal->detail; *at != '\0'; at++)
        if (*at < ' ' || *at > '~' || *at == '"' || *at == '\\')
            *at = ' ';
    agent.report.update = update;
    agent.report.reason = code == NULL ? NULL : journal->code;
    agent.report.detail = code == NULL ? NULL : journal->detail;
    agent.state_is_news = true;
    if (code != NULL)
        tell(code, journal->detail);
}

static void recall(void)
{
    struct journal *journal = &agent.journal;
    struct report *report = &agent.report;
    if (!journal_read(journal, agent.folder))
        tell("journal", "there is none that counts: it begins anew");
    journal->boot++;
    report->boot = journal->boot;
    report->order.counter = journal->floor;
    memcpy(report->order.nonce, journal->nonce, sizeof journal->nonce);
    report->update = (enum report_update)journal->update;
    report->attempt = journal->attempt;
    report->update_counter = journal->update_counter;
    report->bytes_done = report->bytes_total = journal->bytes;
    report->release = journal->release;
    if (journal->code[0] != '\0') {
        report->reason = journal->code;
        report->detail = journal->detail;
    }
    if (report->update == UPDATE_DOWNLOADING)
        report->update = UPDATE_NONE; /* the order comes again */
    show_slots();
    save();
}

/* ---------------------------------------------------------------- what serves */

static void start_serving(uint8_t slot)
{
    worker_kill(&agent.coming);
    agent.serve_ms = clock_ms() + SERVE_AGAIN_MS;
    if (!worker_start(&agent.coming, "serve", agent.state, agent.model, slot,
                      &agent.journal.slots[slot].release, SOCKET_NEXT))
        tell("serve", "no process can be had");
}

/* The new one answers: applications come to it from now on, and the old one ends. */
static void switch_over(void)
{
    if (renameat(agent.folder, SOCKET_NEXT, agent.folder, SOCKET_NAME) != 0)
        give_up("the socket cannot be renamed");
    worker_stop(&agent.serving);
    agent.serving = agent.coming;
    agent.coming.process = 0;
    tell("serving", agent.journal.slots[agent.serving.slot].release.version);
}

static void stop_serving(void)
{
    worker_kill(&agent.coming);
    worker_stop(&agent.serving);
    files_remove(agent.folder, SOCKET_NAME);
}

/* ---------------------------------------------------------------- trials */

static void read_order_again(void)
{
    agent.order_came = agent.order_bytes != 0;
}

static void put_off(void)
{
    agent.retry_ms = clock_ms() + agent.retry_wait_ms;
    agent.retry_wait_ms =
        agent.retry_wait_ms * 2 < RETRY_MAX_MS ? agent.retry_wait_ms * 2 : RETRY_MAX_MS;
}

static void end_trial(enum journal_event event, enum report_update update, const char *code,
                      const char *detail)
{
    if (event == EVENT_PUT_OFF) { /* it may be its files: they are fetched again */
        agent.journal.slots[agent.journal.candidate] = (struct note){0};
        put_off();
    }
    journal_go_on(&agent.journal, event);
    set_update(update, code, detail);
    save();
    show_slots();
    read_order_again(); /* another candidate, or an order that came meanwhile */
}

static void run_trial(void)
{
    struct journal *journal = &agent.journal;
    if (journal->attempts >= ATTEMPTS_MAX) {
        end_trial(EVENT_SPENT, UPDATE_REJECTED, "update.resumes",
                  "the agent died several times while it was tried");
        return;
    }
    journal->attempts++;
    save();
    if (!worker_start(&agent.trial, "trial", agent.state, agent.model, journal->candidate,
                      &journal->slots[journal->candidate].release, SOCKET_NEXT))
        end_trial(EVENT_PUT_OFF, UPDATE_FAILED, "trial.process", "no process can be had");
}

/* The files that were fetched become the other slot, and that is on trial. */
static void put_on_trial(bool laid_out)
{
    struct journal *journal = &agent.journal;
    struct report *report = &agent.report;
    uint8_t spare = journal_spare(journal);
    struct note note = {
        .counter = report->update_counter,
        .since = (uint32_t)time(NULL),
        .bytes = report->bytes_total,
        .release = report->release,
    };
    memcpy(note.nonce, report->order.nonce, sizeof note.nonce);
    if (!laid_out) {
        const char *name = fetch_lay_out(), *slot = journal_slot_name(spare);
        journal->slots[spare] = (struct note){0}; /* nobody knows what is in it, for a moment */
        journal->can_return = false;
        save();
        if (name == NULL || !files_remove(agent.folder, slot) ||
            renameat(agent.incoming, name, agent.folder, slot) != 0 ||
            !files_sync(agent.folder)) {
            set_update(UPDATE_FAILED, "disk.error", "the bundle cannot be laid out");
            put_off();
            return;
        }
    }
    journal->slots[spare] = note;
    journal->can_return = false;
    journal_go_on(journal, EVENT_STAGED);
    set_update(UPDATE_TRIAL, NULL, NULL);
    save();
    show_slots();
    run_trial();
}

static void describe_trial(const struct finding *found)
{
    snprintf(agent.trial_json, sizeof agent.trial_json,
             "{\"golden_passed\":%u,\"golden_total\":%u,\"load_ms\":%.3f,\"latency_p50_us\":%.1f,"
             "\"latency_p95_us\":%.1f,\"rss_bytes\":%llu,\"max_abs_diff\":%.9g,\"runs\":%u,"
             "\"threads\":1,\"provider\":\"CPUExecutionProvider\"}",
             found->passed, found->total, found->load_ms, found->p50_us, found->p95_us,
             (unsigned long long)found->rss_bytes, found->largest_difference, found->runs);
    agent.report.trial = found->total == 0 ? NULL : agent.trial_json;
}

/* What a worker found of the candidate, if it is not good: the end of the trial. */
static bool is_bad(const struct finding *found)
{
    if (found->verdict == VERDICT_OK)
        return false;
    bool rejected = found->verdict == VERDICT_REJECTED;
    end_trial(rejected ? EVENT_FAILED : EVENT_PUT_OFF, rejected ? UPDATE_REJECTED : UPDATE_FAILED,
              found->code, found->detail);
    return true;
}

static void look_at_trial(void)
{
    struct finding found;
    if (agent.trial.process == 0 || worker_look(&agent.trial, &found) == VERDICT_NONE)
        return;
    worker_kill(&agent.trial);
    describe_trial(&found);
    if (!is_bad(&found))
        start_serving(agent.journal.candidate);
}

/* What runs cannot be loaded any more: what ran before, or nothing until it has been fetched again. */
static void lose_active(const struct finding *found)
{
    struct journal *journal = &agent.journal;
    tell(found->code, found->detail);
    if (found->verdict != VERDICT_FAILED || journal->state != STATE_STEADY)
        return; /* it has proved itself here: it is tried again */
    journal->slots[journal->active] = (struct note){0};
    journal_go_on(journal, EVENT_WITHDRAWN);
    set_update(UPDATE_FAILED, found->code, found->detail);
    save();
    show_slots();
    agent.retry_ms = clock_ms();
    read_order_again();
}

static void clean_up(int folder, const char *name)
{
    files_remove(folder, name);
}

static void look_at_coming(void)
{
    struct finding found;
    bool tried = agent.journal.state == STATE_TRIAL && agent.coming.slot == agent.journal.candidate;
    if (agent.coming.process == 0 || worker_look(&agent.coming, &found) == VERDICT_NONE)
        return;
    if (found.verdict != VERDICT_OK)
        worker_kill(&agent.coming);
    if (tried && is_bad(&found))
        return;
    if (found.verdict != VERDICT_OK) {
        lose_active(&found);
        return;
    }
    if (tried) {
        journal_go_on(&agent.journal, EVENT_PASSED);
        set_update(UPDATE_COMMITTED, NULL, NULL);
        save();
        show_slots();
        agent.retry_wait_ms = RETRY_FIRST_MS;
        files_each(agent.incoming, clean_up);
    }
    switch_over();
}

static void keep_serving(void)
{
    if (agent.serving.process != 0 && worker_has_ended(&agent.serving))
        tell("serve", "the process that answered has died");
    if (agent.serving.process == 0 && agent.coming.process == 0 &&
        agent.journal.active != NO_SLOT && clock_ms() >= agent.serve_ms)
        start_serving(agent.journal.active);
}

/* ---------------------------------------------------------------- orders */

static bool is_release(const struct release *one, const struct release *other)
{
    return same_bytes(one->manifest, other->manifest, DIGEST_BYTES);
}

static bool is_known_bad(const uint8_t manifest[DIGEST_BYTES])
{
    return journal_is_rejected(&agent.journal, manifest);
}

/* Forgive what the order wants to be tried again. False: there is nothing of that. */
static bool forgive(struct json order)
{
    struct json list = json_member(order, "forgive"), one;
    uint8_t manifest[DIGEST_BYTES];
    uint32_t before = agent.journal.rejected_count;
    for (uint32_t i = 0; (one = json_item(list, i)).length != 0; i++)
        if (manifest_digest(one, manifest))
            journal_forgive(&agent.journal, manifest);
    return agent.journal.rejected_count != before;
}

static bool is_withdrawn(struct json order)
{
    struct json list = json_member(order, "withdrawn"), one;
    for (uint32_t i = 0; (one = json_item(list, i)).length != 0; i++)
        if (json_is(one, agent.model))
            return true;
    return false;
}

static void go_back(void)
{
    journal_go_on(&agent.journal, EVENT_WITHDRAWN);
    set_update(UPDATE_ROLLED_BACK, "update.withdrawn", "an order takes the model back");
    save();
    show_slots();
    if (agent.journal.active == NO_SLOT)
        stop_serving();
    else
        start_serving(agent.journal.active);
}

static int running_folder(void)
{
    if (agent.journal.active == NO_SLOT)
        return -1;
    return openat(agent.folder, journal_slot_name(agent.journal.active),
                  O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
}

static void begin_update(void)
{
    struct report *report = &agent.report;
    const struct release *wanted = &report->order.release;
    const struct note *spare = &agent.journal.slots[journal_spare(&agent.journal)];
    if (!is_release(wanted, &report->release))
        report->attempt = 0;
    report->release = *wanted;
    report->update_counter = report->order.counter;
    report->bytes_done = report->bytes_total = 0;
    report->trial = NULL;
    report->attempt++;
    if (spare->counter != 0 && is_release(wanted, &spare->release)) {
        fetch_stop();
        report->bytes_done = report->bytes_total = spare->bytes;
        put_on_trial(true);
        return;
    }
    fetch_begin(agent.incoming, running_folder(), wanted->manifest);
    set_update(UPDATE_DOWNLOADING, NULL, NULL);
}

/* Nothing is wanted in our slot: what is on its way is given up, what runs goes on, or is taken back. */
static void obey_nothing(struct json content)
{
    if (agent.report.update == UPDATE_DOWNLOADING || agent.report.update == UPDATE_FAILED) {
        fetch_stop();
        set_update(UPDATE_NONE, NULL, NULL);
    } else if (is_withdrawn(content) && agent.report.update == UPDATE_COMMITTED &&
               agent.journal.active != NO_SLOT) {
        go_back();
    }
}

static void obey(bool is_new, struct json content)
{
    struct report *report = &agent.report;
    const struct release *wanted = &report->order.release;
    if (!report->order.wanted) {
        obey_nothing(content);
        return;
    }
    bool same = is_release(wanted, &report->release);
    if (report->running.counter != 0 && is_release(wanted, &report->running.release)) {
        fetch_stop();
        report->release = *wanted;
        report->update_counter = report->order.counter;
        set_update(UPDATE_COMMITTED, NULL, NULL);
    } else if (is_known_bad(wanted->manifest)) {
        fetch_stop();
        report->update_counter = report->order.counter;
        if (report->update != UPDATE_REJECTED || !same)
            set_update(UPDATE_REJECTED, "update.remembered",
                       "every candidate was found bad on this device before");
        report->release = *wanted;
    } else if (same && report->update == UPDATE_DOWNLOADING) {
        report->update_counter = report->order.counter;
    } else if (is_new || !same || report->update != UPDATE_FAILED) {
        begin_update();
    }
}

static enum order_verdict read_order(struct order *order, uint64_t floor, uint64_t *counter)
{
    return order_read(order, &agent.identity, agent.model, is_known_bad, floor,
                      (uint32_t)time(NULL), agent.order, agent.order_bytes, counter);
}

static void take_order(void)
{
    struct report *report = &agent.report;
    struct order order;
    uint64_t counter = 0, floor = report->order.counter;
    enum order_verdict verdict = read_order(&order, floor, &counter);
    bool is_new = verdict == ORDER_OBEYED && order.counter > floor;
    if (is_new && forgive(order_content())) /* another candidate may be the first now */
        verdict = read_order(&order, floor, &counter);
    agent.state_is_news = true;
    report->refusal = verdict;
    report->refused = counter;
    if (verdict != ORDER_OBEYED)
        return;
    report->order = order;
    save();
    obey(is_new, order_content());
    save();
    show_slots();
}

/* ---------------------------------------------------------------- pieces */

static void go_on(void)
{
    const struct fetch_progress *progress = fetch_progress();
    struct report *report = &agent.report;
    agent.state_is_news |= report->bytes_done != (uint32_t)progress->bytes_done;
    report->bytes_done = (uint32_t)progress->bytes_done;
    report->bytes_total = (uint32_t)progress->bytes_total;
    if (progress->state == FETCH_WHOLE) {
        put_on_trial(false);
        fetch_stop();
    } else if (progress->state == FETCH_REFUSED) {
        journal_reject(&agent.journal, report->release.manifest);
        set_update(UPDATE_REJECTED, progress->code, progress->detail);
        fetch_stop();
        save();
        show_slots();
        read_order_again();
    } else if (progress->state == FETCH_FAILED) {
        set_update(UPDATE_FAILED, progress->code, progress->detail);
        put_off();
        fetch_stop();
    }
}

/* Mark of what is subscribed to what is wanted still, and give up the rest. */
static void unsubscribe_others(char topics[WINDOW][TOPIC_BYTES], uint32_t count)
{
    for (int i = 0; i < WINDOW; i++) {
        bool wanted = false;
        for (uint32_t k = 0; k < count; k++)
            wanted |= strcmp(agent.asked[i].topic, topics[k]) == 0;
        if (!wanted && agent.asked[i].topic[0] != '\0') {
            session_unsubscribe(agent.asked[i].topic);
            agent.asked[i].topic[0] = '\0';
        }
    }
}

static bool subscribe(const char *topic, int32_t piece)
{
    int place = -1;
    for (int i = 0; i < WINDOW; i++) {
        if (strcmp(agent.asked[i].topic, topic) == 0)
            return true;
        if (agent.asked[i].topic[0] == '\0')
            place = i;
    }
    if (place < 0 || !session_subscribe(topic))
        return false;
    memcpy(agent.asked[place].topic, topic, TOPIC_BYTES);
    agent.asked[place].piece = piece;
    agent.asked_ms = clock_ms();
    return true;
}

/* Subscribe to what is waited for; a retained message comes at once, or never. */
static void ask(void)
{
    static char bytes[REPORT_BYTES_MAX];
    char topics[WINDOW][TOPIC_BYTES];
    int32_t pieces[WINDOW];
    uint32_t count = fetch_wanted(pieces);
    for (uint32_t i = 0; i < count; i++) {
        struct text topic = text_in(topics[i], TOPIC_BYTES);
        memset(topics[i], 0, TOPIC_BYTES);
        fetch_topic(pieces[i], &topic);
    }
    unsubscribe_others(topics, count);
    for (uint32_t i = 0; i < count; i++)
        subscribe(topics[i], pieces[i]);
    if (count != 0 && clock_ms() > agent.asked_ms + WAIT_PIECE_MS) {
        struct text message = text_in(bytes, sizeof bytes);
        report_missing(&agent.report, fetch_progress()->blob, pieces, count, &message);
        session_publish(agent.seed_topic, &message, false);
        agent.asked_ms = clock_ms();
    }
}

static void say(void)
{
    static char bytes[REPORT_BYTES_MAX];
    struct text message = text_in(bytes, sizeof bytes);
    if (clock_ms() < agent.said_ms + SAY_MS)
        return;
    agent.report.sequence++;
    agent.report.now = (uint32_t)time(NULL);
    report_state(&agent.report, &message);
    if (message.full)
        give_up("a report is longer than there is room for");
    agent.said_ms = clock_ms();
    agent.state_is_news = !session_publish(agent.state_topic, &message, true);
}

/* ---------------------------------------------------------------- what the session tells */

static void on_up(void)
{
    for (int i = 0; i < WINDOW; i++) /* what was subscribed to is not any more */
        agent.asked[i].topic[0] = '\0';
    agent.report.connection++;
    agent.state_is_news = true;
    session_subscribe(agent.order_topic);
    tell("connected", agent.identity.server);
}

static void on_will(uint32_t connection, struct text *text)
{
    agent.report.connection = connection - 1; /* until it stands */
    report_will(&agent.report, connection, text);
}

static void on_message(const char *topic, const uint8_t *bytes, size_t length)
{
    if (length == 0)
        return;
    if (strcmp(topic, agent.order_topic) == 0) {
        if (length > ORDER_BYTES_MAX)
            return;
        memcpy(agent.order, bytes, length);
        agent.order_bytes = length;
        agent.order_came = true;
        return;
    }
    for (int i = 0; i < WINDOW; i++) {
        if (strcmp(topic, agent.asked[i].topic) != 0)
            continue;
        agent.asked_ms = clock_ms(); /* something comes */
        fetch_take(agent.asked[i].piece, bytes, length);
        return;
    }
}

static const struct session_events EVENTS = {on_up, on_will, on_message};

/* ---------------------------------------------------------------- start, and the loop */

static void topic_in(char buffer[TOPIC_BYTES], const char *end)
{
    struct text topic = text_in(buffer, TOPIC_BYTES);
    text_add(&topic, "edgectl/v1/d/");
    text_add(&topic, agent.identity.device);
    text_add(&topic, end);
}

static void read_identity(void)
{
    struct stat mode;
    size_t length;
    uint8_t *bytes = files_read(agent.folder, "identity", IDENTITY_BYTES_MAX, &length);
    if (bytes == NULL)
        give_up("no identity in the state folder; provision.py writes it");
    if (fstatat(agent.folder, "identity", &mode, AT_SYMLINK_NOFOLLOW) != 0 ||
        (mode.st_mode & 077) != 0)
        give_up("others may read the identity, which holds the key; try: chmod 600 identity");
    memset(agent.identity_bytes, 0xFF, sizeof agent.identity_bytes);
    memcpy(agent.identity_bytes, bytes, length);
    free(bytes);
    if (!identity_read(&agent.identity, agent.identity_bytes) || !envelope_begin(&agent.identity))
        give_up("the identity is damaged; write it again with provision.py");
}

static void open_state(void)
{
    agent.folder = open(agent.state, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int lock = agent.folder < 0
                   ? -1
                   : openat(agent.folder, "lock", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (lock < 0)
        give_up("the state folder cannot be opened, or not be written");
    if (flock(lock, LOCK_EX | LOCK_NB) != 0)
        give_up("another agent runs on this state folder");
    agent.incoming = files_folder(agent.folder, "incoming");
    if (agent.incoming < 0)
        give_up("the folder `incoming` cannot be made");
}

static void begin(void)
{
    struct text capabilities = text_in(agent.capabilities, sizeof agent.capabilities);
    struct sigaction action = {.sa_handler = on_signal};
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    signal(SIGPIPE, SIG_IGN);
    umask(077);
    open_state();
    read_identity();
    machine_describe(&capabilities, runner_version());
    agent.report.identity = &agent.identity;
    agent.report.slot = agent.model;
    agent.report.capabilities = agent.capabilities;
    agent.retry_wait_ms = RETRY_FIRST_MS;
    topic_in(agent.order_topic, "/down/order");
    topic_in(agent.state_topic, "/up/state");
    topic_in(agent.seed_topic, "/up/seed");
    recall();
    if (agent.journal.state == STATE_TRIAL)
        run_trial();
    if (!session_begin(&agent.identity, agent.state_topic, &EVENTS))
        give_up("certificates or key of the identity are none");
}

static bool is_at_work(void)
{
    return agent.trial.process != 0 || agent.coming.process != 0 ||
           agent.report.update == UPDATE_DOWNLOADING;
}

static void step(void)
{
    look_at_trial();
    look_at_coming();
    keep_serving();
    if (agent.order_came && agent.journal.state == STATE_STEADY) {
        agent.order_came = false;
        take_order();
    }
    if (agent.report.update == UPDATE_DOWNLOADING)
        go_on();
    if (agent.report.update == UPDATE_FAILED && agent.report.order.wanted &&
        agent.journal.state == STATE_STEADY && clock_ms() >= agent.retry_ms)
        begin_update();
    if (!session_is_up())
        return;
    ask();
    if (agent.state_is_news)
        say();
}

int agent_main(const char *state, const char *model)
{
    agent.state = state;
    agent.model = model;
    begin();
    while (!ends) {
        step(); /* what runs is served first, whether a broker answers or not */
        session_poll(is_at_work() ? WORK_MS : IDLE_MS);
    }
    /* The broker sends the last will: the connection ends without a good-bye. */
    worker_kill(&agent.trial);
    if (agent.journal.state == STATE_TRIAL && agent.journal.attempts > 0) {
        agent.journal.attempts--; /* it has done nothing wrong */
        save();
    }
    stop_serving();
    return 0;
}
