# Sentiment: mood stories and reviews: summaries, and the direction removed.
