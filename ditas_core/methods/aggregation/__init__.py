"""What smoothing reads of the channel maxima of all steps but for the largest: a module each.

Each has its frozen ``Settings``, whose fields all stand in recipes, and

    aggregate(act_absmax, w_absmax, settings)

from the largest magnitudes of the input's channels at each step (T, C) and of the weights that
share it (C,) to those (C,) that the smoothing factor is made of.
"""
