"""Images to train on."""

from pathlib import Path

import pytest
from PIL import Image

from tests.stand_in import picture


@pytest.fixture
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of three images, 40 x 40."""
    folder = tmp_path_factory.mktemp("images")
    for salt in "abc":
        Image.fromarray(picture(40, 40, salt)).save(folder / f"{salt}.png")
    return folder
