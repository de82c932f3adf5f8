"""Thin trainers on top of the operators: attacks, methods, models, data, recipes and the loop.

Attacks, methods, models and augmentation need torch alone; what reads data sets or recipes, or
trains, needs the extra ``[train]``, and ``art_attacks`` the extra ``[eval]``.
"""
