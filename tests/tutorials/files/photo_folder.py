"""A `Dataset` of a folder of photos for each class, with transforms that draw random numbers."""

import os

from PIL import Image
from torch.utils.data import Dataset
from torchvision import transforms


class PhotoDataset(Dataset):
    def __init__(self, root, transform=None):
        self.classes = sorted(os.listdir(root))
        self.samples = [
            (os.path.join(root, name, file), label)
            for label, name in enumerate(self.classes)
            for file in sorted(os.listdir(os.path.join(root, name)))
        ]
        self.transform = transform

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, idx):
        path, label = self.samples[idx]
        image = Image.open(path).convert("RGB")
        if self.transform:
            image = self.transform(image)
        return image, label


def make_splits(root):
    train = transforms.Compose(
        [
            transforms.Resize((16, 16)),
            transforms.RandomHorizontalFlip(),
            transforms.ColorJitter(brightness=0.2),
            transforms.ToTensor(),
            transforms.Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        ]
    )
    valid = transforms.Compose(
        [
            transforms.Resize((16, 16)),
            transforms.ToTensor(),
            transforms.Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        ]
    )
    return {
        "train": PhotoDataset(os.path.join(root, "train"), train),
        "val": PhotoDataset(os.path.join(root, "val"), valid),
    }
