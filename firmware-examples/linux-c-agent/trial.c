/* The trial: load a candidate, replay its golden cases, measure it, say what was seen, end. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "candidate.h"

enum { TIMED_RUNS = 200, TIMED_MS_MAX = 2000, PROCESSOR_S_MAX = 120 };

static double clock_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e6 + (double)now.tv_nsec / 1e3;
}

static uint64_t most_memory(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (uint64_t)usage.ru_maxrss * 1024;
}

/* Find a number of kilobytes in a file of /proc, in bytes; 0: it is not there. */
static uint64_t look_up(const char *path, const char *name)
{
    char line[256];
    unsigned long long kilobytes = 0;
    FILE *file = fopen(path, "re");
    while (file != NULL && fgets(line, sizeof line, file) != NULL)
        if (strncmp(line, name, strlen(name)) == 0)
            sscanf(line + strlen(name), ": %llu", &kilobytes);
    if (file != NULL)
        fclose(file);
    return kilobytes * 1024;
}

/* What runs away is ended: by its processor time, and by half of the machine's memory, beside what
 * is reserved now. */
static void limit(void)
{
    struct rlimit processor = {PROCESSOR_S_MAX, PROCESSOR_S_MAX}, core = {0, 0};
    uint64_t half = look_up("/proc/meminfo", "MemTotal") / 2;
    rlim_t data = look_up("/proc/self/status", "VmData") + half;
    struct rlimit memory = {data, data};
    setrlimit(RLIMIT_CPU, &processor);
    setrlimit(RLIMIT_CORE, &core);
    if (half != 0)
        setrlimit(RLIMIT_DATA, &memory);
}

static void put_inputs(struct candidate *candidate, uint32_t number)
{
    for (size_t i = 0; i < candidate->contract.input_count; i++) {
        size_t bytes = candidate->contract.inputs[i].bytes;
        memcpy(runner_input(candidate->runner, i), candidate->golden.inputs[i] + number * bytes,
               bytes);
    }
}

static bool agrees(struct candidate *candidate, uint32_t number, double *largest)
{
    bool all = true;
    for (size_t i = 0; i < candidate->contract.output_count; i++) {
        const struct tensor *tensor = &candidate->contract.outputs[i];
        if (candidate->golden.outputs[i] != NULL)
            all &= golden_agrees(tensor, runner_output(candidate->runner, i),
                                 candidate->golden.outputs[i] + number * tensor->bytes, largest);
    }
    return all;
}

/* Compute every golden case once. */
static bool replay(struct candidate *candidate, struct finding *finding)
{
    char problem[PROBLEM_MAX] = "";
    finding->total = candidate->contract.cases;
    for (uint32_t i = 0; i < finding->total; i++) {
        put_inputs(candidate, i);
        if (!runner_run(candidate->runner, problem))
            return found(finding, VERDICT_REJECTED, "trial.run", problem);
        finding->passed += agrees(candidate, i, &finding->largest_difference);
    }
    return true;
}

static int compare(const void *one, const void *other)
{
    double a = *(const double *)one, b = *(const double *)other;
    return (a > b) - (a < b);
}

static bool measure(struct candidate *candidate, struct finding *finding)
{
    double times[TIMED_RUNS], end = clock_us() + TIMED_MS_MAX * 1e3;
    char problem[PROBLEM_MAX] = "";
    uint32_t runs = 0;
    while (runs < TIMED_RUNS && (runs < 3 || clock_us() < end)) {
        put_inputs(candidate, runs % finding->total);
        double begun = clock_us();
        if (!runner_run(candidate->runner, problem))
            return found(finding, VERDICT_REJECTED, "trial.run", problem);
        times[runs++] = clock_us() - begun;
    }
    qsort(times, runs, sizeof *times, compare);
    finding->runs = runs;
    finding->p50_us = times[runs / 2];
    finding->p95_us = times[runs * 95 / 100];
    finding->rss_bytes = most_memory();
    return true;
}

static bool is_over(double measured, double limit)
{
    return limit > 0 && measured > limit;
}

static bool judge(const struct contract *contract, struct finding *finding)
{
    char detail[DETAIL_MAX + 1];
    if (finding->passed < contract->agreement_min * finding->total) {
        snprintf(detail, sizeof detail, "%u of %u golden cases agree, off by %.6g at most",
                 finding->passed, finding->total, finding->largest_difference);
        return found(finding, VERDICT_REJECTED, "trial.golden", detail);
    }
    if (is_over(finding->p95_us, contract->latency_p95_us) ||
        is_over(finding->load_ms, contract->load_ms) ||
        is_over((double)finding->rss_bytes, contract->rss_bytes)) {
        snprintf(detail, sizeof detail, "p95 %.0f us, loaded in %.0f ms, %llu bytes of memory",
                 finding->p95_us, finding->load_ms, (unsigned long long)finding->rss_bytes);
        return found(finding, VERDICT_REJECTED, "trial.budget", detail);
    }
    finding->verdict = VERDICT_OK;
    return true;
}

int trial_main(const char *state, const char *model, uint8_t slot, const struct release *release)
{
    static struct candidate candidate;
    struct finding finding = {0};
    double begun = clock_us();
    limit();
    if (candidate_load(&candidate, state, model, slot, release, &finding)) {
        finding.load_ms = (clock_us() - begun) / 1e3;
        if (replay(&candidate, &finding) && measure(&candidate, &finding))
            judge(&candidate.contract, &finding);
    }
    worker_say(&finding);
    return 0;
}
