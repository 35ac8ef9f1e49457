"""Provides programs that measure speed, scaling, and the errors of estimators."""
