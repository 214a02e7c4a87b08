"""Settings of the property tests of the wire layer."""

from hypothesis import settings

# What is slow here is the machine, when it is busy: no test is about the time one example takes.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")
