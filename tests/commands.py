"""Arguments of the commands in the tests; the folder is that of the fixture `given`."""


def prune_arguments(folder, *more, output="pruned"):
    return ["prune", str(folder / "model"), "--train", str(folder / "train.jsonl"),
            "--eval", str(folder / "eval.jsonl"), "--output", str(folder / output), "--quiet", *more]  # fmt: skip
