/* A model in onnxruntime, by its C API: loaded from memory, run on one sample. */
#ifndef RUNNER_H
#define RUNNER_H

#include "contract.h"

enum { PROBLEM_MAX = 200 };

struct runner;

/* Load a model and check it against the contract; NULL: `problem` says why. */
struct runner *runner_load(const uint8_t *model, size_t length, const struct contract *contract,
                           char problem[PROBLEM_MAX]);

/* Where each input is written before a run, and each output found after it. */
uint8_t *runner_input(struct runner *runner, size_t number);
const uint8_t *runner_output(const struct runner *runner, size_t number);

/* Run it. False: `problem` says why. */
bool runner_run(struct runner *runner, char problem[PROBLEM_MAX]);

/* Return onnxruntime's version. */
const char *runner_version(void);

#endif
