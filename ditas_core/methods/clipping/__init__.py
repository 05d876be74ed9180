"""Which range a weight's codes cover where it is not all of the weight: a module each.

Each has its frozen ``Settings``, whose fields all stand in recipes, and

    ranges(target, spec, settings)

target (C_out, C) gives parameters as ``choose_qparams`` shapes them; ``roundings(settings)`` is how
often that rounds the target.
"""
