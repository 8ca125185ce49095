/* Files that are whole after a power cut: written beside, synchronized, renamed.
 *
 * Rule: nothing is written in place of something that may be read. Folders are descriptors, so that no
 * path is put together, and links are not followed.
 */
#ifndef FILES_H
#define FILES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Open a folder, which is made (0700) where there is none; -1: it cannot be had. */
int files_folder(int parent, const char *name);

/* Replace a file by one with this content (0600), or leave what is there. */
bool files_write(int folder, const char *name, const void *bytes, size_t length);

/* Read a file of at most so many bytes; NULL: there is none, or it is longer. To be freed. */
uint8_t *files_read(int folder, const char *name, size_t bytes_max, size_t *length);

/* Remove a file, or a folder of files; what is not there is no mistake. */
bool files_remove(int parent, const char *name);

/* Call a function with the name of each file of a folder. */
void files_each(int folder, void (*what)(int folder, const char *name));

/* Have on the disk what the folder says of names. */
bool files_sync(int folder);

#endif
