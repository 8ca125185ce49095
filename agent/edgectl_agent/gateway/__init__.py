"""The gateway: the agent of a device that is not on the network, on a serial line of this one."""
