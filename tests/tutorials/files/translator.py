"""An encoder and a decoder of GRUs that translate numbers in words into digits."""

import itertools

from torch import nn
from torch.utils.data import Dataset

WORDS = {"one": "1", "two": "2", "three": "3", "four": "4"}


class NumbersInWords(Dataset):
    def __init__(self, longest=3):
        self.pairs = [
            (" ".join(words), " ".join(WORDS[word] for word in words))
            for length in range(1, longest + 1)
            for words in itertools.product(WORDS, repeat=length)
        ]

    def __len__(self):
        return len(self.pairs)

    def __getitem__(self, idx):
        return self.pairs[idx]


class Encoder(nn.Module):
    def __init__(self, vocab_size, hidden_size):
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, hidden_size, padding_idx=0)
        self.gru = nn.GRU(hidden_size, hidden_size, batch_first=True)

    def forward(self, source, lengths):
        outputs, _ = self.gru(self.embedding(source))
        last = (lengths - 1)[:, None, None].expand(-1, 1, outputs.size(2))
        return outputs.gather(1, last).transpose(0, 1)


class Decoder(nn.Module):
    def __init__(self, vocab_size, hidden_size):
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, hidden_size, padding_idx=0)
        self.gru = nn.GRU(hidden_size, hidden_size, batch_first=True)
        self.out = nn.Linear(hidden_size, vocab_size)

    def forward(self, prefix, hidden):
        outputs, _ = self.gru(self.embedding(prefix), hidden)
        return self.out(outputs)


class Seq2Seq(nn.Module):
    def __init__(self, src_vocab_size, tgt_vocab_size, hidden_size=32):
        super().__init__()
        self.encoder = Encoder(src_vocab_size, hidden_size)
        self.decoder = Decoder(tgt_vocab_size, hidden_size)

    def forward(self, source, lengths, prefix):
        return self.decoder(prefix, self.encoder(source, lengths))
