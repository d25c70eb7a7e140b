"""The code of engines that are not installed: real modules out of their wheels, and stand-ins for all others."""
