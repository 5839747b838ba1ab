"""A `Dataset` over the rows of a CSV file, and a small network that predicts its last column."""

import csv

import torch
from torch import nn
from torch.utils.data import Dataset


class HousesDataset(Dataset):
    def __init__(self, csv_file):
        with open(csv_file, newline="") as file:
            header, *rows = csv.reader(file)
        values = torch.tensor([[float(cell) for cell in row] for row in rows])
        self.columns = header[:-1]
        self.features, self.prices = values[:, :-1], values[:, -1]

    def __len__(self):
        return len(self.prices)

    def __getitem__(self, idx):
        return self.features[idx], self.prices[idx]


class PriceNet(nn.Module):
    def __init__(self, num_features, hidden=16):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(num_features, hidden), nn.ReLU(), nn.Linear(hidden, 1))

    def forward(self, x):
        return self.layers(x)
