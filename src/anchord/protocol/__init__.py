"""The protocol, without any I/O: inputs and the time go in, outputs come out, all of them plain values.

Nothing in this package opens a socket, starts a task, reads a clock or throws dice. The daemons, the lab and tests
run the same objects; a recorded run is a test case.
"""
