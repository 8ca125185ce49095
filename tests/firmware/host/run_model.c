/* run_model MODEL INPUTS OUTPUTS: compute int8 samples, one behind the other. Exit 1: refused. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "files.h"
#include "model.h"

int main(int count, char **arguments)
{
    if (count != 4) {
        fputs("usage: run_model MODEL INPUTS OUTPUTS\n", stderr);
        return 2;
    }
    struct content file = read_whole(arguments[1]), inputs = read_whole(arguments[2]);
    struct edgectl_model model;
    if (edgectl_load_model(&model, file.bytes, file.length) != EDGECTL_OK) {
        free(inputs.bytes);
        free(file.bytes);
        return 1;
    }
    size_t input = (size_t)edgectl_tensor_of(&model, model.input).elements;
    size_t output = (size_t)edgectl_tensor_of(&model, model.output).elements;
    int8_t *arena = malloc(model.arena_bytes); /* its own block, so that a sanitizer sees its end */
    FILE *outputs = fopen(arguments[3], "wb");
    if (arena == NULL || outputs == NULL)
        return 2;
    for (size_t at = 0; at + input <= inputs.length; at += input) {
        memcpy(edgectl_values_of(&model, arena, model.input), inputs.bytes + at, input);
        edgectl_run(&model, arena);
        fwrite(edgectl_values_of(&model, arena, model.output), 1, output, outputs);
    }
    fclose(outputs);
    free(arena);
    free(inputs.bytes);
    free(file.bytes);
    return 0;
}
