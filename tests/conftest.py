"""What tests of the command line share."""

import pytest


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """An empty working folder, and a cache of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def call(capsys):
    """Runs a command line; returns exit code, stdout, stderr."""

    from betadiffusion.cli.main import main

    def run(*argv):
        code = main([str(argument) for argument in argv])
        return code, *capsys.readouterr()

    return run
