"""The style of figures, as constants: the page and the report of an evaluation draw with it.

The colours are those of Okabe and Ito, which colour-blind readers can distinguish, with a lighter blue for dark pages.
Each colour has a dash and a symbol.
"""

COLOURS = ("#1F87CC", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "star")
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
