#include "update.h"

#include <string.h>

#include "bytes.h"

enum { DIGEST_AT = 96 }; /* of the payload, in the header of a bundle */

/* ---------------------------------------------------------------- the state machine */

enum event {
    EVENT_STAGED, /* a bundle is whole in the other slot */
    EVENT_PASSED, /* it gives the signed answers */
    EVENT_FAILED, /* it does not, or cannot be read */
    EVENT_SPENT,  /* it has had its attempts */
};

typedef void action(struct edgectl_record *record, const struct edgectl_bundle *bundle);

static void stage(struct edgectl_record *record, const struct edgectl_bundle *bundle)
{
    (void)bundle;
    record->candidate = record->active == 0;
    record->attempts = 0;
}

static void commit(struct edgectl_record *record, const struct edgectl_bundle *bundle)
{
    record->active = record->candidate;
    record->candidate = NO_SLOT;
    record->floor = bundle->counter;
}

static void roll_back(struct edgectl_record *record, const struct edgectl_bundle *bundle)
{
    record->candidate = NO_SLOT;
    record->rejected = load_u64(bundle->digest);
}

static const struct {
    enum update_state state;
    enum event event;
    enum update_state next;
    action *act;
} TRANSITIONS[] = {
    {STATE_STEADY, EVENT_STAGED, STATE_TRIAL,  stage},
    {STATE_TRIAL,  EVENT_PASSED, STATE_STEADY, commit},
    {STATE_TRIAL,  EVENT_FAILED, STATE_STEADY, roll_back},
    {STATE_TRIAL,  EVENT_SPENT,  STATE_STEADY, roll_back},
};

/* Go on as the table says, and save it. An event without a row changes nothing: EDGECTL_BUSY. */
static enum edgectl_status go_on(const struct edgectl_device *device,
                                 struct edgectl_record *record, enum event event,
                                 const struct edgectl_bundle *bundle)
{
    for (size_t i = 0; i < sizeof TRANSITIONS / sizeof *TRANSITIONS; i++) {
        if (TRANSITIONS[i].state != (enum update_state)record->state ||
            TRANSITIONS[i].event != event)
            continue;
        TRANSITIONS[i].act(record, bundle);
        record->state = (uint8_t)TRANSITIONS[i].next;
        return edgectl_append_record(&device->flash, device->journal, record);
    }
    return EDGECTL_BUSY;
}

/* ---------------------------------------------------------------- what is in a slot */

static const uint8_t *slot_of(const struct edgectl_device *device, uint8_t slot)
{
    return device->flash.memory + device->slots[slot];
}

static bool fits(const struct edgectl_device *device, const struct edgectl_bundle *bundle)
{
    return bundle->payload_bytes <= device->slot_bytes - BUNDLE_HEADER_BYTES &&
           bundle->arena_bytes <= device->arena_bytes;
}

/* Check header, payload and model of a slot, and describe them. */
static enum edgectl_status check_slot(const struct edgectl_device *device, uint8_t slot,
                                      struct edgectl_running *found)
{
    const uint8_t *header = slot_of(device, slot), *payload = header + BUNDLE_HEADER_BYTES;
    struct edgectl_bundle *bundle = &found->bundle;
    enum edgectl_status status =
        edgectl_read_header(bundle, header, device->key, device->name);
    if (status != EDGECTL_OK)
        return status;
    if (!fits(device, bundle))
        return EDGECTL_TOO_LARGE;
    status = edgectl_check_payload(bundle, payload);
    if (status != EDGECTL_OK)
        return status;
    found->slot = slot;
    status = edgectl_load_model(&found->model, payload + bundle->model_offset,
                                bundle->payload_bytes - bundle->model_offset);
    if (status == EDGECTL_OK && found->model.arena_bytes > bundle->arena_bytes)
        return EDGECTL_TOO_LARGE;
    return status;
}

/* Check that what is active is what was committed. */
static enum edgectl_status check_active(const struct edgectl_device *device,
                                        const struct edgectl_record *record,
                                        struct edgectl_running *found)
{
    if (record->active == NO_SLOT || check_slot(device, record->active, found) != EDGECTL_OK ||
        found->bundle.counter < record->floor)
        return EDGECTL_NO_MODEL;
    return EDGECTL_OK;
}

/* Only what is above the floor; at it, what was committed last, where the flash has lost that. */
static bool is_new_enough(const struct edgectl_device *device,
                          const struct edgectl_record *record, uint64_t counter)
{
    struct edgectl_running active;
    if (counter != record->floor || record->active == NO_SLOT)
        return counter > record->floor;
    return check_active(device, record, &active) != EDGECTL_OK;
}

/* Compute every golden case and compare the answer, byte for byte. */
static enum edgectl_status test_itself(const struct edgectl_device *device,
                                       const struct edgectl_running *found)
{
    const struct edgectl_model *model = &found->model;
    const uint8_t *at = slot_of(device, found->slot) + BUNDLE_HEADER_BYTES;
    size_t input = (size_t)edgectl_tensor_of(model, model->input).elements;
    size_t output = (size_t)edgectl_tensor_of(model, model->output).elements;
    if (found->bundle.cases > found->bundle.model_offset / (input + output))
        return EDGECTL_BAD_BUNDLE;
    for (uint32_t i = 0; i < found->bundle.cases; i++, at += input + output) {
        if (device->alive != NULL)
            device->alive();
        memcpy(edgectl_values_of(model, device->arena, model->input), at, input);
        edgectl_run(model, device->arena);
        if (!same_bytes(edgectl_values_of(model, device->arena, model->output), at + input,
                        output))
            return EDGECTL_BAD_SELF_TEST;
    }
    return EDGECTL_OK;
}

/* ---------------------------------------------------------------- boot */

/* Say what comes of the trial; the attempt is saved first, so that one that resets is counted. */
static enum event try_candidate(const struct edgectl_device *device,
                                struct edgectl_record *record, struct edgectl_running *found)
{
    const uint8_t *digest = slot_of(device, record->candidate) + DIGEST_AT;
    memcpy(found->bundle.digest, digest, sizeof found->bundle.digest);
    if (record->attempts >= device->attempts_max)
        return EVENT_SPENT;
    record->attempts++;
    if (edgectl_append_record(&device->flash, device->journal, record) != EDGECTL_OK)
        return EVENT_FAILED;
    bool passed = check_slot(device, record->candidate, found) == EDGECTL_OK &&
                  is_new_enough(device, record, found->bundle.counter) &&
                  test_itself(device, found) == EDGECTL_OK;
    return passed ? EVENT_PASSED : EVENT_FAILED;
}

enum edgectl_status edgectl_boot(const struct edgectl_device *device,
                                 struct edgectl_running *running)
{
    struct edgectl_record record = edgectl_read_journal(&device->flash, device->journal);
    if (record.state == STATE_TRIAL) {
        enum event event = try_candidate(device, &record, running);
        enum edgectl_status status = go_on(device, &record, event, &running->bundle);
        if (status != EDGECTL_OK)
            return status;
    }
    return check_active(device, &record, running);
}

/* ---------------------------------------------------------------- install */

static uint32_t bytes_of(const struct edgectl_bundle *bundle)
{
    return BUNDLE_HEADER_BYTES + bundle->payload_bytes;
}

const uint8_t *edgectl_spare_slot(const struct edgectl_device *device)
{
    struct edgectl_record record = edgectl_read_journal(&device->flash, device->journal);
    return slot_of(device, record.active == 0);
}

enum edgectl_status edgectl_check_install(const struct edgectl_device *device,
                                          struct edgectl_install *install,
                                          const uint8_t header[BUNDLE_HEADER_BYTES])
{
    struct edgectl_record record = edgectl_read_journal(&device->flash, device->journal);
    enum edgectl_status status =
        edgectl_read_header(&install->bundle, header, device->key, device->name);
    if (status != EDGECTL_OK)
        return status;
    if (record.state == STATE_TRIAL)
        return EDGECTL_BUSY;
    if (!is_new_enough(device, &record, install->bundle.counter))
        return EDGECTL_NOT_NEWER;
    if (load_u64(install->bundle.digest) == record.rejected)
        return EDGECTL_REJECTED;
    if (!fits(device, &install->bundle))
        return EDGECTL_TOO_LARGE;
    install->slot = record.active == 0;
    install->at = install->end = install->held = 0;
    memcpy(install->header, header, BUNDLE_HEADER_BYTES);
    return EDGECTL_OK;
}

enum edgectl_status edgectl_begin_part(const struct edgectl_device *device,
                                       struct edgectl_install *install, uint32_t from,
                                       uint32_t length)
{
    uint32_t total = bytes_of(&install->bundle);
    if (from % FLASH_SECTOR_BYTES != 0 || from >= total || length > total - from ||
        (length % FLASH_SECTOR_BYTES != 0 && length != total - from) || length == 0)
        return EDGECTL_BAD_PAYLOAD;
    for (uint32_t at = from; at < from + length; at += FLASH_SECTOR_BYTES)
        if (!device->flash.erase(device->flash.context, device->slots[install->slot] + at))
            return EDGECTL_FLASH_FAILED;
    install->held = from == 0 ? BUNDLE_HEADER_BYTES : 0;
    install->at = from + install->held;
    install->end = from + length;
    memcpy(install->page, install->header, install->held);
    return EDGECTL_OK;
}

enum edgectl_status edgectl_begin_install(const struct edgectl_device *device,
                                          struct edgectl_install *install,
                                          const uint8_t header[BUNDLE_HEADER_BYTES])
{
    enum edgectl_status status = edgectl_check_install(device, install, header);
    if (status != EDGECTL_OK)
        return status;
    return edgectl_begin_part(device, install, 0, bytes_of(&install->bundle));
}

enum edgectl_status edgectl_end_part(const struct edgectl_device *device,
                                     struct edgectl_install *install)
{
    uint32_t held = install->held;
    if (held == 0)
        return EDGECTL_OK;
    install->held = 0;
    memset(install->page + held, FLASH_BLANK, FLASH_PAGE_BYTES - held);
    return device->flash.program(device->flash.context,
                                 device->slots[install->slot] + install->at - held,
                                 install->page)
               ? EDGECTL_OK
               : EDGECTL_FLASH_FAILED;
}

enum edgectl_status edgectl_add_payload(const struct edgectl_device *device,
                                        struct edgectl_install *install, const uint8_t *bytes,
                                        size_t length)
{
    if (length > install->end - install->at)
        return EDGECTL_BAD_PAYLOAD;
    for (size_t i = 0; i < length; i++) {
        install->page[install->held++] = bytes[i];
        install->at++;
        if (install->held == FLASH_PAGE_BYTES && edgectl_end_part(device, install) != EDGECTL_OK)
            return EDGECTL_FLASH_FAILED;
    }
    return EDGECTL_OK;
}

enum edgectl_status edgectl_end_install(const struct edgectl_device *device,
                                        struct edgectl_install *install)
{
    struct edgectl_record record = edgectl_read_journal(&device->flash, device->journal);
    struct edgectl_running found;
    if (install->at != install->end)
        return EDGECTL_BAD_PAYLOAD;
    if (edgectl_end_part(device, install) != EDGECTL_OK ||
        !same_bytes(slot_of(device, install->slot), install->header, BUNDLE_HEADER_BYTES))
        return EDGECTL_FLASH_FAILED;
    enum edgectl_status status = check_slot(device, install->slot, &found);
    if (status != EDGECTL_OK)
        return status;
    return go_on(device, &record, EVENT_STAGED, &found.bundle);
}
