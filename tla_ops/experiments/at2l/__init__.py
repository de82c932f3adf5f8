"""The tables and figures of the AT2L paper."""
