#include "link.h"

#include <string.h>

#include "bytes.h"
#include "crc32.h"

enum { HELLO_BYTES = 192 };

typedef size_t handler(struct link *link, const uint8_t *payload, size_t length, uint8_t *answer);

/* Each handler writes what it answers behind the status, which it returns in answer[0]; it returns the
 * length of both. */

static size_t say(uint8_t *answer, unsigned status)
{
    answer[0] = (uint8_t)status;
    return 1;
}

static void copy_text(uint8_t *to, const char *text, size_t size)
{
    memset(to, 0, size);
    for (size_t i = 0; i < size && text[i] != '\0'; i++)
        to[i] = (uint8_t)text[i];
}

static uint32_t elements_of(const struct link *link, bool output)
{
    const struct edgectl_model *model = &link->running.model;
    if (link->booted != EDGECTL_OK)
        return 0;
    return (uint32_t)edgectl_tensor_of(model, output ? model->output : model->input).elements;
}

static size_t hello(struct link *link, const uint8_t *payload, size_t length, uint8_t *answer)
{
    (void)payload, (void)length;
    const struct edgectl_device *device = link->device;
    struct edgectl_record record = edgectl_read_journal(&device->flash, device->journal);
    bool runs = link->booted == EDGECTL_OK;
    memset(answer, 0, HELLO_BYTES);
    answer[1] = LINK_VERSION;
    answer[2] = record.state;
    answer[3] = (uint8_t)link->booted;
    store_u32(answer + 4, LINK_DATA_BYTES);
    store_u32(answer + 8, FLASH_SECTOR_BYTES);
    store_u32(answer + 12, device->slot_bytes);
    store_u32(answer + 16, device->arena_bytes);
    store_u32(answer + 20, elements_of(link, false));
    store_u32(answer + 24, elements_of(link, true));
    store_u32(answer + 28, link->reader.dropped);
    store_u64(answer + 32, runs ? link->running.bundle.counter : 0);
    store_u64(answer + 40, record.floor);
    store_u64(answer + 48, record.rejected);
    answer[56] = runs ? link->running.slot : NO_SLOT;
    if (runs)
        memcpy(answer + 60, link->running.bundle.digest, LINK_RUNNING_DIGEST_BYTES);
    copy_text(answer + 76, device->name, BUNDLE_NAME_BYTES);
    copy_text(answer + 140, link->board.name, LINK_BOARD_BYTES);
    store_u32(answer + 172, link->board.memory_bytes);
    copy_text(answer + 176, link->board.machine, LINK_MACHINE_BYTES);
    answer[0] = EDGECTL_OK;
    return HELLO_BYTES;
}

static size_t begin(struct link *link, const uint8_t *payload, size_t length, uint8_t *answer)
{
    if (length != BUNDLE_HEADER_BYTES)
        return say(answer, LINK_MALFORMED);
    enum edgectl_status status = edgectl_check_install(link->device, &link->install, payload);
    link->begun = status == EDGECTL_OK;
    return say(answer, status);
}

/* Say whether the flash holds a part already. */
static bool is_there(const struct link *link, uint32_t from, uint32_t length,
                     const uint8_t digest[LINK_PART_DIGEST_BYTES])
{
    struct sha512 hash;
    uint8_t found[SHA512_BYTES];
    sha512_begin(&hash);
    sha512_add(&hash, edgectl_spare_slot(link->device) + from, length);
    sha512_end(&hash, found);
    return same_bytes(found, digest, LINK_PART_DIGEST_BYTES);
}

static size_t part(struct link *link, const uint8_t *payload, size_t length, uint8_t *answer)
{
    if (length != 8 + LINK_PART_DIGEST_BYTES)
        return say(answer, LINK_MALFORMED);
    if (!link->begun)
        return say(answer, LINK_NOT_BEGUN);
    uint32_t total = BUNDLE_HEADER_BYTES + link->install.bundle.payload_bytes;
    uint32_t from = load_u32(payload), bytes = load_u32(payload + 4);
    if (from % FLASH_SECTOR_BYTES != 0 || from >= total || bytes > FLASH_SECTOR_BYTES ||
        bytes != (total - from < FLASH_SECTOR_BYTES ? total - from : FLASH_SECTOR_BYTES))
        return say(answer, LINK_MALFORMED);
    bool there = is_there(link, from, bytes, payload + 8);
    answer[1] = there;
    if (there) {
        link->install.at = link->install.end = link->install.held = 0; /* no part is open */
        return say(answer, EDGECTL_OK) + 1;
    }
    return say(answer, edgectl_begin_part(link->device, &link->install, from, bytes)) + 1;
}

static size_t data(struct link *link, const uint8_t *payload, size_t length, uint8_t *answer)
{
    struct edgectl_install *install = &link->install;
    if (length <= 4 || length > 4 + LINK_DATA_BYTES)
        return say(answer, LINK_MALFORMED);
    if (!link->begun || install->at == install->end)
        return say(answer, LINK_NOT_BEGUN);
    store_u32(answer + 1, install->at);
    if (load_u32(payload) != install->at)
        return say(answer, LINK_ELSEWHERE) + 4;
    enum edgectl_status status =
        edgectl_add_payload(link->device, install, payload + 4, length - 4);
    if (status == EDGECTL_OK && install->at == install->end)
        status = edgectl_end_part(link->device, install);
    if (status == EDGECTL_FLASH_FAILED)
        link->begun = false;
    store_u32(answer + 1, install->at);
    return say(answer, status) + 4;
}

static size_t end(struct link *link, const uint8_t *payload, size_t length, uint8_t *answer)
{
    (void)payload, (void)length;
    if (!link->begun)
        return say(answer, LINK_NOT_BEGUN);
    link->begun = false;
    return say(answer, edgectl_end_install(link->device, &link->install));
}

static size_t reset(struct link *link, const uint8_t *payload, size_t length, uint8_t *answer)
{
    (void)payload, (void)length;
    link->reset = true;
    return say(answer, EDGECTL_OK);
}

static int8_t *values_of(const struct link *link, bool output)
{
    const struct edgectl_model *model = &link->running.model;
    return edgectl_values_of(model, link->device->arena, output ? model->output : model->input);
}

static size_t input(struct link *link, const uint8_t *payload, size_t length, uint8_t *answer)
{
    uint32_t size = elements_of(link, false);
    if (size == 0)
        return say(answer, EDGECTL_NO_MODEL);
    if (length <= 4 || length > 4 + LINK_DATA_BYTES || load_u32(payload) > size ||
        length - 4 > size - load_u32(payload))
        return say(answer, LINK_MALFORMED);
    memcpy(values_of(link, false) + load_u32(payload), payload + 4, length - 4);
    return say(answer, EDGECTL_OK);
}

static size_t run(struct link *link, const uint8_t *payload, size_t length, uint8_t *answer)
{
    (void)payload, (void)length;
    if (link->booted != EDGECTL_OK)
        return say(answer, EDGECTL_NO_MODEL);
    uint32_t begun = link->board.microseconds();
    edgectl_run(&link->running.model, link->device->arena);
    store_u32(answer + 1, link->board.microseconds() - begun);
    return say(answer, EDGECTL_OK) + 4;
}

static size_t output(struct link *link, const uint8_t *payload, size_t length, uint8_t *answer)
{
    uint32_t size = elements_of(link, true);
    if (size == 0)
        return say(answer, EDGECTL_NO_MODEL);
    if (length != 8 || load_u32(payload) > size || load_u32(payload + 4) > LINK_DATA_BYTES ||
        load_u32(payload + 4) > size - load_u32(payload))
        return say(answer, LINK_MALFORMED);
    uint32_t bytes = load_u32(payload + 4);
    memcpy(answer + 1, values_of(link, true) + load_u32(payload), bytes);
    return say(answer, EDGECTL_OK) + bytes;
}

static handler *const HANDLERS[] = {
    [LINK_HELLO] = hello, [LINK_BEGIN] = begin, [LINK_PART] = part,
    [LINK_DATA] = data,   [LINK_END] = end,     [LINK_RESET] = reset,
    [LINK_INPUT] = input, [LINK_RUN] = run,     [LINK_OUTPUT] = output,
};

void link_begin(struct link *link, const struct edgectl_device *device,
                const struct link_board *board)
{
    memset(link, 0, sizeof *link);
    link->device = device;
    link->board = *board;
    link->booted = edgectl_boot(device, &link->running);
}

size_t link_take(struct link *link, uint8_t byte)
{
    size_t length = frame_take(&link->reader, byte);
    if (length == 0)
        return 0;
    const uint8_t *frame = link->reader.bytes;
    uint8_t kind = frame[0], number = frame[1];
    if (kind & LINK_ANSWER)
        return 0; /* our own words, come back by a short circuit */
    uint32_t crc = edgectl_crc32(frame, length);
    if (link->answer_bytes != 0 && number == link->number && crc == link->request_crc)
        return link->answer_bytes;
    uint8_t *answer = link->content + FRAME_HEAD_BYTES;
    size_t said = say(answer, LINK_UNKNOWN);
    if (kind < sizeof HANDLERS / sizeof *HANDLERS && HANDLERS[kind] != NULL)
        said = HANDLERS[kind](link, frame + FRAME_HEAD_BYTES, length - FRAME_HEAD_BYTES, answer);
    link->content[0] = kind | LINK_ANSWER;
    link->content[1] = number;
    link->number = number;
    link->request_crc = crc;
    link->answer_bytes = frame_write(link->content, FRAME_HEAD_BYTES + said, link->coded);
    return link->answer_bytes;
}
