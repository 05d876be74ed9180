"""Around the tabs: the bar, the tour, the address, words, style, figures that move in place."""
