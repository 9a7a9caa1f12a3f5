"""The tokens for gaps in the texts of T5 and of models that were trained like it."""

SENTINELS = ("<extra_id_0>", "▁<extra_id_0>")
"""The first sentinel, as vocabularies write it."""
SECOND_SENTINELS = ("<extra_id_1>", "▁<extra_id_1>")
"""The second one, which ends the text in the first gap."""
