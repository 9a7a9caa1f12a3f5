"""Pretrained language models of three families: masked, causal and seq2seq."""
