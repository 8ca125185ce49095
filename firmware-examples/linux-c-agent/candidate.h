/* A bundle in a slot, loaded to be run: what `trial` and `serve` have in common. */
#ifndef CANDIDATE_H
#define CANDIDATE_H

#include "golden.h"
#include "runner.h"
#include "workers.h"

struct candidate {
    struct contract contract;
    struct golden golden; /* of a trial */
    struct runner *runner;
};

/* Load the bundle of a slot; every byte of it has been hashed. False: `finding` says why not. */
bool candidate_load(struct candidate *candidate, const char *state, const char *model,
                    uint8_t slot, const struct release *release, struct finding *finding);

/* Write down what was found; returns false, so that it can be returned. */
bool found(struct finding *finding, enum verdict verdict, const char *code, const char *detail);

#endif
