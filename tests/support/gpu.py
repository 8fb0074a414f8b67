"""Marks the tests that need a GPU."""

from __future__ import annotations

import pytest
import torch

GPU = torch.device("cuda", 0)
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU here")
