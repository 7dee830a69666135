"""What errors say."""

import pickle

import pytest

from weaksam.errors import ConfigError, DataError, ImageError


@pytest.mark.parametrize("kind", [ConfigError, DataError, ImageError])
def test_a_word_without_end_does_not_hide_what_the_message_says(kind: type[Exception]) -> None:
    error = kind(f"a.xml: expected <annotation>, got <{'a' * 20_000}>; write it again")
    assert str(error) == f"a.xml: expected <annotation>, got <{'a' * 199} … write it again"
    assert len(str(error)) < 300
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_paths_stay_whole() -> None:
    path = "/" + "/".join(["folder"] * 100)
    assert str(DataError(f"{path}: missing")) == f"{path}: missing"
