"""What a recipe may say: a pydantic model for each section, and the reference generated from them."""
