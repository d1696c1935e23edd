"""Train on gigapixel whole-slide images end to end, and see what the model saw."""

__version__ = "0.1.0"
