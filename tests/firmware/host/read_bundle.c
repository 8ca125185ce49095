/* read_bundle KEY NAME BUNDLE: check a bundle as a device does, by an installation into an empty
 * flash and a boot. Prints the status of each as a number; exit 1: it does not run. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "files.h"
#include "simulated_device.h"

int main(int count, char **arguments)
{
    static struct simulated_flash flash;
    static struct edgectl_device device;
    if (count != 4) {
        fputs("usage: read_bundle KEY NAME BUNDLE\n", stderr);
        return 2;
    }
    struct content key = read_whole(arguments[1]), bundle = read_whole(arguments[3]);
    struct edgectl_running running;
    begin_device(&device, &flash, key.bytes, arguments[2]);
    enum edgectl_status installed = install(&device, bundle.bytes, bundle.length);
    enum edgectl_status booted = edgectl_boot(&device, &running);
    printf("{\"installed\": %d, \"booted\": %d}\n", (int)installed, (int)booted);
    free(key.bytes);
    free(bundle.bytes);
    return booted != EDGECTL_OK;
}
