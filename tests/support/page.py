"""A reader of HTML pages, and runs for their sections."""

from __future__ import annotations

import html.parser
import re
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.page.shown_run import ShownRun
from pipelines.registry import product_of
from tests.support.drawn_run import drawn_recipe
from tests.support.sets import instance_of
from weaksam.datasets.label_maps import NO_MAPS
from weaksam.errors import ImageError

NASTY = '<script>alert("x")</script>'


class Page(html.parser.HTMLParser):
    """Collects what a reader of the page meets."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.open, self.text = [], [], [], ""
        self.feed(str(text))  # of markup, whose pieces would escape what they are joined to

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br", "line", "path", "circle", "rect", "polyline"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag in self.open:
            assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data):
        self.text += data

    def of(self, tag):
        return [attrs for name, attrs in self.attributes if name == tag]


def shown_run(run_uri: str, *names: str, **changes: Any) -> ShownRun:
    """A run with instances of the key "k"; its images cannot be read, and their true boxes are not known."""
    run = ShownRun(
        recipe=drawn_recipe(),
        uri=run_uri,
        products={name: product_of(instance_of(run_uri, name)) for name in names},
        ground_truth=lambda _split: {},
        true_masks=lambda _split: {},
        true_label_maps=lambda _split: NO_MAPS,
        read_image=gone,
    )
    return replace(run, **changes)


def gone(_image_id: str) -> NDArray[np.uint8]:
    raise ImageError("missing", "deleted")


def text_of(markup: str) -> str:
    """What a reader of a page reads, in one line."""
    return re.sub(r"\s+", " ", Page(markup).text)
