/* The agent: what follows from what. It runs until it is told to end. */
#ifndef AGENT_H
#define AGENT_H

#define SOCKET_NAME "infer.sock"

/* Be the device whose identity lies in the folder `state`, for one model; returns the exit code. */
int agent_main(const char *state, const char *model);

#endif
