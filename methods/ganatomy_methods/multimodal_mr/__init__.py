"""Registered MR of several modalities with lesions, from noise and labels: Qu et al., draft of 2019.

It knows the contracts and what methods share, and no other method.
"""

from ganatomy_methods.multimodal_mr.method import MultimodalMR
from ganatomy_methods.multimodal_mr.settings import MultimodalMRConfig

__all__ = ["MultimodalMR", "MultimodalMRConfig"]
