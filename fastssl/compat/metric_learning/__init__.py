"""The losses and miners of pytorch-metric-learning that are patched: ``fastssl.compat.pytorch_metric_learning``."""
