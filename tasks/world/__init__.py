"""The built-in world: drawn people, their looks, captions and data sets."""
