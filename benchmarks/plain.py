"""The tutorial's script as its readers have it, which the benchmarks compare with.

Float32, one process, every file decoded again in each epoch, one value fetched in each step.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, random_split
from torchvision import datasets, transforms

from inceptcli.model.inception import InceptionV1

BATCH_SIZE = 32


class Script(InceptionV1):
    """The script's network, the same to the last key; each ReLU where and as the script has it."""

    def __init__(self, classes: int, image_size: int) -> None:
        super().__init__(classes, image_size=image_size, softmax=True)
        for part in self.modules():
            if isinstance(part, nn.ReLU):
                part.inplace = False

    def _stem(self, images: Tensor) -> Tensor:
        x = self.maxpool1(functional.relu(self.conv1(images)))
        x = functional.relu(self.conv3(functional.relu(self.conv2(x))))
        pooled: Tensor = self.maxpool2(x)
        return pooled


def network(classes: int, image_size: int, device: str = "cpu") -> nn.Module:
    """The script's network."""
    return Script(classes, image_size).to(device)


def photographs(folder: Path, image_size: int) -> datasets.ImageFolder:
    """The script's data set."""
    return datasets.ImageFolder(
        str(folder),
        transform=transforms.Compose(
            [
                transforms.Resize((image_size, image_size)),
                transforms.ToTensor(),
                transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
            ]
        ),
    )


def train_epoch(
    loader: DataLoader[tuple[torch.Tensor, torch.Tensor]],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    device: str = "cpu",
) -> float:
    """One epoch; the script's mean of losses by batch."""
    model.train()
    loss_function, total = nn.CrossEntropyLoss(), 0.0
    for images, labels in loader:
        images, labels = images.to(device), labels.to(device)
        loss = loss_function(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item()
    return total / max(1, len(loader))


def evaluate(
    loader: DataLoader[tuple[torch.Tensor, torch.Tensor]], model: nn.Module, device: str = "cpu"
) -> float:
    """The accuracy over a loader."""
    model.eval()
    right, total = 0, 0
    with torch.no_grad():
        for images, labels in loader:
            answers = model(images.to(device)).argmax(1)
            right += int((answers == labels.to(device)).sum().item())
            total += len(labels)
    return right / max(1, total)


def main() -> None:
    """The whole script."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plain", description=__doc__)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--img-size", type=int, default=224)
    options = parser.parse_args()
    every = photographs(options.photos, options.img_size)
    train_count = int(0.8 * len(every))
    train, test = random_split(every, [train_count, len(every) - train_count])
    model = network(len(every.classes), options.img_size)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    for epoch in range(1, options.epochs + 1):
        started = time.perf_counter()
        loss = train_epoch(DataLoader(train, BATCH_SIZE, shuffle=True), model, optimizer)
        accuracy = evaluate(DataLoader(test, BATCH_SIZE), model)
        seconds = time.perf_counter() - started
        print(f"epoch {epoch}: loss {loss:.3f}, accuracy {accuracy:.3f}, {seconds:.1f} s")


if __name__ == "__main__":
    main()
