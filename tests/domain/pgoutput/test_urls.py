"""A password is taken out of a URL before it is stored, and put back when it is used."""

from __future__ import annotations

import pytest

from pitr.domain.errors import InvalidRequest
from pitr.domain.pgoutput.urls import split_password, with_password


@pytest.mark.parametrize(
    ("url", "plain", "password"),
    [
        ("postgresql://a:p%40ss@h:5/db", "postgresql://a@h:5/db", "p@ss"),
        ("postgres://a@h/db", "postgres://a@h/db", None),
        (
            "postgresql:///db?host=/run&password=pw&port=5",
            "postgresql:///db?host=%2Frun&port=5",
            "pw",
        ),
        ("postgresql://h1:5,h2:6/db?x=y", "postgresql://h1:5,h2:6/db?x=y", None),
        ("postgresql://a:@h/db", "postgresql://a@h/db", ""),
    ],
)
def test_the_password_is_taken_out(url: str, plain: str, password: str | None) -> None:
    assert split_password(url) == (plain, password)


def test_a_password_of_any_characters_is_put_back() -> None:
    given = with_password("postgresql://a@h/db?x=y", "p @&?=é")
    assert split_password(given) == ("postgresql://a@h/db?x=y", "p @&?=é")
    assert with_password("postgresql://a@h/db", None) == "postgresql://a@h/db"


@pytest.mark.parametrize("url", ["", "db", "mysql://h/db", "postgresql:db"])
def test_what_is_no_url_of_a_database_is_refused(url: str) -> None:
    with pytest.raises(InvalidRequest, match="no URL of a database"):
        split_password(url)
