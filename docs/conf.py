"""How Sphinx makes the site. `make docs` runs it; a warning is an error there."""

from __future__ import annotations

import re
import sys
from pathlib import Path

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS))

from _pages import write  # noqa: E402
from _pages.links import with_links  # noqa: E402
from _pages.mathml import typeset  # noqa: E402
from _pages.methods import shipped  # noqa: E402

from guidance_core.version import __version__  # noqa: E402

project = "guidance-core"
copyright = "the authors of guidance-core"
release = version = __version__
language = "en"

extensions = ["myst_parser"]
myst_enable_extensions = ["attrs_block", "attrs_inline", "colon_fence", "dollarmath", "fieldlist"]
myst_heading_anchors = 4
smartquotes = False  # which would make one dash of the two before an option
source_suffix = {".md": "markdown"}
exclude_patterns = ["_*", "examples", *(f"gallery/{info.name}.md" for info in shipped())]  # those are parts of pages

add_module_names = False
python_maximum_signature_line_length = 88
python_use_unqualified_type_names = True
toc_object_entries_show_parents = "hide"
highlight_language = "text"

html_theme = "furo"
html_title = "guidance-core"
html_logo = html_favicon = "_static/logo.svg"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_js_files = ["copy.js"]
html_copy_source = False
html_show_sphinx = False
html_math_renderer = "mathml"
html_theme_options = {"navigation_with_keys": True}


def as_read(app, name, source):
    """Read a fence such as `{.python .no-run}`, which GitHub and the tests know, as one of that language; add links."""
    source[0] = with_links(name, source[0])
    source[0] = re.sub(r"^(`{3,})\{\.(\w+)[^}\n]*\}$", r"\1\2", source[0], flags=re.MULTILINE)


def setup(app):
    """Write the pages that are generated, and have formulas typeset without a script."""
    write(DOCS)
    app.add_html_math_renderer("mathml", (typeset, None), (typeset, None))
    app.connect("source-read", as_read)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
