from weaksam.datasets.passed_over import PassedOver, by_suffix


def test_groups_by_suffix_whatever_its_case_and_puts_the_largest_first() -> None:
    found = by_suffix(["a.txt", "x/b.HEIC", "README", "c.heic", "d.txt", "e.heic"])

    assert found == (
        PassedOver("files .heic", 3, "x/b.HEIC", "convert them to JPEG or PNG"),
        PassedOver("files .txt", 2, "a.txt"),
        PassedOver("files without suffix", 1, "README"),
    )


def test_archives_and_films_have_remedies_of_their_own() -> None:
    assert [one.remedy for one in by_suffix(["a.ZIP", "b.mov", "c.odd"], remedy="none")] == [
        "take pictures out of them",
        "none",
        "unpack them",
    ]


def test_reads_as_a_phrase() -> None:
    assert (
        str(PassedOver("files .heic", 1200, "a.heic", "convert them"))
        == "1,200 files .heic (e.g. a.heic; convert them)"
    )
    assert str(PassedOver("files .txt", 1, "b.txt")) == "1 files .txt (e.g. b.txt)"
