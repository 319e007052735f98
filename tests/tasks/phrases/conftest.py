"""Fixtures of the parser's tests."""

import pytest

from tasks.phrases import load_parser, parse


@pytest.fixture(scope="session")
def nlp():
    """The embedded parser."""
    return load_parser()


@pytest.fixture(scope="session")
def phrases_in(nlp):
    """Phrases of one caption."""
    return lambda caption: parse(nlp, [caption])[0]
