# Sentiment: running text, negation, steering, neurons.
