"""The next byte of the Python interpreter's own library sources, from the ten before."""

import hashlib
import sysconfig
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

CONTEXT, EMBEDDING = 10, 16


class Text(NamedTuple):
    """Bytes to train on (``[n] uint8``), contexts (``[m, CONTEXT]``) and answers (``[m]``) held out, int64; sha256."""

    train: torch.Tensor
    contexts: torch.Tensor
    answers: torch.Tensor
    digest: str


def read_text() -> Text:
    """Read the sources of the standard library without tests; every tenth file is held out."""
    root = Path(sysconfig.get_path("stdlib"))
    folders = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
    files = [file for file in sorted(root.rglob("*.py")) if not folders & set(file.relative_to(root).parts)]
    texts = [file.read_bytes() for file in files]
    held_out, train = b"".join(texts[::10]), b"".join(text for i, text in enumerate(texts) if i % 10)
    digest = hashlib.sha256(train + held_out).hexdigest()
    start = torch.randint(len(held_out) - CONTEXT, (16_384,), generator=torch.Generator().manual_seed(0))
    train_on, held = (torch.frombuffer(bytearray(text), dtype=torch.uint8) for text in (train, held_out))
    return Text(train_on, *windows(held, start), digest)


def windows(text: torch.Tensor, start: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the contexts that begin at `start` (``[m] int64``) and the byte after each."""
    return text[start[:, None] + torch.arange(CONTEXT)].long(), text[start + CONTEXT].long()


def network(hidden: int) -> nn.Module:
    """Make the network: 4,352 + 417 x `hidden` parameters."""
    layers = nn.Linear(CONTEXT * EMBEDDING, hidden), nn.ReLU(), nn.Linear(hidden, 256)
    return nn.Sequential(nn.Embedding(256, EMBEDDING), nn.Flatten(), *layers)
