"""Statistics of inputs and answers: what the server's reference and the device's counts share.

A reference says nothing unless both sides compute the same: the pipeline and the inference process
both call this package. NumPy is all that it needs.
"""
