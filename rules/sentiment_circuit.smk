# Sentiment: the circuit on ToyMovieReview.
