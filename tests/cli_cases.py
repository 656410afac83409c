"""What commands leave: one sentence, no half of a file."""


def sentence(error):
    """The one line on stderr, without the program's name."""
    assert error.startswith("betadiffusion: ")
    assert error.count("\n") == 1
    return error.removeprefix("betadiffusion: ").rstrip("\n")


def left_over(folder):
    return [path for path in folder.rglob("*") if "partial" in path.name]
