/* node FLASH, and then, if wanted, the operation of the flash at which the power is cut.
 *
 * A device of the server: it boots what has proved itself, connects, obeys orders, fetches bundles,
 * resets to try them, and says how it stands. It runs until the power is gone. What it prints, lines
 * of JSON, is for tests and people; the server knows it by its signed state.
 */
#include <string.h>

#include "board.h"
#include "bytes.h"
#include "device.h"
#include "download.h"
#include "envelope.h"
#include "host.h"
#include "lwip/stats.h"
#include "network.h"
#include "pinned.h"
#include "report.h"
#include "session.h"
#include "slot_note.h"

enum {
    IDENTITY_AT = SLOTS_END,
    TOPIC_BYTES = 128,
    ORDER_BYTES_MAX = 12 * 1024,
    WAIT_PIECE_MS = 5000, /* then the server is asked for it by name */
    WAIT_RETRY_MS = 5000,
    FAREWELL_MS = 1000, /* for the last report before a reset */
    USAGE = 98,
};

#define DIGITS_OF(number) #number
#define CAPABILITIES_WITH(memory)                                                                 \
    "{\"machine\":\"armv7e-m\",\"cpu_model\":\"Cortex-M4F\",\"cores\":1,\"memory_bytes\":" DIGITS_OF( \
        memory) ",\"runtimes\":{\"cortex-m\":\"1\"}}"
#define CAPABILITIES CAPABILITIES_WITH(BOARD_MEMORY_BYTES)

static struct {
    struct identity identity;
    struct edgectl_device device;
    struct edgectl_running running;
    struct report report;
    char order_topic[TOPIC_BYTES], state_topic[TOPIC_BYTES], seed_topic[TOPIC_BYTES];

    char wanted[TOPIC_BYTES]; /* topic of the piece that is subscribed to, or "" */
    uint32_t asked_ms;        /* when it was asked for last */
    uint32_t retry_ms, reset_ms;
    bool state_is_news;

    enum { MESSAGE_OTHER, MESSAGE_ORDER, MESSAGE_PIECE } message;
    char order[ORDER_BYTES_MAX];
    uint32_t expected, taken; /* of the message that comes */
    uint32_t order_bytes;     /* of the order that waits, while others come */
    bool order_came;
} node;

static void topic_in(char buffer[TOPIC_BYTES], const char *end)
{
    struct text topic = text_in(buffer, TOPIC_BYTES);
    text_add(&topic, "edgectl/v1/d/");
    text_add(&topic, node.identity.device);
    text_add(&topic, end);
}

static void print_line(const char *name, uint32_t number)
{
    board_print("{\"");
    board_print(name);
    board_print("\": ");
    board_print_number(number);
    board_print("}\n");
}

/* ---------------------------------------------------------------- what the session tells */

static void on_up(void)
{
    node.wanted[0] = '\0'; /* what was subscribed to is not any more */
    node.report.connection++;
    node.state_is_news = true;
    session_subscribe(node.order_topic);
    print_line("connected", node.report.connection);
}

static void on_will(uint32_t connection, struct text *text)
{
    node.report.connection = connection - 1; /* until it stands */
    report_will(&node.report, connection, text);
}

static void on_begin(const char *topic, uint32_t length)
{
    node.message = MESSAGE_OTHER;
    node.expected = length;
    node.taken = 0;
    if (length == 0)
        return;
    if (strcmp(topic, node.order_topic) == 0 && length <= ORDER_BYTES_MAX) {
        node.message = MESSAGE_ORDER;
        node.order_came = false; /* one that waits is overtaken */
    } else if (node.wanted[0] != '\0' && strcmp(topic, node.wanted) == 0) {
        node.message = MESSAGE_PIECE;
        download_message_begins(length);
    }
}

static void on_add(const uint8_t *bytes, size_t length)
{
    node.asked_ms = network_ms(); /* something comes */
    if (node.message == MESSAGE_PIECE)
        download_message_goes_on(bytes, length);
    if (node.message != MESSAGE_ORDER || length > node.expected - node.taken)
        return;
    memcpy(node.order + node.taken, bytes, length);
    node.taken += (uint32_t)length;
}

static void on_end(void)
{
    if (node.message == MESSAGE_PIECE)
        download_message_ends();
    if (node.message == MESSAGE_ORDER && node.taken == node.expected) {
        node.order_bytes = node.taken;
        node.order_came = true;
    }
}

static const struct session_events EVENTS = {on_up, on_will, on_begin, on_add, on_end};

/* ---------------------------------------------------------------- orders and updates */

static const char *const REASONS[] = {
    [EDGECTL_OK] = NULL,
    [EDGECTL_BAD_BUNDLE] = "firmware.bad_bundle",
    [EDGECTL_BAD_SIGNATURE] = "firmware.bad_signature",
    [EDGECTL_BAD_PAYLOAD] = "firmware.bad_payload",
    [EDGECTL_OTHER_MODEL] = "firmware.other_model",
    [EDGECTL_NOT_NEWER] = "firmware.not_newer",
    [EDGECTL_REJECTED] = "firmware.rejected",
    [EDGECTL_TOO_LARGE] = "firmware.too_large",
    [EDGECTL_BAD_MODEL] = "firmware.bad_model",
    [EDGECTL_BAD_SELF_TEST] = "firmware.bad_self_test",
    [EDGECTL_NO_MODEL] = "firmware.no_model",
    [EDGECTL_BUSY] = "firmware.busy",
    [EDGECTL_FLASH_FAILED] = "firmware.flash_failed",
};

static void set_update(enum report_update update, enum edgectl_status status)
{
    node.report.update = update;
    node.report.reason = REASONS[status];
    node.report.rejected = (const uint8_t (*)[DIGEST_BYTES])&node.report.release.manifest;
    node.report.rejected_count = update == UPDATE_REJECTED;
    node.state_is_news = true;
}

/* Say of an update that ended before the reset what became of it. */
static void recall_update(void)
{
    struct edgectl_record record = edgectl_read_journal(&node.device.flash, node.device.journal);
    struct note tried = note_read(&node.device, record.active == 0);
    bool failed = tried.counter != 0 && record.rejected != 0 &&
                  load_u64(tried.digest) == record.rejected &&
                  tried.counter > node.report.running.counter;
    const struct note *note = failed ? &tried : &node.report.running;
    if (note->counter == 0)
        return;
    node.report.order.counter = node.report.update_counter = note->counter;
    memcpy(node.report.order.nonce, note->nonce, sizeof note->nonce);
    node.report.release = note->release;
    node.report.bytes_done = node.report.bytes_total = note->bytes;
    set_update(failed ? UPDATE_REJECTED : UPDATE_COMMITTED,
               failed ? EDGECTL_BAD_SELF_TEST : EDGECTL_OK);
}

static bool is_release(const struct release *one, const struct release *other)
{
    return memcmp(one->manifest, other->manifest, DIGEST_BYTES) == 0;
}

static void begin_update(void)
{
    struct report *report = &node.report;
    const struct release *wanted = &report->order.release;
    if (!is_release(wanted, &report->release))
        report->attempt = 0;
    report->release = *wanted;
    report->update_counter = report->order.counter;
    report->bytes_done = report->bytes_total = 0;
    report->attempt++;
    download_begin(&node.device, wanted->manifest);
    set_update(UPDATE_DOWNLOADING, EDGECTL_OK);
}

/* The order that came is accepted: do what it says, unless it is done, or under way. */
static void obey(bool is_new)
{
    struct report *report = &node.report;
    bool under_way = report->update == UPDATE_DOWNLOADING || report->update == UPDATE_TRIAL;
    if (!report->order.wanted) {
        if (report->update == UPDATE_DOWNLOADING || report->update == UPDATE_FAILED) {
            download_stop();
            set_update(UPDATE_NONE, EDGECTL_OK);
        }
        return;
    }
    const struct release *wanted = &report->order.release;
    if (under_way && is_release(wanted, &report->release)) {
        report->update_counter = report->order.counter;
    } else if (report->running.counter != 0 && is_release(wanted, &report->running.release)) {
        download_stop();
        report->release = *wanted;
        report->update_counter = report->order.counter;
        set_update(UPDATE_COMMITTED, EDGECTL_OK);
    } else if (report->update == UPDATE_TRIAL) {
        return; /* the reset is near, and the order comes again after it */
    } else if (is_new || report->update != UPDATE_REJECTED ||
               !is_release(wanted, &report->release)) {
        begin_update();
    }
}

static void take_order(void)
{
    struct report *report = &node.report;
    struct order order;
    uint64_t counter = 0, floor = report->order.counter;
    enum order_verdict verdict = order_read(&order, &node.identity, node.device.name, NULL,
                                            floor, host_time(), node.order,
                                            node.order_bytes, &counter);
    node.state_is_news = true;
    report->refusal = verdict;
    report->refused = counter;
    if (verdict != ORDER_OBEYED)
        return;
    report->order = order;
    obey(order.counter > floor);
}

static void put_on_trial(void)
{
    const struct edgectl_install *install = download_bundle();
    struct report *report = &node.report;
    struct note note = {
        .counter = report->update_counter,
        .since = host_time(),
        .bytes = report->bytes_total,
        .release = report->release,
    };
    memcpy(note.digest, install->bundle.digest, sizeof note.digest);
    memcpy(note.nonce, report->order.nonce, sizeof note.nonce);
    enum edgectl_status status = note_write(&node.device, install->slot, &note)
                                     ? download_install()
                                     : EDGECTL_FLASH_FAILED;
    if (status == EDGECTL_OK) {
        node.reset_ms = network_ms() + FAREWELL_MS;
        set_update(UPDATE_TRIAL, EDGECTL_OK);
        return;
    }
    node.retry_ms = network_ms() + WAIT_RETRY_MS;
    bool refused = download_progress()->state == DOWNLOAD_REFUSED;
    download_stop();
    set_update(refused ? UPDATE_REJECTED : UPDATE_FAILED, status);
}

/* Look where the download stands, and go on. */
static void go_on(void)
{
    const struct download_progress *progress = download_progress();
    struct report *report = &node.report;
    if (report->bytes_done != progress->bytes_done && progress->bytes_total != 0)
        node.state_is_news = true;
    report->bytes_done = progress->bytes_done;
    report->bytes_total = progress->bytes_total;
    if (progress->state == DOWNLOAD_WHOLE) {
        put_on_trial();
    } else if (progress->state == DOWNLOAD_REFUSED || progress->state == DOWNLOAD_FAILED) {
        bool refused = progress->state == DOWNLOAD_REFUSED;
        set_update(refused ? UPDATE_REJECTED : UPDATE_FAILED, progress->status);
        node.retry_ms = network_ms() + WAIT_RETRY_MS;
        download_stop();
    }
}

/* ---------------------------------------------------------------- what is asked for and said */

static bool is_over(uint32_t moment_ms)
{
    return (int32_t)(network_ms() - moment_ms) >= 0;
}

/* Subscribe to the piece that is waited for; the retained message comes at once, or never. */
static void ask(void)
{
    static char bytes[REPORT_BYTES_MAX];
    char topic_bytes[TOPIC_BYTES];
    const struct download_progress *progress = download_progress();
    bool waits = node.report.update == UPDATE_DOWNLOADING;
    struct text topic = text_in(topic_bytes, sizeof topic_bytes);
    if (waits)
        download_topic(&topic);
    if (strcmp(topic_bytes, node.wanted) != 0) {
        if (node.wanted[0] != '\0' && !session_unsubscribe(node.wanted))
            return;
        node.wanted[0] = '\0';
        if (topic_bytes[0] == '\0' || !session_subscribe(topic_bytes))
            return;
        memcpy(node.wanted, topic_bytes, sizeof topic_bytes);
        node.asked_ms = network_ms();
    } else if (waits && is_over(node.asked_ms + WAIT_PIECE_MS)) {
        struct text message = text_in(bytes, sizeof bytes);
        report_missing(&node.report, progress->blob, &progress->piece, 1, &message);
        session_publish(node.seed_topic, &message, false);
        node.asked_ms = network_ms();
    }
}

static void say(void)
{
    static char bytes[REPORT_BYTES_MAX];
    struct text message = text_in(bytes, sizeof bytes);
    node.report.sequence++;
    node.report.now = host_time();
    report_state(&node.report, &message);
    if (session_publish(node.state_topic, &message, true))
        node.state_is_news = false;
}

static void reset(void)
{
    print_line("heap_bytes", lwip_stats.mem.max);
    print_line("stack_bytes", board_stack_bytes());
    print_line("operations", board_flash_operations());
    host_reset();
}

static void step(void)
{
    session_poll();
    if (node.order_came) {
        node.order_came = false;
        take_order();
    }
    if (node.report.update == UPDATE_DOWNLOADING)
        go_on();
    if (node.report.update == UPDATE_FAILED && is_over(node.retry_ms))
        begin_update();
    if (session_is_up()) {
        ask();
        if (node.state_is_news)
            say();
    }
    if (node.report.update == UPDATE_TRIAL && is_over(node.reset_ms))
        reset();
}

/* ---------------------------------------------------------------- from the reset on */

/* Finish a trial, and number this boot: a record in the journal that says what the one before did. */
static bool boot(void)
{
    enum edgectl_status status = edgectl_boot(&node.device, &node.running);
    struct edgectl_record record = edgectl_read_journal(&node.device.flash, node.device.journal);
    if (status == EDGECTL_FLASH_FAILED ||
        edgectl_append_record(&node.device.flash, node.device.journal, &record) != EDGECTL_OK)
        return false;
    node.report.boot = record.sequence;
    if (status == EDGECTL_OK)
        node.report.running = note_read(&node.device, node.running.slot);
    recall_update();
    print_line("counter", status == EDGECTL_OK ? (uint32_t)node.running.bundle.counter : 0);
    return true;
}

int main(void)
{
    static char text[512];
    struct edgectl_flash flash;
    board_arguments(text, sizeof text);
    char *path = strchr(text, ' ');
    char *cut = path == NULL ? NULL : strchr(path + 1, ' ');
    int cut_after = NEVER;
    if (path == NULL)
        return USAGE;
    if (cut != NULL) {
        *cut = '\0';
        for (cut_after = 0; *++cut >= '0' && *cut <= '9';)
            cut_after = 10 * cut_after + (*cut - '0');
    }
    if (!board_begin_flash(&flash, path + 1, cut_after) ||
        !identity_read(&node.identity, flash.memory + IDENTITY_AT))
        return USAGE;
    node.device = node_device(flash);
    note_make_room(&node.device);
    node.report.identity = &node.identity;
    node.report.slot = node.device.name;
    node.report.capabilities = CAPABILITIES;
    topic_in(node.order_topic, "/down/order");
    topic_in(node.state_topic, "/up/state");
    topic_in(node.seed_topic, "/up/seed");
    host_begin();
    if (!boot())
        return EDGECTL_FLASH_FAILED;
    if (!network_begin() || !session_begin(&node.identity, node.state_topic, &EVENTS) ||
        !envelope_begin(&node.identity))
        return USAGE;
    for (;;) {
        network_poll();
        if (network_is_up())
            step();
        network_sleep();
    }
}
