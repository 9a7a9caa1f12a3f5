"""Models and data files that a recipe refers to: references, the local cache, downloads."""
