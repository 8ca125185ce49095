#include "report.h"

#include "dates.h"
#include "envelope.h"

enum { SEED_BYTES_MAX = 512, WILL_BYTES_MAX = 256 };

#define STATE_KIND "application/vnd.edgectl.state.v1+json"
#define SEED_KIND "application/vnd.edgectl.seed.v1+json"

static const char *const UPDATES[] = {
    [UPDATE_DOWNLOADING] = "downloading", [UPDATE_TRIAL] = "trial",
    [UPDATE_COMMITTED] = "committed",     [UPDATE_FAILED] = "failed",
    [UPDATE_REJECTED] = "rejected",       [UPDATE_ROLLED_BACK] = "rolled-back",
};

static const char *const VERDICTS[] = {
    [ORDER_MALFORMED] = "order.malformed", [ORDER_UNSIGNED] = "order.signature",
    [ORDER_OTHER_DEVICE] = "order.device", [ORDER_REPLAYED] = "order.replayed",
    [ORDER_EXPIRED] = "order.expired",
};

/* Members of an object; the first has no comma before it. Names and texts need no escapes. */
static void add_text(struct text *json, const char *name, const char *value)
{
    text_add(json, name);
    text_add(json, "\"");
    text_add(json, value);
    text_add(json, "\"");
}

static void add_number(struct text *json, const char *name, uint64_t value)
{
    text_add(json, name);
    text_add_number(json, value);
}

static void add_date(struct text *json, const char *name, uint32_t seconds)
{
    char date[DATE_CHARACTERS + 1];
    date_text(seconds, date);
    add_text(json, name, date);
}

static void add_reason(struct text *json, const char *name, const char *code, const char *detail)
{
    text_add(json, name);
    add_text(json, "{\"code\":", code);
    add_text(json, ",\"detail\":", detail);
    text_add(json, "}");
}

static void add_release(struct text *json, const struct release *release)
{
    add_text(json, "\"version\":", release->version);
    add_text(json, ",\"variant\":", release->variant);
    text_add(json, ",\"manifest\":\"sha256:");
    text_add_hex(json, release->manifest, DIGEST_BYTES);
    text_add(json, "\"");
}

static void add_update(struct text *json, const struct report *report)
{
    text_add(json, "\"update\":{");
    add_release(json, &report->release);
    add_number(json, ",\"order\":", report->update_counter);
    add_text(json, ",\"state\":", UPDATES[report->update]);
    add_number(json, ",\"attempt\":", report->attempt);
    add_number(json, ",\"bytes_done\":", report->bytes_done);
    add_number(json, ",\"bytes_total\":", report->bytes_total);
    if (report->release.rollout[0] != '\0')
        add_text(json, ",\"rollout\":", report->release.rollout);
    if (report->reason != NULL)
        add_reason(json, ",\"reason\":", report->reason,
                   report->detail != NULL ? report->detail : report->reason);
    if (report->trial != NULL) {
        text_add(json, ",\"trial\":");
        text_add(json, report->trial);
    }
    text_add(json, "}");
}

static void add_installed(struct text *json, const char *name, const struct note *note)
{
    text_add(json, name);
    text_add(json, "{");
    add_release(json, &note->release);
    add_date(json, ",\"since\":", note->since);
    text_add(json, "}");
}

static void add_slot(struct text *json, const struct report *report)
{
    const char *comma = "";
    add_text(json, ",\"slots\":{", report->slot);
    text_add(json, ":{");
    if (report->running.counter != 0) {
        add_installed(json, "\"running\":", &report->running);
        comma = ",";
    }
    if (report->previous != NULL) {
        text_add(json, comma);
        add_installed(json, "\"previous\":", report->previous);
        comma = ",";
    }
    if (report->update != UPDATE_NONE) {
        text_add(json, comma);
        add_update(json, report);
    }
    text_add(json, "}}");
}

static void add_rejected(struct text *json, const struct report *report)
{
    for (uint32_t i = 0; i < report->rejected_count; i++) {
        text_add(json, i == 0 ? ",\"rejected\":[\"sha256:" : ",\"sha256:");
        text_add_hex(json, report->rejected[i], DIGEST_BYTES);
        text_add(json, "\"");
    }
    text_add(json, report->rejected_count == 0 ? "" : "]");
}

static void add_head(struct text *json, const struct report *report, uint32_t sequence,
                     bool online, uint32_t connection)
{
    add_text(json, "{\"device\":", report->identity->device);
    add_number(json, ",\"boot\":", report->boot);
    add_number(json, ",\"seq\":", sequence);
    text_add(json, online ? ",\"online\":true" : ",\"online\":false");
    add_number(json, ",\"connection\":", connection);
}

void report_will(const struct report *report, uint32_t connection, struct text *text)
{
    char bytes[WILL_BYTES_MAX];
    struct text json = text_in(bytes, sizeof bytes);
    add_head(&json, report, 0, false, connection);
    text_add(&json, "}");
    envelope_seal(report->identity, STATE_KIND, &json, text);
}

void report_state(const struct report *report, struct text *text)
{
    static char bytes[STATE_BYTES_MAX];
    struct text json = text_in(bytes, sizeof bytes);
    add_head(&json, report, report->sequence, true, report->connection);
    add_date(&json, ",\"sent_at\":", report->now);
    text_add(&json, ",\"agent_version\":\"" AGENT_VERSION "\"");
    if (report->order.counter != 0) {
        add_number(&json, ",\"order_counter\":", report->order.counter);
        add_text(&json, ",\"order_nonce\":", report->order.nonce);
    }
    if (report->refusal != ORDER_OBEYED) {
        add_reason(&json, ",\"refusal\":", VERDICTS[report->refusal], VERDICTS[report->refusal]);
        if (report->refused != 0)
            add_number(&json, ",\"refused_counter\":", report->refused);
    }
    text_add(&json, ",\"capabilities\":");
    text_add(&json, report->capabilities);
    add_slot(&json, report);
    add_rejected(&json, report);
    text_add(&json, "}");
    envelope_seal(report->identity, STATE_KIND, &json, text);
}

void report_missing(const struct report *report, const uint8_t blob[DIGEST_BYTES],
                    const int32_t *pieces, uint32_t count, struct text *text)
{
    char bytes[SEED_BYTES_MAX];
    struct text json = text_in(bytes, sizeof bytes);
    add_text(&json, "{\"device\":", report->identity->device);
    text_add(&json, ",\"blob\":\"sha256:");
    text_add_hex(&json, blob, DIGEST_BYTES);
    text_add(&json, "\",\"chunks\":[");
    for (uint32_t i = 0; i < count; i++) {
        text_add(&json, i == 0 ? "" : ",");
        text_add(&json, pieces[i] < 0 ? "-" : "");
        text_add_number(&json, (uint32_t)(pieces[i] < 0 ? -pieces[i] : pieces[i]));
    }
    text_add(&json, "]}");
    envelope_seal(report->identity, SEED_KIND, &json, text);
}
