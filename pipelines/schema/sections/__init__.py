"""One pydantic model per section of a recipe."""
