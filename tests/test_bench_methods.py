"""`bench methods` times every shipped method beside diffusers' guider, cfg and a copy, and says what it cannot time."""

from __future__ import annotations

import json

import pytest
import torch
from typer.testing import CliRunner

from guidance_core.bench import methods
from guidance_core.commands.app import app
from guidance_core.discovery.shipped import PLUGINS, SHIPPED
from guidance_core.errors import ConfigurationError
from guidance_core.hosts.guiders import ROWS

pytest.importorskip("diffusers")
NAMES = sorted(SHIPPED[PLUGINS])


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(methods, "SHAPES", (((1, 6, 4), torch.bfloat16), ((1, 2, 4, 4), torch.float16)))


@pytest.mark.parametrize("name", NAMES)
def test_every_method_is_timed_beside_its_guider_cfg_and_a_copy(name):
    report = methods.measure(3, [name])
    if name in methods.NOT_TIMED:
        assert report.comparisons == ()
        return
    assert len(report.comparisons) == len(methods.SHAPES) * len(methods.jobs(name))
    timed = [each for each in report.comparisons if "not timed" not in each.extra]
    assert timed, f"give it a stack in guidance_core/bench/methods.py: {report.comparisons[0].extra}"
    for each in timed:
        assert {f"guidance-core {name}", methods.CFG, methods.COPY} <= set(each.medians)
        assert set(each.extra["in copies of the same bytes"]) == set(each.medians) - {methods.COPY}
    guiders = {guider for guider, row in ROWS.items() if row.methods[0] == name}
    told = [" ".join([*each.medians, *each.extra]) for each in timed]
    assert all(any(f"diffusers {guider}" in text for guider in guiders) for text in told if guiders)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in methods.NOT_TIMED])
def test_the_guider_has_settings_at_which_all_of_it_works(name):
    for job in methods.jobs(name):
        _, branches = methods._stack(job.guidance, 3) if job.guider else (None, (1, 2))
        assert len(branches) > 1, f"{job.guidance.to_spec()} runs {', '.join(branches)} only"


def test_the_command_prints_json():
    found = CliRunner().invoke(app, ["bench", "methods", "cfg", "rescale", "--rounds", "3", "--json"])
    assert found.exit_code == 0, found.output
    report = json.loads(found.stdout)
    assert report["benchmark"] == "methods"
    assert len(report["comparisons"]) == 4
    assert all(each["rounds"] == 3 for each in report["comparisons"])


def test_a_method_that_does_not_ship_is_told():
    with pytest.raises(ConfigurationError, match="no method 'cgf' ships"):
        methods.measure(3, ["cgf"])
