"""`python -m guidance_core` is the command `guidance-core`."""

from guidance_core.commands import main

if __name__ == "__main__":  # a rank that the command starts imports this module again
    main()
