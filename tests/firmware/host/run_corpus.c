/* run_corpus FILE…: what a fuzzer runs, on files that are there; for compilers without a fuzzer. */
#include <stdio.h>
#include <stdlib.h>

#include "files.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length);

int main(int count, char **arguments)
{
    for (int i = 1; i < count; i++) {
        struct content content = read_whole(arguments[i]);
        LLVMFuzzerTestOneInput(content.bytes, content.length);
        free(content.bytes);
    }
    printf("%d files\n", count - 1);
    return 0;
}
