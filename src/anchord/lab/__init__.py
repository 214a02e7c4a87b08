"""Domains in network namespaces: real daemons, the real kernel, unmodified hosts.

``topology`` says what a domain consists of, ``namespaces`` builds its network, ``domain`` adds the processes and is
what everything else uses: the command ``anchord lab``, the demo, the benchmark and the tests.
"""
