"""Convert pictures in printing inks (CMYK) to RGB."""

import io
import logging
from typing import Final

from PIL import Image, ImageCms, features

__all__ = ["rgb_from_cmyk"]

logger = logging.getLogger(__name__)

_INKS: Final = b"CMYK"  # color space in the header of a profile (ICC.1:2022, section 7.2.6)


def rgb_from_cmyk(image: Image.Image, name: str) -> tuple[Image.Image, bytes | None]:
    """Convert a picture in inks to sRGB; a line in the log says how.

    Args:
        image: Image in mode CMYK, loaded.
        name: Name of the file in the log.

    Returns:
        The image in mode RGB; and its ICC profile, None if it was converted without one.
    """
    profile = image.info.get("icc_profile")
    if not isinstance(profile, bytes) or profile[16:20] != _INKS:
        reason = "it states no profile"
    elif not features.check("littlecms2"):
        reason = "the installed Pillow reads no profiles"
    else:
        try:
            converted = _by_profile(image, profile)
        except (ImageCms.PyCMSError, OSError, ValueError) as error:
            reason = f"its profile is damaged: {' '.join(str(error).split())}"
        else:
            logger.warning("%s: its CMYK is converted to sRGB by its profile", name)
            return converted, _srgb().tobytes()
    logger.warning("%s: its CMYK is converted as (1 - ink) (1 - black), for %s", name, reason)
    return image.convert("RGB"), None


def _by_profile(image: Image.Image, profile: bytes) -> Image.Image:
    converted = ImageCms.profileToProfile(
        image,
        ImageCms.ImageCmsProfile(io.BytesIO(profile)),
        _srgb(),
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        outputMode="RGB",
        flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )
    assert converted is not None  # it is None for a conversion in place alone
    return converted


def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
