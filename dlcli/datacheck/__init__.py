"""What a data set holds and what is wrong with it, for `dlcli data`.

Without torch, so that a look at a table does not wait for it. A kind of data has a file here, found by
discovery; what is the same for all kinds is in `targets` and `duplicates`, the order in `checking`.
"""
