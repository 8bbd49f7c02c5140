"""inceptcli: a folder of photographs becomes a trained Inception v1 classifier."""

__version__ = "0.1.0"
