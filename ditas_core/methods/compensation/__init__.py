"""Which codes a weight gets so that their errors make up for each other: a module each.

Each has its frozen ``Settings``, whose fields all stand in recipes, and

    codes(target, params, moment, spec, settings)

target (C_out, C), its parameters as ``choose_qparams`` shapes them, and the second moment of the
input give int32 codes (C_out, C) within the spec's limits.
"""
