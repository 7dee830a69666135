"""The page of a run, as a list of sections; each lies in the room of what it shows.

To add a section: a ``Section`` with its template beside it, and a line in ``SECTIONS``, or an entry point of the group
``weaksam.report_sections`` that has the section's id as its name. Those of other packages come last, unless they say before
which section they stand.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from weaksam.registry import Registry

if TYPE_CHECKING:
    from pipelines.page.section import Section
    from pipelines.page.shown_run import ShownRun

SECTIONS: Registry[Section[ShownRun]] = Registry(
    "weaksam.report_sections",
    {  # by id, as they stand on the page
        "detections": "pipelines.evaluate.sections.detections:SECTION",
        "gallery": "pipelines.report.sections.gallery:SECTION",
        "failures": "pipelines.evaluate.sections.failures:SECTION",
        "pseudo-labels": "pipelines.evaluate.sections.pseudo_labels:SECTION",
        "pseudo-masks": "pipelines.evaluate.sections.pseudo_masks:SECTION",
        "seeds": "pipelines.evaluate.sections.seeds:SECTION",
        "label-maps": "pipelines.evaluate.sections.label_maps:SECTION",
        "agreement": "pipelines.evaluate.sections.agreement:SECTION",
        "classifier": "pipelines.evaluate.sections.classifier:SECTION",
        "recall": "pipelines.evaluate.sections.recall:SECTION",
        "counts": "pipelines.stages.propose.sections.counts:SECTION",
        "training": "pipelines.training.sections.losses:SECTION",
        "controls": "pipelines.analyse.sections.controls:SECTION",
        "similarity": "pipelines.analyse.sections.similarity:SECTION",
        "noise": "pipelines.analyse.sections.noise:SECTION",
        "stages": "pipelines.report.sections.stages:SECTION",
        "dropped": "pipelines.report.sections.dropped:SECTION",
        "run": "pipelines.report.sections.run:SECTION",
    },
)
