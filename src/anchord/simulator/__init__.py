"""The protocol objects under a virtual clock, in a network that loses, repeats, delays and cuts: ``anchord sim check``.

Nothing here reads a clock or the machine's randomness: a seed and a commit say all there is to know about a run.
"""
