"""Thin trainers on top of the operators: attacks, methods, models and data.

Only :func:`tla_ops.training.data.digits` needs more than torch (scikit-learn, extra ``[train]``).
"""
