#include "journal.h"

#include "bytes.h"
#include "crc32.h"

enum {
    RECORDS_PER_SECTOR = JOURNAL_BYTES / RECORD_BYTES,
    RECORDS_PER_PAGE = FLASH_PAGE_BYTES / RECORD_BYTES,
    CRC_AT = RECORD_BYTES - 4,
    NOWHERE = -1,
};

static void encode(const struct edgectl_record *record, uint8_t bytes[RECORD_BYTES])
{
    store_u32(bytes, record->sequence);
    bytes[4] = record->state;
    bytes[5] = record->active;
    bytes[6] = record->candidate;
    bytes[7] = record->attempts;
    store_u64(bytes + 8, record->floor);
    store_u64(bytes + 16, record->rejected);
    store_u32(bytes + 24, 0);
    store_u32(bytes + CRC_AT, edgectl_crc32(bytes, CRC_AT));
}

/* Read a record; false: it is none, or torn. */
static bool decode(const uint8_t *bytes, struct edgectl_record *record)
{
    if (load_u32(bytes + CRC_AT) != edgectl_crc32(bytes, CRC_AT))
        return false;
    *record = (struct edgectl_record){
        .sequence = load_u32(bytes),
        .state = bytes[4],
        .active = bytes[5],
        .candidate = bytes[6],
        .attempts = bytes[7],
        .floor = load_u64(bytes + 8),
        .rejected = load_u64(bytes + 16),
    };
    bool steady = record->state == STATE_STEADY && record->candidate == NO_SLOT;
    bool trial = record->state == STATE_TRIAL && record->candidate <= 1 &&
                 record->candidate != record->active;
    return record->sequence != 0 && (steady || trial) &&
           (record->active <= 1 || record->active == NO_SLOT);
}

/* Find the latest record; returns its number in both sectors, or NOWHERE. */
static int find_latest(const uint8_t *journal, struct edgectl_record *latest)
{
    int found = NOWHERE;
    *latest = (struct edgectl_record){
        .state = STATE_STEADY, .active = NO_SLOT, .candidate = NO_SLOT};
    for (int i = 0; i < JOURNAL_SECTORS * RECORDS_PER_SECTOR; i++) {
        struct edgectl_record record;
        const uint8_t *sector = journal + i / RECORDS_PER_SECTOR * FLASH_SECTOR_BYTES;
        if (decode(sector + i % RECORDS_PER_SECTOR * RECORD_BYTES, &record) && record.sequence > latest->sequence) {
            *latest = record;
            found = i;
        }
    }
    return found;
}

struct edgectl_record edgectl_read_journal(const struct edgectl_flash *flash, uint32_t offset)
{
    struct edgectl_record latest;
    find_latest(flash->memory + offset, &latest);
    return latest;
}

/* Find the first place of a sector behind which all is blank; RECORDS_PER_SECTOR: there is none. */
static int first_blank(const uint8_t *sector)
{
    int end = JOURNAL_BYTES;
    while (end > 0 && sector[end - 1] == FLASH_BLANK)
        end--;
    return (end + RECORD_BYTES - 1) / RECORD_BYTES;
}

/* Program a record into its place; the rest of the page stays as it is. */
static bool program(const struct edgectl_flash *flash, uint32_t sector, int place,
                    const uint8_t bytes[RECORD_BYTES])
{
    uint8_t page[FLASH_PAGE_BYTES];
    for (int i = 0; i < FLASH_PAGE_BYTES; i++)
        page[i] = FLASH_BLANK;
    for (int i = 0; i < RECORD_BYTES; i++)
        page[place % RECORDS_PER_PAGE * RECORD_BYTES + i] = bytes[i];
    uint32_t at = sector + (uint32_t)(place / RECORDS_PER_PAGE) * FLASH_PAGE_BYTES;
    return flash->program(flash->context, at, page) &&
           same_bytes(flash->memory + sector + (uint32_t)place * RECORD_BYTES, bytes,
                      RECORD_BYTES);
}

enum edgectl_status edgectl_append_record(const struct edgectl_flash *flash, uint32_t offset,
                                          struct edgectl_record *record)
{
    struct edgectl_record latest;
    int found = find_latest(flash->memory + offset, &latest);
    uint32_t sector = found < RECORDS_PER_SECTOR ? 0 : FLASH_SECTOR_BYTES;
    int place = first_blank(flash->memory + offset + sector);
    if (place == RECORDS_PER_SECTOR) {
        if (found != NOWHERE) /* what is latest stays until there is a later one */
            sector = FLASH_SECTOR_BYTES - sector;
        if (!flash->erase(flash->context, offset + sector))
            return EDGECTL_FLASH_FAILED;
        place = 0;
    }
    uint8_t bytes[RECORD_BYTES];
    record->sequence = latest.sequence + 1;
    encode(record, bytes);
    return program(flash, offset + sector, place, bytes) ? EDGECTL_OK : EDGECTL_FLASH_FAILED;
}
