"""Which rotation the inputs of a layer get, and its weights against it: a module each.

Each has its frozen ``Settings``, whose fields all stand in recipes, and

    block(channels, settings)

gives the orthogonal (B, B), float32, that every B neighbouring channels are multiplied by; B
divides the channels.
"""
