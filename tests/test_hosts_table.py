"""The table of hosts is what the tests find: passes and ranks to the letter, equality up to rounding."""

from __future__ import annotations

import pytest

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

import host_jobs
import hosts_judged as judge

from guidance_core.bench.hosts import wheels
from guidance_core.bench.hosts.subject import NotInstalledError
from guidance_core.bench.hosts.subjects import SUBJECTS
from guidance_core.hosts.versions import TESTED
from guidance_core.ranks import Ranks

pytestmark = pytest.mark.filterwarnings("ignore")  # of diffusers


@pytest.fixture(scope="module")
def pool():
    with Ranks(2, outlives_failures=True, patience=120, imports=["diffusers", "transformers"]) as ranks:
        yield ranks


def test_the_page_lists_every_host():
    hosts = [row[0] for row in judge.committed()]
    assert hosts == ["diffusers, classic", *(shown.host for shown in judge.SHOWN.values())]
    # classic pipelines have a table of their own
    assert set(judge.SHOWN) == set(host_jobs.HOSTS) - {"stable-diffusion", "wan", "ltx2"}


def test_every_version_of_the_page_is_one_that_was_tested():
    for host, version, *_ in judge.committed():
        name = next(name for name in (*TESTED, "loop") if name in host.replace("vLLM-Omni", "vllm-omni"))
        first, last = TESTED["diffusers" if name == "loop" else name]
        assert f"{version}.".startswith((f"{first}.", f"{last}.")), host


def test_the_row_of_classic_pipelines_sums_up_their_table():
    assert judge.classic() == judge.committed()[0]


@pytest.mark.parametrize("name", judge.SHOWN)
def test_a_row_is_what_is_found(pool, name):
    try:
        found = judge.row(name, pool)
    except NotInstalledError as missing:
        pytest.skip(str(missing))
    rows = {row[0]: row for row in judge.committed()}
    equality = judge.COLUMNS.index("equality")
    expected = rows[found[0]]
    assert found[:equality] == expected[:equality], "run: make table-hosts"
    assert found[equality + 1 :] == expected[equality + 1 :], "run: make table-hosts"
    for text in (found[equality], expected[equality]):  # the last digits are those of a processor
        assert float(text.removeprefix("< ")) <= judge.MOST


def test_a_host_that_is_not_here_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(wheels, "WHEELS", tmp_path)
    monkeypatch.setattr("sys.meta_path", [])
    with pytest.raises(NotInstalledError, match=r"vllm_omni 0.30.0 is not here; `make engines` fetches it"):
        SUBJECTS["vllm-omni"](True)
