/* Files of the tests, read whole. */
#ifndef FILES_H
#define FILES_H

#include <stddef.h>
#include <stdint.h>

struct content {
    uint8_t *bytes;
    size_t length;
};

/* Read a file, or end the program with a message. The bytes are the caller's to free. */
struct content read_whole(const char *path);

#endif
