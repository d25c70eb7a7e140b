"""The versions of diffusers that the pipelines were compared on."""

from __future__ import annotations

import sys

from guidance_core.hosts.versions import UntestedVersionWarning, tell_untested_host

__all__ = ["UntestedVersionWarning", "warn_of_version"]
ADVICE = "Compare a picture made with 'cfg' to one of the pipeline's own guidance."


def warn_of_version() -> None:
    """Warn, once, if another version of diffusers is in use than those that were tested."""
    version = getattr(sys.modules.get("diffusers"), "__version__", None)
    if version is not None:
        tell_untested_host("diffusers", found=version, advice=ADVICE)
