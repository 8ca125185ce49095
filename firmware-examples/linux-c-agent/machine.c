#include "machine.h"

#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>

enum { LINE_MAX_BYTES = 8192, VALUE_MAX = 127 };

/* Those that matter for inference, sorted; the agent in Python looks for the same. */
static const char *const FEATURES[] = {
    "amx_bf16", "amx_int8", "amx_tile",    "asimd",       "asimddp",     "asimdhp",  "atomics",
    "avx",      "avx2",     "avx512_bf16", "avx512_fp16", "avx512_vnni", "avx512bw", "avx512f",
    "avx512vl", "avx_vnni", "bf16",        "f16c",        "fma",         "fphp",     "i8mm",
    "neon",     "sse4_1",   "sse4_2",      "sve",         "sve2",        "vfpv4",
};

/* What is read is somebody else's: nothing of it may end a string of JSON. */
static void add_safely(struct text *json, const char *value)
{
    size_t length = strlen(value);
    for (size_t i = 0; i < length && i < VALUE_MAX; i++) {
        bool plain = value[i] >= ' ' && value[i] <= '~' && value[i] != '"' && value[i] != '\\';
        text_add_bytes(json, plain ? value + i : "?", 1);
    }
}

static void add_field(struct text *json, const char *name, const char *value)
{
    if (value[0] == '\0')
        return;
    text_add(json, ",\"");
    text_add(json, name);
    text_add(json, "\":\"");
    add_safely(json, value);
    text_add(json, "\"");
}

/* Find the value of the first line `name : value` of a file; "" where there is none. */
static const char *look_up(const char *path, const char *name, char line[LINE_MAX_BYTES])
{
    FILE *file = fopen(path, "re");
    const char *value = "";
    while (file != NULL && fgets(line, LINE_MAX_BYTES, file) != NULL) {
        size_t length = strlen(name);
        if (strncmp(line, name, length) != 0 || strspn(line + length, " \t:=") == 0)
            continue;
        char *begin = line + length + strspn(line + length, " \t:=\"");
        begin[strcspn(begin, "\n\"")] = '\0';
        value = begin;
        break;
    }
    if (file != NULL)
        fclose(file);
    return value;
}

static void add_cpu_model(struct text *json)
{
    char line[LINE_MAX_BYTES];
    const char *model = look_up("/proc/cpuinfo", "model name", line);
    if (model[0] == '\0') { /* ARM kernels name no processor; the device tree names the board */
        FILE *board = fopen("/proc/device-tree/model", "re");
        model = board != NULL && fgets(line, sizeof line, board) != NULL ? line : "";
        if (board != NULL)
            fclose(board);
    }
    add_field(json, "cpu_model", model);
}

static bool has_word(const char *words, const char *word)
{
    size_t length = strlen(word);
    for (const char *at = words; (at = strstr(at, word)) != NULL; at += length)
        if ((at == words || at[-1] == ' ') && (at[length] == ' ' || at[length] == '\0'))
            return true;
    return false;
}

static void add_cpu_features(struct text *json)
{
    char line[LINE_MAX_BYTES];
    const char *words = look_up("/proc/cpuinfo", "flags", line), *comma = "";
    if (words[0] == '\0')
        words = look_up("/proc/cpuinfo", "Features", line);
    text_add(json, ",\"cpu_features\":[");
    for (size_t i = 0; i < sizeof FEATURES / sizeof *FEATURES; i++) {
        if (!has_word(words, FEATURES[i]))
            continue;
        text_add(json, comma);
        text_add(json, "\"");
        text_add(json, FEATURES[i]);
        text_add(json, "\"");
        comma = ",";
    }
    text_add(json, "]");
}

static void add_numbers(struct text *json)
{
    char line[LINE_MAX_BYTES];
    unsigned long long kilobytes = 0;
    cpu_set_t processors;
    CPU_ZERO(&processors);
    if (sched_getaffinity(0, sizeof processors, &processors) == 0) {
        text_add(json, ",\"cores\":");
        text_add_number(json, (uint64_t)CPU_COUNT(&processors));
    }
    if (sscanf(look_up("/proc/meminfo", "MemTotal", line), "%llu", &kilobytes) == 1) {
        text_add(json, ",\"memory_bytes\":");
        text_add_number(json, kilobytes * 1024);
    }
}

void machine_describe(struct text *json, const char *runtime_version)
{
    struct utsname names;
    char line[LINE_MAX_BYTES];
    if (uname(&names) != 0)
        names.machine[0] = '\0';
    text_add(json, "{\"machine\":\"");
    add_safely(json, names.machine);
    text_add(json, "\"");
    add_cpu_model(json);
    add_cpu_features(json);
    add_numbers(json);
    add_field(json, "os", look_up("/etc/os-release", "PRETTY_NAME", line));
    text_add(json, ",\"runtimes\":{\"onnxruntime\":\"");
    add_safely(json, runtime_version);
    text_add(json, "\"}}");
}
