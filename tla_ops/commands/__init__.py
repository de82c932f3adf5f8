"""The verbs of `tla-ops`: each module adds its options to a parser and runs what they ask for.

What a verb needs is imported when it runs, so that `tla-ops info` and every `--help` work with
torch alone.
"""
