import logging
import pathlib
import sys

import pytest
import torch

sys.path.insert(0, str(pathlib.Path(__file__).parent))
torch.set_num_threads(1)
logging.getLogger("diffusers").setLevel(logging.ERROR)


@pytest.fixture
def folder(tmp_path):
    return tmp_path
