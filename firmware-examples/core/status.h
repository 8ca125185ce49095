/* What can come of a call. Every refusal has one code, which a device reports. */
#ifndef EDGECTL_STATUS_H
#define EDGECTL_STATUS_H

enum edgectl_status {
    EDGECTL_OK = 0,
    EDGECTL_BAD_BUNDLE,    /* not a bundle, or its lengths contradict each other */
    EDGECTL_BAD_SIGNATURE, /* not signed by the pinned key */
    EDGECTL_BAD_PAYLOAD,   /* its bytes are not those that were signed */
    EDGECTL_OTHER_MODEL,   /* a bundle of a model that this device does not run */
    EDGECTL_NOT_NEWER,     /* its counter is not above the floor: a replay, or an older version */
    EDGECTL_REJECTED,      /* it has failed its trial on this device before */
    EDGECTL_TOO_LARGE,     /* it does not fit into a slot, or its model not into the arena */
    EDGECTL_BAD_MODEL,     /* the model breaks a rule of its format */
    EDGECTL_BAD_SELF_TEST, /* an answer is not the one that was signed */
    EDGECTL_NO_MODEL,      /* there is none that may run: a new one has to be installed */
    EDGECTL_BUSY,          /* one that was installed has not been tried yet */
    EDGECTL_FLASH_FAILED   /* the flash does not hold what was written */
};

#endif
