"""A user's function in a file beside the script goes to workers that have no such file."""

import pickle
import sys
import threading

import pytest
import torch

from hvdspark import Network
from hvdspark.errors import ConfigurationError, ModelError
from hvdspark.masters import Parcel, PortableFunction


def test_it_travels_by_value(tmp_path, monkeypatch):
    (tmp_path / "beside_the_script.py").write_text("FACTOR = 3\ndef decode(data):\n    return [len(data) * FACTOR]\n")
    monkeypatch.syspath_prepend(tmp_path)
    import beside_the_script

    portable = PortableFunction(beside_the_script.decode, "decode")
    assert portable(b"ab") == [6]
    data = pickle.dumps(portable)
    monkeypatch.delitem(sys.modules, "beside_the_script")
    monkeypatch.undo()
    assert pickle.loads(data)(b"abc") == [9]
    assert pickle.dumps(portable) == data, "what a process makes of it stays there"


def test_what_cannot_travel_is_refused_by_name():
    with pytest.raises(ConfigurationError, match="loader: a function is needed, this is a int"):
        PortableFunction(3, "loader")
    lock = threading.Lock()
    with pytest.raises(ConfigurationError, match="decode cannot travel to the workers: TypeError"):
        PortableFunction(lambda data: lock.locked(), "decode")


LOCK = threading.Lock()


class Locked(torch.nn.Linear):
    """Its code, which travels, names something that cannot."""

    def forward(self, x):
        with LOCK:
            return super().forward(x)


def test_a_module_whose_code_cannot_travel_is_told():
    network = Network(Locked(2, 2), torch.nn.MSELoss(), torch.optim.SGD)
    with pytest.raises(ModelError, match=r"Network cannot travel to the workers: TypeError: .*lock"):
        Parcel(network, "auto")
