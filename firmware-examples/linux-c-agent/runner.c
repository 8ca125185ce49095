#include "runner.h"

#include <onnxruntime_c_api.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct runner {
    const struct contract *contract;
    OrtSession *session;
    const char *input_names[TENSORS_MAX], *output_names[TENSORS_MAX];
    uint8_t *input_bytes[TENSORS_MAX];
    OrtValue *inputs[TENSORS_MAX], *outputs[TENSORS_MAX];
    const uint8_t *output_bytes[TENSORS_MAX];
};

static const OrtApi *api(void)
{
    return OrtGetApiBase()->GetApi(ORT_API_VERSION);
}

const char *runner_version(void)
{
    return OrtGetApiBase()->GetVersionString();
}

/* Say whether a call went well; what went wrong is written down. */
static bool went(OrtStatus *status, char problem[PROBLEM_MAX])
{
    if (status == NULL)
        return true;
    snprintf(problem, PROBLEM_MAX, "%s", api()->GetErrorMessage(status));
    api()->ReleaseStatus(status);
    return false;
}

static bool make_inputs(struct runner *runner, char problem[PROBLEM_MAX])
{
    OrtMemoryInfo *memory = NULL;
    bool done =
        went(api()->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &memory), problem);
    for (size_t i = 0; done && i < runner->contract->input_count; i++) {
        const struct tensor *tensor = &runner->contract->inputs[i];
        runner->input_bytes[i] = calloc(1, tensor->bytes);
        if (runner->input_bytes[i] == NULL) {
            snprintf(problem, PROBLEM_MAX, "not enough memory");
            done = false;
            break;
        }
        done = went(api()->CreateTensorWithDataAsOrtValue(
                        memory, runner->input_bytes[i], tensor->bytes, tensor->shape,
                        tensor->axes, (ONNXTensorElementDataType)tensor->type->onnx,
                        &runner->inputs[i]),
                    problem);
    }
    if (memory != NULL)
        api()->ReleaseMemoryInfo(memory);
    return done;
}

/* One thread: an agent on a small device leaves the other processors to their owner. */
static bool make_session(struct runner *runner, const uint8_t *model, size_t length,
                         char problem[PROBLEM_MAX])
{
    OrtEnv *environment = NULL; /* lives as long as the process */
    OrtSessionOptions *options = NULL;
    bool done =
        went(api()->CreateEnv(ORT_LOGGING_LEVEL_ERROR, "edgectl", &environment), problem) &&
        went(api()->CreateSessionOptions(&options), problem) &&
        went(api()->SetIntraOpNumThreads(options, 1), problem) &&
        went(api()->SetInterOpNumThreads(options, 1), problem) &&
        went(api()->CreateSessionFromArray(environment, model, length, options, &runner->session),
             problem);
    if (options != NULL)
        api()->ReleaseSessionOptions(options);
    return done;
}

struct runner *runner_load(const uint8_t *model, size_t length, const struct contract *contract,
                           char problem[PROBLEM_MAX])
{
    struct runner *runner = calloc(1, sizeof *runner);
    if (runner == NULL || api() == NULL) {
        snprintf(problem, PROBLEM_MAX, "no memory, or an onnxruntime older than its header");
        return NULL;
    }
    runner->contract = contract;
    for (size_t i = 0; i < contract->input_count; i++)
        runner->input_names[i] = contract->inputs[i].name;
    for (size_t i = 0; i < contract->output_count; i++)
        runner->output_names[i] = contract->outputs[i].name;
    /* Of a process that ends when this fails: nothing is released. */
    return make_session(runner, model, length, problem) && make_inputs(runner, problem) ? runner
                                                                                        : NULL;
}

uint8_t *runner_input(struct runner *runner, size_t number)
{
    return runner->input_bytes[number];
}

const uint8_t *runner_output(const struct runner *runner, size_t number)
{
    return runner->output_bytes[number];
}

/* Find the elements of an output, which has to be what the contract says. */
static bool take_output(struct runner *runner, size_t number, char problem[PROBLEM_MAX])
{
    const struct tensor *tensor = &runner->contract->outputs[number];
    OrtTensorTypeAndShapeInfo *info = NULL;
    ONNXTensorElementDataType type = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
    size_t elements = 0;
    void *bytes = NULL;
    bool done = went(api()->GetTensorTypeAndShape(runner->outputs[number], &info), problem) &&
                went(api()->GetTensorElementType(info, &type), problem) &&
                went(api()->GetTensorShapeElementCount(info, &elements), problem) &&
                went(api()->GetTensorMutableData(runner->outputs[number], &bytes), problem);
    if (info != NULL)
        api()->ReleaseTensorTypeAndShapeInfo(info);
    if (done && ((int)type != tensor->type->onnx || elements != tensor->elements)) {
        snprintf(problem, PROBLEM_MAX, "output %.64s is of another type or size than agreed",
                 tensor->name);
        return false;
    }
    runner->output_bytes[number] = bytes;
    return done;
}

bool runner_run(struct runner *runner, char problem[PROBLEM_MAX])
{
    const struct contract *contract = runner->contract;
    for (size_t i = 0; i < contract->output_count; i++) {
        if (runner->outputs[i] != NULL)
            api()->ReleaseValue(runner->outputs[i]);
        runner->outputs[i] = NULL;
    }
    if (!went(api()->Run(runner->session, NULL, runner->input_names,
                         (const OrtValue *const *)runner->inputs, contract->input_count,
                         runner->output_names, contract->output_count, runner->outputs),
              problem))
        return false;
    for (size_t i = 0; i < contract->output_count; i++)
        if (!take_output(runner, i, problem))
            return false;
    return true;
}
