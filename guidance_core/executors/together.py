"""What ranks do together outside their steps: give up what they announced, start a run, tell of a failure."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn

from guidance_core.algebra.digest import PARTS, digest, name_of
from guidance_core.discovery import versions_of
from guidance_core.executors.agreement import Agreement
from guidance_core.executors.base import StartedT
from guidance_core.executors.records import (
    OTHER,
    START,
    Record,
    check_all_well,
    check_same_plan,
    check_same_versions,
    failure,
)
from guidance_core.methods.noise import drawn_together

_VERSIONS = PARTS.index("versions")


def set_aside(agreement: Agreement, instead: str) -> None:
    """Have all ranks give up the step that they announced, if they did, for something else.

    Raises:
        PlanMismatchError: some of them make it.
        GuidanceError: one failed.
    """
    shared = agreement.shared
    announced, shared.announced = shared.announced, None
    if announced is not None:
        identity = announced.identity()
        if identity is not None:
            shared.surprising.add(identity)
        announced.move()
        check_all_well(agreement.exchange(Record(text=instead), OTHER))


def begin_together(
    agreement: Agreement,
    kind: type,
    own_part: Callable[[], int],
    make: Callable[[], StartedT],
    options: Callable[[], Mapping[str, str]] = dict,
) -> StartedT:
    """Start a run on every rank, or on none: an error on one is raised on all.

    Args:
        agreement: of the group.
        kind: class of the executor.
        own_part: returns what stands for the executor's settings.
        make: starts the run.
        options: returns the executor's settings in words, for the error where ranks differ.

    Raises:
        PlanMismatchError: versions, methods, parameters or settings differ.
        ExecutorError: another thread uses the group.
    """
    with agreement.shared.turns.taken():
        set_aside(agreement, "a new run")
        try:
            agreement.shared.turns.check()
        except BaseException as error:
            _raise_shared(agreement, error)
        if agreement.shared.seed is None:
            _draw_seed(agreement, agreement.exchange(Record(inputs=secrets.randbits(62)), START))
        token = drawn_together.set(agreement.shared.seed)
        try:
            run = make()
            identity = run.identity
            methods, sigmas, others, _ = identity.fingerprint
            versions = identity.versions | versions_of([kind])
            number = agreement.shared.begun
            parts = (methods, sigmas, others, digest([versions]), 0, 0, 0, 0, number, own_part())
        except BaseException as error:
            _raise_shared(agreement, error)
        finally:
            drawn_together.reset(token)
        own = Record(parts, (), identity.summary, inputs=secrets.randbits(62))
        records = agreement.exchange(own, START)
        _draw_seed(agreement, records)
        if len({record.fingerprint[_VERSIONS] for record in records}) > 1:
            check_same_versions([json.loads(told) for told in agreement.told_in_full(json.dumps(versions))])
        check_same_plan(
            records,
            lambda: told_by_all(
                agreement, {**identity.details, "run": str(number), "executor": name_of(kind), **options()}
            ),
        )
        agreement.shared.begun += 1
        agreement.shared.numbers[identity] = number
        agreement.raise_interrupt()
        return run


def told_by_all(agreement: Agreement, own: Mapping[str, str]) -> list[dict[str, str]]:
    """Return what every rank says of itself, by name; all ranks must call it."""
    return [json.loads(told) for told in agreement.told_in_full(json.dumps(own))]


def _raise_shared(agreement: Agreement, error: BaseException) -> NoReturn:
    """Raise on all ranks the error that kept this one from starting a run."""
    shared = shared_error(agreement, error, "starting a run", START)
    if shared is error:
        raise error
    raise shared from error


def _draw_seed(agreement: Agreement, records: Sequence[Record]) -> None:
    """Take the first rank's seed for the next run, or raise what a rank failed with."""
    check_all_well(records)
    agreement.shared.seed = records[0].inputs


def shared_error(
    agreement: Agreement, error: BaseException, where: str, phase: int, *, is_late: bool = False
) -> BaseException:
    """Tell the others of an error; return the one that all of them raise, from the one that caused it.

    BaseExceptions such as KeyboardInterrupt are reported to the others and re-raised unchanged.
    """
    told = error
    try:
        check_all_well(agreement.exchange(failure(error, agreement.rank, where, is_late=is_late), phase))
    except Exception as shared:
        if isinstance(error, Exception):
            told = shared
    return agreement.take_interrupt() or told
