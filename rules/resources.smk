# What jobs ask for: memory from the model's shape and the data's size, minutes from the same.
#
# Memory, in MB, is a floor for what a job imports and holds whatever the model, then the weights twice (once they are held, once
# is room for what the widest layer makes), then streams. A test holds it to one to three times the measured peak, which every log
# ends with; on a cluster Snakemake's own process stands in it too, with some 200 MB. CUDA's share was never measured.
PLAIN = 500  # tables and a tokenizer, no torch
TORCH = 900  # torch and a model that is run: peaks of 330 to 490 MB
FITTED = 1200  # gradients, optimisers or several models at once: 500 to 620
JUDGED = 1300  # TransformerLens and transformers beside ours: 590
PICTURE = 500  # 190 to 400
LARGE_PICTURE = 1000  # many maps: 420 to 480
CUDA = 2000 * GPU  # its context and libraries, on the host


def megabytes(model):
    """fp32 weights of a model in MB, from its shape: 12 d^2 per layer, and 50 thousand words embedded and unembedded."""
    width = config["models"][model]["width"]
    words = 2_000 if model in TRAINED else 2 * 50_304
    return 4e-6 * (12 * config["models"][model]["layers"] * width**2 + words * width)


def memory(copies=0, floor=TORCH, weights=2):
    """Resource function: MB of memory; ``copies`` counts residual streams of all prompts and layers kept at once."""

    def resolve(wildcards, attempt):
        shape = config["models"][wildcards.model]
        rows = 3 * config["sequence_continuation"]["prompts_per_template"] * 23 * shape["layers"] * shape["width"]
        return int(attempt * (floor + CUDA + weights * megabytes(wildcards.model) + 4e-6 * rows * copies))

    return resolve


def source_memory(fetched):
    """Resource function: MB to read a data set: ``fetched`` for the published ones, little for an embedded model's."""

    def resolve(wildcards, attempt):
        return attempt * (PLAIN if wildcards.model in TRAINED else fetched)

    return resolve


def minutes(forwards):
    """Resource function: minutes on a GPU (or on a core, for models of up to 10 MB) for ``forwards`` passes over a data set."""

    def resolve(wildcards, attempt):
        work = forwards * megabytes(wildcards.model) * config["sequence_continuation"]["prompts_per_template"] / 512
        return int(attempt * (10 + work / (2000 if GPU else 40)))

    return resolve


def epochs():
    """Resource function: minutes of a core to train an arithmetic model, at twice the measured time of an epoch."""

    def resolve(wildcards, attempt):
        choices = config["circuit_probing"]
        work = choices["arithmetic"][wildcards.experiment]["epochs"] * len(choices["seeds"])
        return int(attempt * (10 + work / (1000 if GPU else 100)))

    return resolve


def checkpoints(each):
    """Resource function: minutes of a core for ``each`` minutes of work on every checkpoint of an arithmetic model."""

    def resolve(wildcards, attempt):
        choices = config["circuit_probing"]
        training = choices["arithmetic"][wildcards.experiment]
        kept = len({*training.get("checkpoints", ()), training["epochs"]}) * len(choices["seeds"])
        return int(attempt * (10 + kept * each / (10 if GPU else 1)))

    return resolve


def sentence_memory():
    """Resource function: MB for 7000 sentences of 10 tokens (their streams, and queries, keys and values of one block)."""

    def resolve(wildcards, attempt):
        streams = 7000 * 12 * config["models"][wildcards.model]["width"]
        return int(attempt * (FITTED + CUDA + 2 * megabytes(wildcards.model) + 4e-6 * 6 * streams))

    return resolve


def sentence_minutes():
    """Resource function: minutes for the masks and ablations of all layers, from what pocket and spec 6.2 measured."""

    def resolve(wildcards, attempt):
        shape = config["models"][wildcards.model]
        work = shape["layers"] ** 2 * shape["width"] ** 2 / (768**2 * 144)  # ablations go on to the last layer
        return int(attempt * (10 + work * (20 if GPU else 240)))

    return resolve


def text_length(model):
    """Tokens in a row of running text."""
    return 64 if model in TRAINED else 1024


def text_memory():
    """Resource function: MB for the activations of all tokens of running text, and for the widest layer of 64 rows."""

    def resolve(wildcards, attempt):
        rows = config["sentiment"]["text_rows"] or 11_000
        widest = 64 * 16 * config["models"][wildcards.model]["width"]
        kept = text_length(wildcards.model) * (4e-6 * widest + 150e-6 * rows)
        return int(attempt * (TORCH + CUDA + 2 * megabytes(wildcards.model) + kept))

    return resolve


def text_minutes(passes):
    """Resource function: minutes for ``passes`` runs over ``loss_rows`` rows, at 10 TFLOP/s (30 GFLOP/s on a core)."""

    def resolve(wildcards, attempt):
        tokens = passes * (config["sentiment"]["loss_rows"] or 11_000) * text_length(wildcards.model)
        work = tokens * megabytes(wildcards.model) / 4e6 * 2  # TFLOP: two operations per weight and token
        return int(attempt * (10 + work / 60 / (10 if GPU else 0.03)))

    return resolve
