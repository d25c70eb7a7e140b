"""The only pass of a step may run on every rank, so that nothing is sent in it."""

from __future__ import annotations

import single_jobs as jobs
import torch

MIXED = "cfg:scale=3,interval:lo=0.5,hi=0.9"
"Steps of one, two, two, one and one pass."


def test_the_only_pass_runs_on_every_rank_and_nothing_is_sent(ranks):
    for name in ("all_gather", "all_reduce"):
        for spec, passes in ((MIXED, [1, 2, 2, 1, 1]), ("cfg:scale=1", [1] * 5)):
            wanted, calls, _ = jobs.generated("serial", spec)
            assert calls == passes
            for control in (True, False):
                made = ranks.run(jobs.on_ranks, name, spec, control, None, ranks=2)
                for x, own_calls, errors, collectives in made:
                    assert torch.equal(x, wanted) if name == "all_gather" else torch.allclose(x, wanted, atol=1e-6)
                    assert own_calls == [1] * 5
                    assert not errors
                    assert collectives == passes.count(2)
                assert torch.equal(made[0][0], made[1][0])


def test_a_failure_in_it_is_one_error_on_all_ranks(ranks):
    for name in ("all_gather", "all_reduce"):
        for fails_at in (0, 3, 4):
            made = ranks.run(jobs.on_ranks, name, MIXED, True, fails_at, ranks=3)
            errors = {tuple(errors) for _, _, errors, _ in made}
            assert len(errors) == 1
            assert "rank 1" in (text := errors.pop()[0])
            assert "no memory" in text
            assert len({tuple(x.flatten().tolist()) for x, *_ in made}) == 1


def test_the_description_says_so(ranks):
    assert all("the only pass of a step runs on every rank" in text for text in ranks.run(jobs.described, ranks=2))
