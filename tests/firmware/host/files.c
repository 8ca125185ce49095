#include "files.h"

#include <stdio.h>
#include <stdlib.h>

struct content read_whole(const char *path)
{
    FILE *file = fopen(path, "rb");
    if (file == NULL) {
        perror(path);
        exit(2);
    }
    fseek(file, 0, SEEK_END);
    long length = ftell(file);
    rewind(file);
    struct content content = {malloc((size_t)length + 1), (size_t)length};
    if (content.bytes == NULL || fread(content.bytes, 1, content.length, file) != content.length) {
        perror(path);
        exit(2);
    }
    fclose(file);
    return content;
}
