/* node FLASH boot | node FLASH install BUNDLE, and then, if wanted, the operation to cut.
 *
 * FLASH is the file that stands for the flash, where the board has none of its own.
 * Prints one line of JSON; the exit code is the status (core/status.h), 77: the power was cut.
 */
#include <string.h>

#include "board.h"
#include "device.h"

enum {
    PIECE_BYTES = 512, /* as they might come from a network */
    WORDS_MAX = 5,
    USAGE = 98,
};

static void print_field(const char *name, uint32_t number)
{
    board_print(name);
    board_print_number(number);
}

/* Install a bundle that is a file of the host, piece by piece. */
static enum edgectl_status install(const struct edgectl_device *device, const char *path)
{
    static struct edgectl_install one;
    uint8_t piece[PIECE_BYTES];
    int file = board_open(path, 0);
    uint32_t length = file < 0 ? 0 : board_length(file);
    if (length < BUNDLE_HEADER_BYTES || board_read(file, 0, piece, BUNDLE_HEADER_BYTES) != 0)
        return EDGECTL_BAD_BUNDLE;
    enum edgectl_status status = edgectl_begin_install(device, &one, piece);
    uint32_t used;
    for (uint32_t at = BUNDLE_HEADER_BYTES; status == EDGECTL_OK && at < length; at += used) {
        used = length - at < PIECE_BYTES ? length - at : PIECE_BYTES;
        if (board_read(file, at, piece, used) != 0)
            return EDGECTL_BAD_PAYLOAD;
        status = edgectl_add_payload(device, &one, piece, used);
    }
    return status == EDGECTL_OK ? edgectl_end_install(device, &one) : status;
}

/* Boot, and compute the first golden case once more, for its time. */
static enum edgectl_status boot(const struct edgectl_device *device)
{
    struct edgectl_running running;
    struct edgectl_bundle again;
    uint32_t begun = board_ticks();
    enum edgectl_status status = edgectl_boot(device, &running);
    print_field("\"boot_ticks\": ", board_ticks() - begun);
    board_print(", ");
    if (status != EDGECTL_OK)
        return status;
    const uint8_t *slot = device->flash.memory + device->slots[running.slot];
    begun = board_ticks();
    edgectl_read_header(&again, slot, device->key, device->name);
    print_field("\"signature_ticks\": ", board_ticks() - begun);
    const struct edgectl_model *model = &running.model;
    memcpy(edgectl_values_of(model, device->arena, model->input), slot + BUNDLE_HEADER_BYTES,
           (size_t)edgectl_tensor_of(model, model->input).elements);
    begun = board_ticks();
    edgectl_run(model, device->arena);
    print_field(", \"inference_ticks\": ", board_ticks() - begun);
    print_field(", \"counter\": ", (uint32_t)running.bundle.counter);
    print_field(", \"arena_bytes\": ", model->arena_bytes);
    print_field(", \"bundle_bytes\": ", BUNDLE_HEADER_BYTES + running.bundle.payload_bytes);
    board_print(", ");
    return status;
}

/* Cut a text at its spaces, in place; returns the number of words. */
static int words_of(char *text, char *words[WORDS_MAX])
{
    int count = 0;
    for (char *at = text; *at != '\0' && count < WORDS_MAX; count++) {
        words[count] = at;
        while (*at != '\0' && *at != ' ')
            at++;
        while (*at == ' ')
            *at++ = '\0';
    }
    return count;
}

static int number_of(const char *text)
{
    int number = 0;
    while (*text >= '0' && *text <= '9')
        number = number * 10 + (*text++ - '0');
    return number;
}

int main(void)
{
    static char text[512];
    struct edgectl_flash flash;
    char *words[WORDS_MAX];
    board_arguments(text, sizeof text);
    int count = words_of(text, words);
    bool installs = count >= 4 && strcmp(words[2], "install") == 0;
    if (!installs && (count < 3 || strcmp(words[2], "boot") != 0))
        return USAGE;
    int cut = installs ? 4 : 3;
    if (!board_begin_flash(&flash, words[1], count > cut ? number_of(words[cut]) : NEVER))
        return USAGE;
    struct edgectl_device device = node_device(flash);
    board_print("{");
    enum edgectl_status status = installs ? install(&device, words[3]) : boot(&device);
    print_field("\"operations\": ", board_flash_operations());
    print_field(", \"stack_bytes\": ", board_stack_bytes());
    print_field(", \"status\": ", (uint32_t)status);
    board_print("}\n");
    return (int)status;
}
