"""The code of engines that are not installed: their real modules, out of their wheels, with stand-ins for all others."""
