"""A small network of scikit-learn's digits as exported program, and what else is called .pt2."""

import sys

import numpy as np
import torch
from torch import nn

with np.load(sys.argv[1]) as data:
    pictures, numbers = data["input"].reshape(-1, 1, 8, 8) / 16, data["label"]
np.savez("digits.npz", input=pictures, label=numbers)
torch.manual_seed(0)
torch.set_num_threads(1)
model = nn.Sequential(
    nn.Conv2d(1, 8, 3),
    nn.BatchNorm2d(8),
    nn.ReLU(),
    nn.MaxPool2d(2),
    nn.Flatten(),
    nn.Linear(72, 10),
)
inputs, labels = torch.from_numpy(pictures), torch.from_numpy(numbers)
optimizer = torch.optim.Adam(model.parameters(), 0.01)
for _ in range(40):
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(inputs), labels).backward()
    optimizer.step()
model.eval()


class Unusual(nn.Module):
    """Of an operator that ONNX does not have."""

    def forward(self, x):
        return torch.special.i1e(x)


batch = {0: torch.export.Dim("batch")}
programs = {
    "cnn": (model, inputs[:2], batch),
    "one": (model, inputs[:1], None),
    "fixed": (model, inputs[:2], None),
    "unusual": (Unusual(), torch.zeros(2, 4), batch),
}
for name, (module, example, dynamic) in programs.items():
    shapes = None if dynamic is None else (dynamic,)
    torch.export.save(torch.export.export(module, (example,), dynamic_shapes=shapes), f"{name}.pt2")
torch.jit.save(torch.jit.trace(model, inputs[:2]), "torchscript.pt2")
torch.save(model, "pickled.pt2")
torch.save(model.state_dict(), "weights.pt2")
