"""The tables and figures of "Metric Learning for Adversarial Robustness" (TLA, NeurIPS 2019)."""
