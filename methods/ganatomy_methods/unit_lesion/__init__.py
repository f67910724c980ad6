"""UNIT for lesions, patches around them, and the way back into the image: Gupta et al., MIDL 2019.

It knows the contracts and what methods share, and no other method.
"""

from ganatomy_methods.unit_lesion.method import UnitLesion, UnitLesionConfig

__all__ = ["UnitLesion", "UnitLesionConfig"]
