"""The science of EMG-UP in plain PyTorch: data, backbones, adaptation methods, evaluation. Imports no Flower."""

__version__ = "0.1.0"
