"""A small MQTT 5 broker for one process: demo, tests, sites up to some hundreds of devices."""
