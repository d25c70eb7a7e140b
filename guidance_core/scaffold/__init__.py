"""`guidance-core new`: a complete distribution for your own method, written from templates.

The templates are files of this package with `string.Template` placeholders. What they make is a method
that works, its test, and everything a package needs around it.
"""

from guidance_core.scaffold.library import Library, installed_library, library_from
from guidance_core.scaffold.names import Names, check_name
from guidance_core.scaffold.package import KINDS, LICENSES, Package, new_package, write_package

__all__ = [
    "KINDS",
    "LICENSES",
    "Library",
    "Names",
    "Package",
    "check_name",
    "installed_library",
    "library_from",
    "new_package",
    "write_package",
]
