/* power_cuts KEY NAME V1 V2 BAD SEEDS [parts]: cut the power at every flash operation of an update.
 *
 * V1 and V2 are good, with the counters 1 and 2; BAD has the counter 2, is signed, and gives other
 * answers than its golden cases say. With `parts` they are installed sector by sector, and what an
 * earlier attempt has left is kept. For each scenario, each operation and each seed: the power is
 * cut there, and again at every operation of the boot that follows; then the device boots in peace,
 * and the same update is tried once more. Prints one line of JSON a scenario; exit 1: a device that
 * did not boot what it should.
 */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "files.h"
#include "simulated_device.h"

enum { OLD, NEW, NONE, WRONG, OUTCOMES };

struct scenario {
    const char *name;
    const struct content *before; /* what runs; NULL: nothing yet */
    const struct content *update;
    uint64_t old_counter, new_counter; /* 0: none; what may run afterwards */
    int journal_records; /* appended before, so that a cut meets the change of sectors */
    bool rotten; /* the flash has lost a byte of what runs */
};

struct counts {
    int points, cuts, outcomes[OUTCOMES], retried, broken_rules;
};

static enum edgectl_status (*installs)(const struct edgectl_device *, const uint8_t *,
                                       size_t) = install;
static struct simulated_flash flash;
static struct edgectl_device device;

/* Boot in peace; returns the counter of what runs, 0 for nothing, and checks that it computes. */
static uint64_t boot_counter(void)
{
    struct edgectl_running running;
    if (edgectl_boot(&device, &running) != EDGECTL_OK)
        return 0;
    edgectl_run(&running.model, device.arena);
    return running.bundle.counter;
}

static void rot(void)
{
    struct edgectl_record record = edgectl_read_journal(&device.flash, device.journal);
    flash.memory[device.slots[record.active] + BUNDLE_HEADER_BYTES] ^= 1;
}

/* What runs has rotted: nothing older may come in its place. */
static bool refuses_older(const struct content *newer, const struct content *older,
                          const uint8_t *key, const char *name)
{
    begin_device(&device, &flash, key, name);
    installs(&device, newer->bytes, newer->length);
    bool before = boot_counter() != 0;
    rot();
    return before && installs(&device, older->bytes, older->length) == EDGECTL_NOT_NEWER &&
           boot_counter() == 0;
}

/* Make the device as it is before the update. */
static void prepare(const struct scenario *scenario, const uint8_t *key, const char *name)
{
    begin_device(&device, &flash, key, name);
    if (scenario->before != NULL) {
        installs(&device, scenario->before->bytes, scenario->before->length);
        boot_counter();
    }
    for (int i = 0; i < scenario->journal_records; i++) {
        struct edgectl_record record = edgectl_read_journal(&device.flash, device.journal);
        edgectl_append_record(&device.flash, device.journal, &record);
    }
    if (scenario->rotten)
        rot();
    flash.operations = 0;
}

/* Install and boot until the power is cut; false: it was not, all was done. */
static bool run_until_cut(const struct scenario *scenario, int cut_after)
{
    flash.cut_after = cut_after;
    if (setjmp(flash.power_cut) != 0)
        return true;
    installs(&device, scenario->update->bytes, scenario->update->length);
    boot_counter();
    flash.cut_after = NEVER;
    return false;
}

/* Boot until the power is cut; false: it was not. */
static bool boot_until_cut(int cut_after)
{
    flash.cut_after = cut_after;
    if (setjmp(flash.power_cut) != 0)
        return true;
    boot_counter();
    flash.cut_after = NEVER;
    return false;
}

static int outcome_of(const struct scenario *scenario, uint64_t counter)
{
    if (counter == scenario->new_counter && counter != 0)
        return NEW;
    if (counter != scenario->old_counter)
        return WRONG;
    return counter == 0 ? NONE : OLD;
}

/* Boot in peace and count what runs; then try the update again, which has to succeed. */
static void settle(const struct scenario *scenario, struct counts *counts)
{
    flash.cut_after = NEVER;
    counts->cuts++;
    counts->outcomes[outcome_of(scenario, boot_counter())]++;
    installs(&device, scenario->update->bytes, scenario->update->length);
    uint64_t wanted = scenario->new_counter ? scenario->new_counter : scenario->old_counter;
    counts->retried += boot_counter() == wanted;
    counts->broken_rules += flash.broken_rules;
}

static void cut_everywhere(const struct scenario *scenario, const uint8_t *key, const char *name,
                           uint32_t seed, struct counts *counts)
{
    static struct simulated_flash after_first;
    for (int point = 0;; point++) {
        prepare(scenario, key, name);
        flash.random = seed * 2654435761u + (uint32_t)point + 1;
        if (!run_until_cut(scenario, point)) {
            counts->points = point;
            return;
        }
        memcpy(&after_first, &flash, sizeof flash);
        settle(scenario, counts);
        for (int second = 0;; second++) { /* the power goes again while the device boots */
            memcpy(&flash, &after_first, sizeof flash);
            if (!boot_until_cut(second))
                break;
            settle(scenario, counts);
        }
    }
}

int main(int count, char **arguments)
{
    if (count != 7 && (count != 8 || strcmp(arguments[7], "parts") != 0)) {
        fputs("usage: power_cuts KEY NAME V1 V2 BAD SEEDS [parts]\n", stderr);
        return 2;
    }
    if (count == 8)
        installs = install_in_parts;
    struct content key = read_whole(arguments[1]);
    struct content v1 = read_whole(arguments[3]), v2 = read_whole(arguments[4]);
    struct content bad = read_whole(arguments[5]);
    const struct scenario scenarios[] = {
        {"first", NULL, &v1, 0, 1, 0, false},
        {"update", &v1, &v2, 1, 2, 0, false},
        {"bad", &v1, &bad, 1, 0, 0, false},
        {"update-at-a-full-sector", &v1, &v2, 1, 2, 123, false},
        {"update-at-both-full-sectors", &v1, &v2, 1, 2, 252, false},
        {"again-after-rot", &v1, &v1, 0, 1, 0, true},
    };
    bool good = refuses_older(&v2, &v1, key.bytes, arguments[2]);
    for (size_t i = 0; i < sizeof scenarios / sizeof *scenarios; i++) {
        struct counts counts = {0};
        for (int seed = 1; seed <= atoi(arguments[6]); seed++)
            cut_everywhere(&scenarios[i], key.bytes, arguments[2], (uint32_t)seed, &counts);
        printf("{\"scenario\": \"%s\", \"points\": %d, \"cuts\": %d, \"old\": %d, \"new\": %d, "
               "\"none\": %d, \"wrong\": %d, \"retried\": %d, \"broken_rules\": %d}\n",
               scenarios[i].name, counts.points, counts.cuts, counts.outcomes[OLD],
               counts.outcomes[NEW], counts.outcomes[NONE], counts.outcomes[WRONG],
               counts.retried, counts.broken_rules);
        good = good && counts.cuts > 0 && counts.outcomes[WRONG] == 0 &&
               counts.retried == counts.cuts && counts.broken_rules == 0;
    }
    free(key.bytes);
    free(v1.bytes);
    free(v2.bytes);
    free(bad.bytes);
    return good ? 0 : 1;
}
