"""How good matching is: data sets, the fit of the score's weights, and what they are worth."""
