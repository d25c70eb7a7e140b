"""The rooms of the library stand in one order, and a module imports only what lies before it."""

from __future__ import annotations

import graphlib

from rooms import ORDER, PAGE, ROOT, imported, modules, room, with_table


def test_every_module_stands_in_a_room_of_the_order():
    assert {room(module) for module in modules()} == set(ORDER)
    assert sum(path.parent == ROOT for path in modules().values()) <= 14, "too many modules lie flat at the top"


def test_a_module_imports_only_what_lies_before_it():
    wrong = [
        f"{module} imports {other}"
        for module, path in modules().items()
        for other in imported(path)
        if ORDER.index(room(other)) > ORDER.index(room(module))
    ]
    assert not wrong, "\n".join(sorted(wrong))


def test_no_module_imports_itself_through_others():
    graphlib.TopologicalSorter({module: imported(path) - {module} for module, path in modules().items()}).prepare()


def test_the_walk_sees_late_imports_and_those_for_type_checkers(tmp_path):
    file = tmp_path / "module.py"
    file.write_text(
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from guidance_core.run import Run\n"
        "def late():\n    from guidance_core import describe, Guidance\n"
    )
    assert imported(file) == {"guidance_core.run", "guidance_core.describe", "guidance_core"}


def test_the_architecture_page_shows_the_rooms():
    assert PAGE.read_text() == with_table(PAGE.read_text()), "run: python tests/rooms.py --write"
