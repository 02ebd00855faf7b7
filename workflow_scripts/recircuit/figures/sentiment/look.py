"""How directions are named and coloured in every picture of the sentiment paper."""

# The paper's order; DAS of two and three dimensions, and SVD, are in its tables alone.
METHODS = {
    "das": "DAS", "das2d": "DAS 2-d", "das3d": "DAS 3-d", "kmeans": "K-means", "logistic_regression": "LR",
    "mean_diff": "mean diff", "pca": "PCA", "svd": "SVD", "random": "random",
}  # fmt: skip
METHOD_COLOURS = {
    "das": "#d62728", "das2d": "#e377c2", "das3d": "#8c564b", "kmeans": "#1f77b4", "logistic_regression": "#2ca02c",
    "mean_diff": "#ff7f0e", "pca": "#9467bd", "svd": "#17becf", "random": "#7f7f7f",
}  # fmt: skip
SETS = {"movie": "reviews", "adverb": "adverbs", "book": "books", "res": "restaurants", "product": "products"}
POSITIVE, NEGATIVE, CENTROID = "#2166ac", "#b2182b", "#1a9850"  # the paper's blue, red and green
SIGNED = "RdBu"  # red negative, white zero, blue positive
