"""The token for a gap in the texts of T5 and of models that were trained like it."""

SENTINELS = ("<extra_id_0>", "▁<extra_id_0>")
"""The first sentinel, as vocabularies write it."""
