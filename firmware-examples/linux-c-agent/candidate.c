#include "candidate.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "bundle_files.h"

bool found(struct finding *finding, enum verdict verdict, const char *code, const char *detail)
{
    finding->verdict = verdict;
    snprintf(finding->code, sizeof finding->code, "%s", code);
    snprintf(finding->detail, sizeof finding->detail, "%s", detail);
    return false;
}

/* Open the slot's folder, and be in it: where a model may look for more files, there are none. */
static bool enter(struct bundle *bundle, const char *state, uint8_t slot,
                  const uint8_t manifest[DIGEST_BYTES])
{
    if (chdir(state) != 0 || chdir(journal_slot_name(slot)) != 0)
        return false;
    int folder = open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return folder >= 0 && bundle_open(bundle, folder, manifest);
}

bool candidate_load(struct candidate *candidate, const char *state, const char *model,
                    uint8_t slot, const struct release *release, struct finding *finding)
{
    struct bundle bundle;
    size_t contract_bytes, golden_bytes, model_bytes;
    char problem[PROBLEM_MAX] = "";
    if (!enter(&bundle, state, slot, release->manifest))
        return found(finding, VERDICT_FAILED, "trial.unreadable", "its manifest is damaged");
    uint8_t *contract = bundle_read(&bundle, CONTRACT_FILE, &contract_bytes);
    uint8_t *golden = bundle_read(&bundle, GOLDEN_FILE, &golden_bytes);
    uint8_t *bytes = bundle_read(&bundle, MODEL_FILE, &model_bytes);
    if (contract == NULL || golden == NULL || bytes == NULL)
        return found(finding, VERDICT_FAILED, "trial.unreadable", "one of its files is damaged");
    const char *wrong = contract_read(&candidate->contract,
                                      json_read((const char *)contract, contract_bytes), model,
                                      release);
    if (wrong != NULL)
        return found(finding, VERDICT_REJECTED, "trial.load", wrong);
    if (!golden_read(&candidate->golden, &candidate->contract, golden, golden_bytes))
        return found(finding, VERDICT_REJECTED, "trial.golden_malformed",
                     "golden.npz is not what the contract says");
    candidate->runner = runner_load(bytes, model_bytes, &candidate->contract, problem);
    if (candidate->runner == NULL)
        return found(finding, VERDICT_REJECTED, "trial.load", problem);
    free(bytes); /* onnxruntime has a copy; the golden cases are used where they lie */
    free(contract);
    return true;
}
