#include "files.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { FOLDER_FLAGS = O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW };

int files_folder(int parent, const char *name)
{
    if (mkdirat(parent, name, 0700) != 0 && errno != EEXIST)
        return -1;
    return openat(parent, name, FOLDER_FLAGS);
}

bool files_sync(int folder)
{
    return fsync(folder) == 0;
}

static bool write_all(int file, const uint8_t *bytes, size_t length)
{
    while (length > 0) {
        ssize_t written = write(file, bytes, length);
        if (written < 0 && errno == EINTR)
            continue;
        if (written <= 0)
            return false;
        bytes += written;
        length -= (size_t)written;
    }
    return true;
}

bool files_write(int folder, const char *name, const void *bytes, size_t length)
{
    char beside[NAME_MAX + 1];
    if (snprintf(beside, sizeof beside, ".%s.new", name) >= (int)sizeof beside)
        return false;
    int file = openat(folder, beside, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (file < 0)
        return false;
    bool done = write_all(file, bytes, length) && fsync(file) == 0;
    done &= close(file) == 0;
    return done && renameat(folder, beside, folder, name) == 0 && files_sync(folder);
}

uint8_t *files_read(int folder, const char *name, size_t bytes_max, size_t *length)
{
    struct stat found;
    int file = openat(folder, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (file < 0)
        return NULL;
    uint8_t *bytes = NULL;
    if (fstat(file, &found) == 0 && S_ISREG(found.st_mode) && found.st_size >= 0 &&
        (uint64_t)found.st_size <= bytes_max)
        bytes = malloc((size_t)found.st_size + 1);
    size_t taken = 0;
    while (bytes != NULL && taken < (size_t)found.st_size) {
        ssize_t more = read(file, bytes + taken, (size_t)found.st_size - taken);
        if (more < 0 && errno == EINTR)
            continue;
        if (more <= 0) {
            free(bytes);
            bytes = NULL;
        } else {
            taken += (size_t)more;
        }
    }
    close(file);
    *length = taken;
    return bytes;
}

void files_each(int folder, void (*what)(int folder, const char *name))
{
    int again = openat(folder, ".", FOLDER_FLAGS); /* closedir closes it */
    DIR *opened = again < 0 ? NULL : fdopendir(again);
    if (opened == NULL) {
        if (again >= 0)
            close(again);
        return;
    }
    struct dirent *entry;
    while ((entry = readdir(opened)) != NULL)
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            what(folder, entry->d_name);
    closedir(opened);
}

static void remove_file(int folder, const char *name)
{
    unlinkat(folder, name, 0);
}

bool files_remove(int parent, const char *name)
{
    if (unlinkat(parent, name, 0) == 0 || errno == ENOENT)
        return true;
    int folder = openat(parent, name, FOLDER_FLAGS);
    if (folder < 0)
        return false;
    files_each(folder, remove_file);
    close(folder);
    return unlinkat(parent, name, AT_REMOVEDIR) == 0;
}
