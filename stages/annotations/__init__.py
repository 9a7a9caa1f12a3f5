"""Token labels and answer spans: their texts, what reads them off hidden states, and how well."""
