/* What the device is, as the server asks: docs/protocol.md, `Capabilities`. */
#ifndef MACHINE_H
#define MACHINE_H

#include "text.h"

/* Write the capabilities, JSON. What cannot be found out is left out. */
void machine_describe(struct text *json, const char *runtime_version);

#endif
