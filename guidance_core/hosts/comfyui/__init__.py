"""ComfyUI: a guider for its custom sampling that runs a stack, and nodes that make one.

Modules below import ComfyUI and are imported inside it alone, but for `install`, which writes the custom-node folder.
"""
