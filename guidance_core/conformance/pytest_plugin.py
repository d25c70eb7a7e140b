"""`pytest --guidance-plugin NAME`: the checks of installed plugins as tests, no file needed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from guidance_core.errors import GuidanceError

if TYPE_CHECKING:
    from guidance_core.conformance.testing import BoundCheck


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("guidance", "conformance of guidance plugins")
    group.addoption(
        "--guidance-plugin",
        action="append",
        default=[],
        metavar="NAME",
        help="run the conformance suite on a plugin: its name, or module:Class (repeatable). Without paths on the "
        "command line nothing else is run.",
    )
    group.addoption(
        "--guidance-executor",
        action="append",
        default=[],
        metavar="NAME",
        help="run the conformance suite on an executor: its name, or module:Class (repeatable)",
    )
    group.addoption("--guidance-ranks", type=int, default=4, metavar="N", help="most ranks to use; 0 uses none")
    group.addoption("--guidance-max-examples", type=int, default=20, metavar="N", help="examples for each check")
    group.addoption(
        "--guidance-time-limit", type=float, default=60.0, metavar="S", help="seconds that one check may take"
    )
    group.addoption("--guidance-seed", type=int, default=None, metavar="N", help="seed of the choice of examples")


def _is_asked(config: pytest.Config) -> bool:
    return bool(config.getoption("--guidance-plugin") or config.getoption("--guidance-executor"))


def pytest_configure(config: pytest.Config) -> None:
    """Leave the test files of the folder alone where none is named."""
    if _is_asked(config) and config.args_source is not pytest.Config.ArgsSource.ARGS:
        config.args = []


def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Add an item for each check of each plugin and executor."""
    if not _is_asked(config):
        return
    try:
        from guidance_core.conformance.executor_subject import executor_subject_of
        from guidance_core.conformance.limits import imported_within
        from guidance_core.conformance.lookup import subject_of
        from guidance_core.conformance.options import Options
        from guidance_core.conformance.testing import checks_of

        options = Options(
            max_examples=config.getoption("--guidance-max-examples"),
            ranks=config.getoption("--guidance-ranks"),
            seed=config.getoption("--guidance-seed"),
            time_limit=config.getoption("--guidance-time-limit"),
        )
        bound: list[BoundCheck] = []
        makers: dict[str, Any] = {"--guidance-plugin": subject_of, "--guidance-executor": executor_subject_of}
        for option, make in makers.items():
            for name in config.getoption(option):
                with imported_within(options.time_limit, name):
                    subject = make(name)
                bound += checks_of(subject, options=options)
    except (GuidanceError, ImportError) as error:
        raise pytest.UsageError(str(error)) from None
    items += [ConformanceItem.from_parent(session, name=f"guidance::{each.id}", bound=each) for each in bound]


class ConformanceItem(pytest.Item):
    """One check of one plugin."""

    def __init__(self, *, bound: BoundCheck, **given: Any) -> None:
        super().__init__(**given)
        self.bound = bound

    def runtest(self) -> None:
        """Run the check."""
        self.bound()

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """Show the report without a traceback of the suite."""
        if isinstance(excinfo.value, pytest.fail.Exception):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Any, int | None, str]:
        """Say where it comes from."""
        return "guidance_core.conformance", None, self.name
