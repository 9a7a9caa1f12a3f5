"""The steps of a recipe, part by part; `pipelines.fewshot` puts them together."""
