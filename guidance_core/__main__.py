"""`python -m guidance_core` is the command `guidance-core`."""

from guidance_core.cli import main

main()
